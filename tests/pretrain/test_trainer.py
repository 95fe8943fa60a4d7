"""The pretrain stage as a user runs it: whole runs of a very small model in processes of their own."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from keyword import kwlist
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.tokenizer import pack, shards
from tasks.tokenizer.train import TokenizerParams, learn

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "tokens": 60 * 128, "sequence": 32, "batch": 4, "optimizer": "muon", "matrix_rate": 0.02, "rate": 0.005,
    "momentum": 0.95, "weight_decay": 0.0, "clip": 1.0, "warmup": 0.1, "decay": 0.5, "precision": "bf16",
    "zero_stage": 0, "score_steps": 20, "score_tokens": 200, "checkpoint_steps": 6,
    "watch": {"spike": 12.0, "rollbacks": 2}, "must_beat": []}
SHAPE = {"base": None, "hidden": 64, "intermediate": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32,
         "positions": 64, "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed corpus of counting sentences, made by the tokenizer and pack stages' own functions."""
    home = tmp_path_factory.mktemp("packed")
    texts = [" ".join(f"row {i} follows {kwlist[i % 35]} and {kwlist[i * 3 % 35]} is its rest,"
                      for i in range(n, n + 60)) for n in range(0, 3000, 60)]
    learn(texts, TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000), 64).save_pretrained(
        home / "tokenizer")
    (home / "corpus").mkdir()
    held_out = [text[:300] for text in texts[-2:]]
    for path, part in ((home / "corpus" / "0.jsonl", texts[:-2]), (home / "held_out.jsonl", held_out)):
        path.write_text("".join(json.dumps({"text": t, "id": f"{i:03d}", "metadata": {}}) + "\n"
                                for i, t in enumerate(part)))
    pack.pack(home / "corpus", home / "held_out.jsonl", home / "tokenizer", home / "packed", home / "m.json",
              pack=pack.PackParams(batch_documents=9), seed=1)
    return home


