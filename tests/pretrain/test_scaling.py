"""The law by hand, the count of weights against the model built, what the rules fill in and what they leave alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import dial, params
from tasks.model import ModelParams
from tasks.pretrain import model as models, scaling
from tasks.pretrain.settings import PretrainParams

ROOT = Path(__file__).resolve().parents[2]
RUN = {"tokens": None, "sequence": 256, "batch": None, "optimizer": "muon", "matrix_rate": None, "rate": None,
       "momentum": 0.95, "weight_decay": 0.0, "clip": 1.0, "warmup": 0.02, "decay": 0.5, "precision": "bf16",
       "zero_stage": 0, "score_steps": 250, "score_tokens": 16384, "checkpoint_steps": 250,
       "watch": {"spike": 12.0, "rollbacks": 3}, "must_beat": []}


def sized(depth, **other):
    return ModelParams(base=None, size=depth, positions=512, rope_theta=10000.0, **other)


def test_the_law_by_hand():
    law = scaling.Law(floor=1.0, by_weights=100.0, alpha=0.5, by_tokens=3000.0, beta=0.5)
    assert law.bits(1e4, 1e6) == pytest.approx(1 + 1 + 3)
    assert law.bits(np.array([1e4, 1e6]), 9e6) == pytest.approx([1 + 1 + 1, 1 + 0.1 + 1])


def test_the_weights_and_flops_are_those_of_the_model_built():
    shape = sized(3, intermediate=128)
    built = models.scratch(shape, 300, seed=1)
    assert scaling.weights(shape, 300) == models.parameters(built)
    assert scaling.flops(shape, 300, 32) == models.flops_per_token(built, 32)


def test_the_rules_fill_in_what_is_null_and_nothing_else():
    run, shape = PretrainParams(**RUN), sized(4)
    found = scaling.settle(run, shape, 4096)
    # 4096 x 128 embeddings; a layer: 2 x 128 x 64 x (2 + 1), 3 x 128 x 320, two norms; four layers, a norm
    assert scaling.weights(shape, 4096) == 524_288 + 4 * (49_152 + 122_880 + 256) + 128 == 1_213_568
    assert (found.tokens, found.batch, found.matrix_rate, found.rate) == (4 * 1_213_568, 4, 0.02, 0.02)
    given = PretrainParams(**RUN | {"tokens": 7, "rate": 0.5})
    kept = scaling.settle(given, shape, 4096)
    assert (kept.tokens, kept.rate, kept.batch) == (7, 0.5, found.batch) and kept.model_dump(
        exclude=set(scaling.RULES)) == run.model_dump(exclude=set(scaling.RULES))


def test_how_long_a_base_is_trained_on_is_for_the_user_to_say():
    based = sized(6).model_copy(update={"base": "models/x"})
    with pytest.raises(params.ParamsError, match="pretrain.tokens = null, and model.base = models/x: .* give a number"):
        scaling.settle(PretrainParams(**RUN), based, 4096)
    assert scaling.settle(PretrainParams(**RUN | {"tokens": 7}), based, 4096).tokens == 7


def test_the_default_run_is_the_dials_but_for_its_tokens():
    values = params.load(ROOT / "params.yaml")
    shape = params.section(ModelParams, "model", values)
    run = scaling.settle(params.section(PretrainParams, "tracks.scratch.pretrain", values), shape, 4096)
    assert (shape.layers, shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim) == (
        6, 192, 512, 3, 1, 64)
    assert (run.tokens, run.batch, run.matrix_rate, run.rate) == (2_000_000, 4, 0.02, 0.02)


def command(*words):
    return subprocess.run([sys.executable, "-m", "tasks.pretrain.scaling", *words], cwd=ROOT, capture_output=True,
                          text=True)


def test_it_says_what_a_size_means():
    done = command("6", "--tokens", "2000000")
    assert done.returncode == 0, done.stderr
    row = dict(zip(*(line.split() for line in done.stdout.replace("CPU min", "minutes").splitlines()[:2])))
    shape = sized(6)
    assert (row["layers"], row["width"], row["heads"], row["kv"], row["inner"]) == ("6", "192", "3", "1", "512")
    assert row["weights"] == "3.15M" and row["tokens"] == "2.0M" and row["steps"] == "1954"
    assert float(row["TFLOP"]) == pytest.approx(44.88, abs=0.06)  # metrics/pretrain counted 4.4877e13
    assert float(row["bpb"]) == pytest.approx(scaling.LAW.bits(scaling.weights(shape, 4096), 2000896), abs=0.001)


@pytest.mark.parametrize("words, said", (
    (("0",), "model.size = 0"), (("1000",), "model.size = 1000"), (("six",), "model.size = 'six'"),
    (("-3",), "model.size = -3"), (("6", "--tokens", "0"), "pretrain.tokens = 0")))
def test_a_wrong_size_is_one_line(words, said):
    done = command(*words)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_every_size_of_the_dial_can_be_spoken_of():
    run = PretrainParams(**RUN)
    rows = [scaling.meaning(sized(depth), run, 4096) for depth in range(1, dial.DEEPEST + 1)]
    assert all(0 < row.bits < 8 and row.cpu_seconds > 0 and row.run.steps() > 0 for row in rows)
    widths = [row.shape.hidden for row in rows]
    assert widths == sorted(widths) and widths[-1] == 4096
