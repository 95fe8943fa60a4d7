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

import numpy as np
import psutil
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.tokenizer import pack, shards
from tasks.tokenizer.train import TokenizerParams, learn

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "tokens": 60 * 128, "sequence": 32, "batch": 4, "optimizer": "muon", "matrix_rate": 0.02, "rate": 0.005,
    "momentum": 0.95, "weight_decay": 0.0, "clip": 1.0, "warmup": 0.1, "decay": 0.5, "precision": "bf16",
    "zero_stage": 0, "score_steps": 20, "score_tokens": 200, "checkpoint_steps": 6,
    "patience": 3, "watch": {"spike": 12.0, "rollbacks": 2}, "must_beat": []}
DOMAINS = ("code", "knowledge")
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
        about = [{"language": "en", "domain": DOMAINS[i % 2]} for i in range(len(part))]
        path.write_text("".join(json.dumps({"text": t, "id": f"{i:03d}", "metadata": about[i]}) + "\n"
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
    said, _ = process.communicate(timeout=3000)
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
    assert list(rows[0]) == ["step", "tokens", "train_loss", "held_out_bpb", "grad_norm", "rate",
                             "bpb_en_code", "bpb_en_knowledge"]
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert float(rows[-1]["held_out_bpb"]) < float(rows[0]["held_out_bpb"])
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    assert [float(row["rate"]) for row in rows] == pytest.approx([1, 21 / 30, 1 / 30], abs=1e-5)  # 6 up, 30 down of 60


def test_tensorboard_shows_the_curve_and_the_steps_between(clean):
    events = EventAccumulator(str(clean / ".runtime/tensorboard/t"), size_guidance={"scalars": 0})
    events.Reload()
    with (clean / "metrics/t.csv").open() as file:
        rows = list(csv.DictReader(file))
    for tag, column in (("held_out/bpb", "held_out_bpb"), ("held_out/bpb_en_code", "bpb_en_code")):
        assert [(one.step, one.value) for one in events.Scalars(tag)] == [
            (int(row["step"]), pytest.approx(float(row[column]), abs=1e-5)) for row in rows]
    looked = {one.step: one.value for one in events.Scalars("train/grad_norm")}
    assert sorted(looked) == sorted({*range(6, 61, 6), 20, 40, 60})
    means = [np.mean([looked[step] for step in looked if low < step <= low + 20]) for low in (0, 20, 40)]
    assert [float(row["grad_norm"]) for row in rows] == pytest.approx(means, rel=1e-4)


def test_bits_per_byte_by_kind_make_up_the_whole(clean):
    metrics = json.loads((clean / "metrics/t.json").read_text())
    for kind in ("language", "domain", "source"):
        rows = [row for row in metrics["by_kind"] if row["by"] == kind]
        assert sum(row["documents"] for row in rows) == 2
        for of, whole in (("held_out_bpb", metrics["held_out_bpb"]), ("bigram", metrics["baselines_bpb"]["bigram"])):
            assert sum(row[of] * row["bytes"] for row in rows) / metrics["held_out"]["bytes"] == pytest.approx(
                whole, abs=2e-5)
    assert [row["name"] for row in metrics["by_kind"]] == ["en", "code", "knowledge", "unknown"]


def test_a_run_without_gain_ends_early_with_the_weights_of_its_best_point(packed, tmp_path):
    rising = {"rate": 0.5, "matrix_rate": 1.0, "decay": 0.0, "warmup": 0.2, "score_steps": 2, "patience": 2,
              "tokens": 40 * 128, "watch": {"spike": 1000.0, "rollbacks": 0}}
    folder = workspace(tmp_path / "w", run=rising)
    code, said = finish(folder, packed)
    assert code == 0, said
    metrics = json.loads((folder / "metrics/t.json").read_text())
    with (folder / "metrics/t.csv").open() as file:
        scores = {int(row["step"]): float(row["held_out_bpb"]) for row in csv.DictReader(file)}
    best = min(scores, key=scores.get)
    assert metrics["kept_step"] == best and metrics["steps"] == max(scores) == best + 4 < 40
    assert metrics["tokens"] == metrics["steps"] * 128
    assert abs(metrics["held_out_bpb"] - scores[best]) < abs(metrics["held_out_bpb"] - scores[metrics["steps"]])


def test_patience_is_refused_where_no_rank_has_all_weights(packed, tmp_path):
    line = error_of(workspace(tmp_path / "w", run={"zero_stage": 3}), packed, code=2)
    assert "tracks.t.pretrain" in line and "zero_stage at most 2" in line


def test_seconds_are_kept_apart_and_the_checkpoints_are_gone(clean):
    timing = json.loads((clean / ".runtime/timing/pretrain-t.json").read_text())
    assert timing["tokens_per_second"] > 0 and timing["resumed_at_step"] == 0
    flops = json.loads((clean / "metrics/t.json").read_text())["flops"] / (60 * 128)
    assert timing["tflops_per_rank"] == pytest.approx(timing["tokens_per_second_per_rank"] * flops / 1e12)
    assert timing["mfu"] == pytest.approx(timing["tflops_per_rank"] / timing["ceiling_tflops"])
    assert 0 < timing["mfu"] < 1 and timing["ceiling"] == "measured bf16 product, 1 threads"
    assert timing["peak_host_mib"] > 200 and 0 <= timing["data_wait"] < 1
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


def of_two_ranks(folder, **run):
    """A workspace whose runs the launcher starts as two ranks here."""
    (folder.parent / "hosts").write_text("localhost slots=2\n")
    return workspace(folder, run={"precision": "fp32"} | run, runtime={"hostfile": str(folder.parent / "hosts")})


def same_losses(one, other):
    """The training losses of two runs' curves, no two points of a run alike, are the same within 0.02 nats."""
    with (one / "metrics/t.csv").open() as mine, (other / "metrics/t.csv").open() as theirs:
        pairs = [(float(a["train_loss"]), float(b["train_loss"])) for a, b in
                 zip(csv.DictReader(mine), csv.DictReader(theirs), strict=True)]
    assert len({b for _, b in pairs}) == len(pairs) > 2
    assert all(a == pytest.approx(b, abs=0.02) for a, b in pairs), pairs


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
    said, _ = process.communicate(timeout=3000)
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


def test_killed_on_one_rank_it_goes_on_on_two_with_the_same_batches(two, packed, tmp_path):
    folder = workspace(tmp_path / "moved", run={"precision": "fp32"})
    process = with_a_checkpoint(folder, packed)
    process.kill()
    process.communicate()
    code, said = finish(of_two_ranks(folder), packed)
    assert code == 0 and "which 1 ranks wrote: on 2 with the same batches" in said, said
    same_losses(folder, two)


def test_two_ranks_that_share_each_sequence_learn_the_same(two, packed, tmp_path):
    code, said = finish(of_two_ranks(tmp_path / "ulysses", sequence_parallel=2), packed)
    assert code == 0, said
    same_losses(tmp_path / "ulysses", two)


@pytest.fixture(scope="module")
def alone(packed, tmp_path_factory):
    """A function that builds runs in this process, the only rank: name, then what differs from RUN in fp32 with AdamW.
    For the module's last tests, all in the one process group that DeepSpeed knows in a process."""
    from tasks import params
    from tasks.model import ModelParams
    from tasks.pretrain import loop, parallel
    from tasks.pretrain.settings import PretrainParams

    home, patch = tmp_path_factory.mktemp("alone"), pytest.MonkeyPatch()
    values = yaml.safe_load((workspace(home / "w") / "params.yaml").read_text())
    runtime = params.section(params.Runtime, "runtime", values)
    for name in ("TORCH_EXTENSIONS_DIR", "DS_ACCELERATOR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT",
                 "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        patch.setenv(name, os.environ.get(name, ""))
    patch.delenv("RANK")
    patch.chdir(home)
    parallel.environment(runtime)

    def build(name, **changes):
        return loop.Run(loop.Job(
            packed=packed / "packed", tokenizer=packed / "tokenizer", directory=home / "d", curve=home / "c",
            result=home / "r", resume=home / name, name=name, model=ModelParams(**SHAPE), seed=7,
            pretrain=PretrainParams(**RUN | {"precision": "fp32", "optimizer": "adamw"} | changes),
            runtime=runtime), 0, 1)

    with parallel.ranks(runtime):
        yield build
    torch.use_deterministic_algorithms(False)
    patch.undo()


def test_parts_of_a_batch_recomputing_and_offload_change_no_loss(alone):
    def losses(name, **changes):
        run = alone(name, **changes)
        return [float(run.step(step, timed=False)) for step in range(5)]

    plain = losses("plain")
    assert plain[-1] < plain[0] - 0.05
    for name, changes in {"parts": {"micro_batch": 1}, "recompute": {"recompute": True},
                          "zero": {"zero_stage": 1, "micro_batch": 2, "recompute": True},
                          "offload": {"zero_stage": 2, "offload": True}}.items():
        assert losses(name, **changes) == pytest.approx(plain, abs=1e-3), name


@pytest.mark.parametrize("zero", [1, 2])
def test_the_universal_form_of_a_zero_checkpoint_goes_on_as_the_run_itself(alone, zero):
    from tasks.pretrain import universal

    one = alone(f"one-{zero}", zero_stage=zero)
    for step in range(4):
        one.step(step, timed=False)
    one.looked = one.filled = 0
    one.save(4)
    one.settle()
    wanted = [float(one.step(step, timed=False)) for step in (4, 5, 6)]
    other = alone(f"other-{zero}", zero_stage=zero)
    folder, progress = one.checkpoints.latest(print)
    assert progress["ranks"] == 1 and universal.load(other.engine, folder, "adamw", 0)
    assert [float(other.step(step, timed=False)) for step in (4, 5, 6)] == pytest.approx(wanted, abs=1e-5)
    assert [path.name for path in folder.parent.glob("*step*")] == ["step-000000004"]


def test_what_the_universal_form_cannot_hold_is_refused(tmp_path):
    from tasks.pretrain import universal
    from tasks.stage import StageError

    with pytest.raises(StageError, match="pretrain.optimizer = muon goes on with the same number only"):
        universal.load(None, tmp_path, "muon", 0)
    with pytest.raises(StageError, match="cannot be converted"):
        universal.convert(tmp_path / "none", tmp_path / "out")
