"""Standard errors and intervals against scipy, resampling and figures worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.evaluate import statistics

bits = st.lists(st.integers(0, 1), min_size=1, max_size=60)


@given(bits)
def test_proportion_is_scipys_wilson(passed):
    found = statistics.proportion(passed)
    low, high = stats.binomtest(sum(passed), len(passed)).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.stderr == pytest.approx(np.std(passed) / math.sqrt(len(passed)))


def test_proportion_by_hand():
    # 15 of 20: Wilson's interval as tabulated (Newcombe, 1998, method 3)
    found = statistics.proportion([1] * 15 + [0] * 5)
    assert (round(found.low, 4), round(found.high, 4), round(found.stderr, 4)) == (0.5313, 0.8881, 0.0968)


def test_ratio_equals_the_mean_for_equal_denominators():
    values = [2.0, 3.0, 7.0, 1.5]
    found = statistics.ratio(values, [1.0] * 4)
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(stats.sem(values))


def test_ratio_error_agrees_with_the_bootstrap():
    random = np.random.default_rng(0)
    size = random.uniform(100, 1000, 200)
    nats = size * random.normal(2.0, 0.3, 200)
    found = statistics.ratio(nats.tolist(), size.tolist())
    picks = random.integers(0, 200, (4000, 200))
    resampled = nats[picks].sum(1) / size[picks].sum(1)
    assert found.stderr == pytest.approx(resampled.std(), rel=0.06)


def test_paired_difference_by_hand():
    # Agresti and Min: 6 gained, 1 lost of 20; (6.5 - 1.5) / 22 shrunken
    found = statistics.paired_difference([1] * 6 + [0] + [1] * 13, [0] * 6 + [1] + [1] * 13)
    assert found.value == pytest.approx(5 / 20)
    assert found.stderr == pytest.approx(math.sqrt(8 - 25 / 22) / 22)
    assert (found.low + found.high) / 2 == pytest.approx(5 / 22)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_paired_difference_is_antisymmetric_and_never_certain(pairs):
    one, other = zip(*pairs)
    there, back = statistics.paired_difference(one, other), statistics.paired_difference(other, one)
    assert there.value == -back.value and there.stderr == back.stderr > 0
    assert there.low <= there.value <= there.high


def test_paired_error_covers():
    random, hits = np.random.default_rng(1), 0
    for _ in range(400):
        one, other = random.random(40) < 0.7, random.random(40) < 0.4
        found = statistics.paired_difference(one.astype(int), other.astype(int))
        hits += found.low <= 0.3 <= found.high
    assert 0.92 <= hits / 400 <= 0.985


def test_errors_above():
    assert statistics.errors_above(statistics.proportion([1] * 10), 0.5) == pytest.approx(0.5 / math.sqrt(0.25 / 10))
    assert statistics.errors_above(statistics.proportion([0] * 10), 0.0) == 0
    # all of 30 against nothing: Wilson's half width at 1 is (1 - 30 / (30 + z^2)) / 2
    z2 = statistics.Z95**2
    assert statistics.errors_above(statistics.proportion([1] * 30), 0.0) == pytest.approx(
        2 * statistics.Z95 / (1 - 30 / (30 + z2)))
    assert statistics.errors_above(statistics.proportion([1, 0]), 0.5) == 0


@pytest.mark.parametrize("wrong", [lambda: statistics.proportion([]), lambda: statistics.proportion([0.5]),
                                   lambda: statistics.ratio([], []), lambda: statistics.ratio([1.0], [0.0]),
                                   lambda: statistics.paired_difference([1], [])])
def test_bad_input(wrong):
    with pytest.raises(ValueError):
        wrong()