def workspace(folder, run=(), shape=(), runtime=()):
    """A params.yaml in `folder` with the values above changed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": 7, "model": SHAPE | dict(shape), "tracks": {"t": {"pretrain": RUN | dict(run)}},
               "runtime": values["runtime"] | {"threads": 1, "device": "cpu", "hostfile": None} | dict(runtime)}
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(folder, packed):
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.pretrain.trainer", packed / "packed", packed / "tokenizer", "models/t/base",
         "metrics/t.json", "metrics/t.csv", "--track", "t"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def finish(folder, packed):
    process = start(folder, packed)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def produced(folder):
    """Every published byte, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for top in ("models", "metrics")
            for p in sorted((folder / top).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def clean(packed, tmp_path_factory):
    """An undisturbed run."""
    folder = workspace(tmp_path_factory.mktemp("clean"))
    code, said = finish(folder, packed)
    assert code == 0, said
    return folder


def test_the_model_learnt_and_its_score_is_the_one_transformers_gives(clean, packed):
    metrics = json.loads((clean / "metrics/t.json").read_text())
    held_out = shards.open_stream(packed / "packed", "held_out")
    model = AutoModelForCausalLM.from_pretrained(clean / "models/t/base").eval()
    tokenizer = AutoTokenizer.from_pretrained(clean / "models/t/base")
    assert tokenizer.chat_template and len(tokenizer) == 300 == model.config.vocab_size
    bits = 0.0
    for document in held_out.documents():  # one token at a time, its context cut out by hand
        for place in range(1, len(document)):
            first = 0 if place <= 32 else 16 * -(-(place - 32) // 16)
            context = torch.tensor(document[first:place].astype("int64"))[None]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = model(context).logits[0, -1].float()
            bits -= float(logits.log_softmax(-1)[int(document[place])]) / 0.6931471805599453
    assert metrics["held_out_bpb"] == pytest.approx(bits / held_out.index[:, 1].sum(), abs=0.01)
    assert metrics["held_out_bpb"] < metrics["baselines_bpb"]["unigram"]
    assert metrics["tokens"] == 60 * 128 and metrics["held_out"]["bytes"] == held_out.index[:, 1].sum()


def test_the_curve_falls_and_holds_no_seconds(clean):
    with (clean / "metrics/t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "tokens", "train_loss", "held_out_bpb"]
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert float(rows[-1]["held_out_bpb"]) < float(rows[0]["held_out_bpb"])
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_seconds_are_kept_apart_and_the_checkpoints_are_gone(clean):
    timing = json.loads((clean / ".runtime/timing/pretrain-t.json").read_text())
    assert timing["tokens_per_second"] > 0 and timing["resumed_at_step"] == 0
    assert list((clean / ".resume/pretrain-t").iterdir()) == []


def with_a_checkpoint(folder, packed):
    """A run that has just left its first checkpoint."""
    process = start(folder, packed)
    while not list(folder.glob(".resume/pretrain-t/*/step-*[0-9]")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    return process


def test_killed_and_run_again_it_ends_in_the_same_bytes(clean, packed, tmp_path):
    folder = workspace(tmp_path / "killed")
    process = with_a_checkpoint(folder, packed)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (folder / "models/t/base").exists()
    (left := folder / "models/t").mkdir(parents=True, exist_ok=True)
    for path in left.iterdir():  # the killed process's hidden sibling
        assert path.name.startswith(".base.partial-")
    code, said = finish(folder, packed)
    assert code == 0 and "resumed at step" in said
    assert json.loads((folder / ".runtime/timing/pretrain-t.json").read_text())["resumed_at_step"] > 0
    assert {k: v for k, v in produced(folder).items() if "/." not in k} == produced(clean)


def of_two_ranks(folder):
    """A workspace whose runs the launcher starts as two ranks here."""
    (folder.parent / "hosts").write_text("localhost slots=2\n")
    return workspace(folder, run={"precision": "fp32"}, runtime={"hostfile": str(folder.parent / "hosts")})


@pytest.fixture(scope="module")
def two(packed, tmp_path_factory):
    """An undisturbed run of two ranks."""
    folder = of_two_ranks(tmp_path_factory.mktemp("ranks") / "two")
    code, said = finish(folder, packed)
    assert code == 0, said
    return folder


def test_two_ranks_by_the_launcher_learn_the_same(clean, two):
    one, other = (json.loads((folder / "metrics/t.json").read_text()) for folder in (clean, two))
    assert other["ranks"] == 2 and other["tokens"] == one["tokens"]
    assert other["held_out_bpb"] == pytest.approx(one["held_out_bpb"], abs=0.05)


def test_a_rank_that_dies_is_launched_again_and_the_run_ends_in_the_same_bytes(two, packed, tmp_path):
    folder = of_two_ranks(tmp_path / "killed")
    process = with_a_checkpoint(folder, packed)
    ranks = [one for one in psutil.Process(process.pid).children(recursive=True) if "--local_rank=1" in one.cmdline()
             or one.environ().get("RANK") == "1"]
    ranks[-1].kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "launched again from step-" in said and "resumed at step" in said, said
    assert {k: v for k, v in produced(folder).items() if "/." not in k} == produced(two)


def error_of(folder, packed, code=1):
    found, said = finish(folder, packed)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert found == code and len(lines) == 1, said
    assert not (folder / "models/t/base").exists()
    return lines[0]


def test_a_corrupt_shard_is_one_line(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "copy")
    data = bytearray((tmp_path / "copy/packed/train.bin").read_bytes())
    data[100] ^= 4
    (tmp_path / "copy/packed/train.bin").write_bytes(data)
    assert "train.bin is corrupt" in error_of(workspace(tmp_path / "w"), tmp_path / "copy")


def test_another_tokenizer_is_refused_before_training(packed, tmp_path):
    learn([" ".join(kwlist)] * 2, TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000),
          64).save_pretrained(tmp_path / "other/tokenizer")
    (tmp_path / "other/packed").symlink_to(packed / "packed")
    assert "packed with another tokenizer" in error_of(workspace(tmp_path / "w"), tmp_path / "other")


def test_a_base_with_broken_weights_is_refused(packed, tmp_path, clean):
    model = AutoModelForCausalLM.from_pretrained(clean / "models/t/base")
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path / "base")
    line = error_of(workspace(tmp_path / "w", shape={"base": str(tmp_path / "base")}), packed)
    assert "model.norm.weight holds values that are not finite" in line


def test_an_unknown_key_is_named(packed, tmp_path):
    line = error_of(workspace(tmp_path / "w", run={"learning_rate": 1}), packed, code=2)
    assert "tracks.t.pretrain.learning_rate" in line and "no such key" in line


def test_a_baseline_that_is_not_beaten_stops_the_chain_and_keeps_the_work(packed, tmp_path):
    folder = workspace(tmp_path / "w", run={"tokens": 128, "must_beat": ["xz_after_train"]})
    assert "are not below the xz_after_train's" in error_of(folder, packed)
    workspace(tmp_path / "w", run={"tokens": 128})
    code, said = finish(folder, packed)
    assert code == 0 and "resumed at step 1 " in said
