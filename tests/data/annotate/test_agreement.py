"""Kappa against scikit-learn and against figures worked out in print; the interval covers what it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tasks.data.annotate import agreement

LABELS = ("a", "b", "c")


def from_table(table):
    """Two annotators whose confusion table is `table`."""
    pairs = [(LABELS[i], LABELS[j]) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return ({str(n): one for n, (one, _) in enumerate(pairs)}, {str(n): other for n, (_, other) in enumerate(pairs)})


@pytest.mark.parametrize(("table", "kappa", "share"), [
    ([[20, 5, 0], [10, 15, 0], [0, 0, 0]], 0.4, 0.7),              # po = .7, pe = .5
    ([[45, 15, 0], [25, 15, 0], [0, 0, 0]], 0.1304, 0.6),          # po = .6, pe = .54
    ([[25, 35, 0], [5, 35, 0], [0, 0, 0]], 0.2593, 0.6),           # po = .6, pe = .46
    ([[10, 0, 0], [0, 10, 0], [0, 0, 10]], 1.0, 1.0),
    ([[0, 10, 0], [10, 0, 0], [0, 0, 0]], -1.0, 0.0),
])
def test_golden_values(table, kappa, share):
    found = agreement.agreement(*from_table(table), LABELS, 0)
    assert (found["kappa"], found["share"], found["confusion"]) == (kappa, share, table)
    assert found["items"] == np.sum(table) and found["agree"] == np.trace(table)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore")
def test_as_scikit_learn_has_it(pairs):
    first, second = zip(*pairs, strict=True)
    expected = cohen_kappa_score(first, second, labels=list(LABELS))
    table = agreement.confusion(first, second, LABELS)
    np.testing.assert_allclose(agreement.kappas(table), expected, atol=1e-12)
    np.testing.assert_allclose(agreement.kappas(np.stack([table, table.T])), [expected] * 2, atol=1e-12)


def test_undefined_empty_and_partial():
    same = agreement.agreement(dict.fromkeys("xyz", "a"), dict.fromkeys("xyz", "a"), LABELS, 0)
    assert same["kappa"] is None and same["interval"] is None and same["share"] == 1.0
    none = agreement.agreement({"x": "a"}, {"y": "a"}, LABELS, 0)
    assert (none["items"], none["share"], none["kappa"], none["only_first"], none["only_second"]) == (0, None, None, 1, 1)
    part = agreement.agreement({"x": "a", "y": "b"}, {"y": "c", "x": "a", "z": "c"}, LABELS, 0)
    assert part["items"] == 2 and part["only_second"] == 1
    by = {row["label"]: row for row in part["labels"]}
    assert by["a"] == {"label": "a", "first": 1, "second": 1, "both": 1, "agreement": 1.0}
    assert by["b"]["agreement"] == 0.0 and by["c"]["second"] == 1


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """200 draws of 120 items from a known joint distribution: 95 % intervals hold its kappa in most of them."""
    joint = np.array([[.4, .1, .0], [.05, .2, .05], [.0, .05, .15]])
    truth = float(agreement.kappas(joint))
    draw = np.random.default_rng(5)
    held = 0
    for number in range(200):
        low, high = agreement.interval(draw.multinomial(120, joint.ravel()).reshape(3, 3), number)
        held += low <= truth <= high
    assert 178 <= held <= 199
    table = np.array([[20, 5, 0], [10, 15, 0], [0, 0, 0]])
    assert agreement.interval(table, 1) == agreement.interval(table, 1) != agreement.interval(table, 2)


def test_disagreements_in_the_items_order():
    assert agreement.disagreements({"x": "a", "y": "a", "z": "a"}, {"x": "b", "y": "a", "z": "c", "w": "a"},
                                   ["w", "z", "y", "x"]) == ["z", "x"]
