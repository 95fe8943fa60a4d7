"""The fit finds a law it was given, and the committed runs give the committed numbers and those in use."""

import numpy as np
import pytest

from benchmarks import scaling, scaling_fit
from tasks.pretrain.scaling import Law
from tasks.pretrain import scaling as used
from tasks.stage import StageError


@pytest.fixture(scope="module")
def found():
    return scaling_fit.load(scaling_fit.RESULT)


def made(law, off=0.0, seed=1):
    weights, tokens = np.meshgrid([3e5, 6e5, 1.2e6, 3e6], [1.3e5, 2.6e5, 1e6, 4e6])
    noise = np.random.default_rng(seed).normal(0, off, weights.size)
    return weights.ravel(), tokens.ravel(), law.bits(weights, tokens).ravel() * np.exp(noise)


def test_a_law_is_found_again():
    law = Law(floor=1.1, by_weights=150.0, alpha=0.5, by_tokens=60.0, beta=0.35)
    weights, tokens, bits = made(law)
    again = scaling_fit.fit(weights, tokens, bits)
    assert (again.floor, again.alpha, again.beta) == pytest.approx((1.1, 0.5, 0.35), rel=0.02)
    assert again.bits(1e7, 1e7) == pytest.approx(law.bits(1e7, 1e7), rel=0.005)


def test_one_run_that_went_wrong_moves_it_little():
    law = Law(floor=1.1, by_weights=150.0, alpha=0.5, by_tokens=60.0, beta=0.35)
    weights, tokens, bits = made(law, 0.002)
    bits[5] *= 1.2
    assert scaling_fit.fit(weights, tokens, bits).bits(3e6, 4e6) == pytest.approx(law.bits(3e6, 4e6), rel=0.01)


def test_the_best_value_is_the_parabolas_vertex():
    values = [0.01, 0.02, 0.04]
    bits = [2 + (np.log2(v / 0.025)) ** 2 for v in values]
    assert scaling_fit.best(values, bits) == (pytest.approx(0.025), pytest.approx(2.0))
    assert scaling_fit.best(values, [1.0, 2.0, 3.0]) == (0.01, 1.0)  # no neighbour below: the least tried


def test_the_committed_runs_are_the_grid_and_give_the_committed_law(found):
    asked = [run for run in scaling.grid() if not any(
        all(other.get(name) == value for name, value in run.items()) for other in found["runs"])]
    assert not asked and len({run["size"] for run in scaling_fit.plain(found)}) >= 5
    again = scaling_fit.fit(*scaling_fit.columns(scaling_fit.plain(found)))
    assert vars(again) == pytest.approx(found["law"], rel=0.02)


def test_what_is_in_use_is_what_was_fitted(found):
    assert vars(used.LAW) == pytest.approx(found["law"], rel=1e-3)
    assert found["error"]["fitted"] < used.ERROR
    left_out = [*found["error"]["size_left_out"].values(), *found["error"]["budget_left_out"].values()]
    assert max(left_out) == pytest.approx(used.ERROR, abs=0.0005)
    assert (used.SECONDS_PER_TOKEN, used.SECONDS_PER_FLOP) == (
        found["pace"]["seconds_per_token"], found["pace"]["seconds_per_flop"])


def test_runs_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(StageError, match=r"runs.jsonl is not there: python -m benchmarks.scaling makes it"):
        scaling_fit.read(tmp_path / "runs.jsonl")
