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


def test_clusters_of_equal_items_count_once():
    # 30 documents of 5 equal items: the error is that of 30 items, not of 150
    random = np.random.default_rng(2)
    documents = random.integers(0, 2, 30).tolist()
    passed, sources = np.repeat(documents, 5).tolist(), np.repeat(np.arange(30), 5).tolist()
    found, alone = statistics.clustered(passed, sources), statistics.proportion(documents)
    assert found.value == alone.value and found.n == 150
    assert found.stderr == pytest.approx(alone.stderr * math.sqrt(30 / 29), rel=0.06)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.015)
    assert statistics.clustered(passed, sources) == found, "seeded"


def test_clusters_of_one_item_and_of_none_right_are_plain():
    passed = [1, 0, 1, 1, 0, 1, 1, 0, 1, 1] * 6
    assert statistics.bootstrapped(passed, range(60)) == pytest.approx(statistics.proportion(passed).stderr, rel=0.06)
    assert statistics.clustered([0] * 8, "aabbccdd") == statistics.proportion([0] * 8)
    assert statistics.bootstrapped([1, 0, 1], "aaa") == 0


def test_clustered_interval_covers():
    random, hits = np.random.default_rng(3), 0
    for _ in range(300):
        rates = random.beta(1, 1, 20)
        passed = (random.random((20, 6)) < rates[:, None]).astype(int)
        found = statistics.clustered(passed.ravel().tolist(), np.repeat(np.arange(20), 6).tolist())
        hits += found.low <= 0.5 <= found.high
    assert 0.91 <= hits / 300 <= 0.99


def test_paired_differences_of_clusters_are_no_surer_than_of_items():
    one, other = [1] * 12 + [0] * 12, [0] * 12 + [0] * 12
    plain, by_document = (statistics.paired_difference(one, other, *clusters)
                          for clusters in ([], [np.repeat(np.arange(4), 6).tolist()]))
    assert by_document.value == plain.value and by_document.stderr > 2 * plain.stderr


def test_detectable_has_80_percent_power():
    error = 0.03
    true = statistics.detectable(error)
    found = np.random.default_rng(4).normal(true, error, 20_000)
    assert (np.abs(found) > statistics.Z95 * error).mean() == pytest.approx(0.8, abs=0.01)
    # Miller's worked size: 80 % power for 3 points between two models of independent errors needs about 4,350 items
    half = statistics.proportion([0, 1] * 2175)
    assert statistics.detectable_by(half) == pytest.approx(0.03, abs=0.0005)


def test_area_is_mann_whitneys():
    random = np.random.default_rng(5)
    above, below = random.normal(1, 1, 40).round(1), random.normal(0, 1, 50).round(1)
    found = statistics.area(above.tolist(), below.tolist())
    assert found.value == pytest.approx(stats.mannwhitneyu(above, below).statistic / 2000)
    # Hanley and McNeil (1982), table II: area .85 of 30 and 30 has an error of about .0496
    assert found.low < found.value < found.high and 0.03 < found.stderr < 0.06
    with pytest.raises(ValueError):
        statistics.area([], [1])


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
                                   lambda: statistics.paired_difference([1], []),
                                   lambda: statistics.clustered([1, 0], ["a"]),
                                   lambda: statistics.bootstrapped([], [])])
def test_bad_input(wrong):
    with pytest.raises(ValueError):
        wrong()
