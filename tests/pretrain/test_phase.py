"""A length phase as a user runs it, and the profile that makes phases stages of the chain."""

import json
import os
import subprocess
import sys
from keyword import kwlist
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, AutoTokenizer

from flows import workspace
from flows.scale import work
from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import model as models
from tasks.tokenizer import pack
from tasks.tokenizer.train import TokenizerParams, learn

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"base": None, "hidden": 64, "intermediate": 64, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 32,
         "positions": 32, "rope_theta": 10000.0}
RUN = {"tokens": 12 * 256, "sequence": 64, "batch": 4, "within_documents": True, "score_steps": 6,
       "checkpoint_steps": 100, "score_tokens": 200, "must_beat": []}


@pytest.fixture(scope="module")
def values():
    """The values of the profile's workspace."""
    return workspace.overlay(params.load(ROOT / "params.yaml"), workspace.read_profile(ROOT / "profiles/phases.yaml"),
                             "phases")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, packed, and a base of 32 positions that knows nothing yet."""
    home = tmp_path_factory.mktemp("phase")
    texts = [" ".join(f"row {i} follows {kwlist[i % 35]} and {kwlist[i * 3 % 35]} is its rest,"
                      for i in range(n, n + 40)) for n in range(0, 800, 40)]
    tokenizer = learn(texts, TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000), 32)
    tokenizer.save_pretrained(home / "tokenizer")
    (home / "corpus").mkdir()
    for path, part in ((home / "corpus/0.jsonl", texts[:-2]), (home / "held_out.jsonl", texts[-2:])):
        path.write_text("".join(json.dumps({"text": t, "id": f"{i:03d}", "metadata": {}}) + "\n"
                                for i, t in enumerate(part)))
    pack.pack(home / "corpus", home / "held_out.jsonl", home / "tokenizer", home / "packed", home / "pack.json",
              pack=pack.PackParams(batch_documents=9), seed=1)
    models.build(ModelParams(**SHAPE), tokenizer, seed=1).save_pretrained(home / "short/base")
    return home


def run(home, folder, values):
    """The exit code and what the phase said, in a folder of its own."""
    folder.mkdir()
    own = {"extend": {"positions": 64, "rope_theta": 50000.0}, "pretrain": values["phases"]["long"]["pretrain"] | RUN}
    runtime = values["runtime"] | {"threads": 1, "device": "cpu", "hostfile": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(
        {"seed": 7, "model": SHAPE, "tracks": {}, "phases": {"long": own}, "runtime": runtime}))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.pretrain.phase", home / "short/base", home / "packed", home / "tokenizer",
         "models/long/base", "metrics/long.json", "metrics/long.csv", "--track", "long"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def test_a_phase_trains_a_base_on_at_another_length_and_says_what_it_was_before(home, values, tmp_path):
    code, said = run(home, tmp_path / "w", values)
    assert code == 0, said
    made = tmp_path / "w/models/long/base"
    config = AutoConfig.from_pretrained(made)
    assert config.max_position_embeddings == AutoTokenizer.from_pretrained(made).model_max_length == 64
    assert config.rope_parameters["rope_theta"] == 50000.0
    told = json.loads((tmp_path / "w/metrics/long.json").read_text())
    assert told["held_out_bpb"] < told["base_held_out_bpb"] - 0.1 and told["base"] == str(home / "short/base")


def test_the_profiles_phases_follow_one_another_as_stages(values):
    parents = {stage.name: stage.parents for stage in work.stages(ROOT, values)}
    assert {"pretrain@scratch", "phase_pack@long"} < set(parents["phase@long"])
    assert {"phase@long", "phase_pack@best"} < set(parents["phase@best"])
    assert "phase@best" in parents["evaluate@best-base"]
    assert not any(name.startswith("phase") for name in
                   (stage.name for stage in work.stages(ROOT, params.load(ROOT / "params.yaml"))))
