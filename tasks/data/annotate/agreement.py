"""How far two annotators agree: Cohen's kappa with a bootstrap interval, per cent, confusion, agreement by label.

Kappa (Cohen 1960) is (po - pe) / (1 - pe): the agreement po beyond the pe that the two annotators' own label shares
would give by chance. It is undefined where both used one and the same label throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 10  # items; of fewer the resamples are too much alike to span anything


def confusion(first: Sequence[str], second: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """int64 [labels, labels]: rows are the first annotator's labels, columns the second's, of the same items."""
    place = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), np.int64)
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    return table


def kappas(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each confusion table, [..., labels, labels] -> float64 [...]; nan where it is undefined."""
    n = tables.sum((-2, -1), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = np.trace(tables, axis1=-2, axis2=-1) / n
        chance = (tables.sum(-1) * tables.sum(-2)).sum(-1) / n ** 2
        return np.where(chance < 1, (seen - chance) / (1 - chance), np.nan)


def interval(table: np.ndarray, seed: int) -> list[float] | None:
    """The percentile bootstrap interval of kappa at LEVEL (Efron 1979), items drawn with replacement; None for less
    than FEWEST items, or where too few resamples have a kappa."""
    n = int(table.sum())
    if n < FEWEST:
        return None
    drawn = np.random.default_rng(seed).multinomial(n, table.ravel() / n, RESAMPLES)
    found = kappas(drawn.reshape(RESAMPLES, *table.shape))
    found = found[~np.isnan(found)]
    if len(found) < RESAMPLES / 2:
        return None
    return [round(float(edge), 4) for edge in np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def agreement(first: Mapping[str, str], second: Mapping[str, str], labels: Sequence[str], seed: int) -> dict[str, Any]:
    """All of it for two annotators' item -> label, over the items that both labelled.

    `kappa` and `interval` are None where undefined; `labels` gives each label's counts and its positive agreement,
    2 both / (first + second) (Cicchetti & Feinstein 1990), None where neither used it.
    """
    both = sorted(first.keys() & second.keys())
    table = confusion([first[item] for item in both], [second[item] for item in both], labels)
    value = float(kappas(table)) if both else float("nan")
    rows, columns, same = table.sum(1), table.sum(0), table.diagonal()
    return {
        "items": len(both), "only_first": len(first) - len(both), "only_second": len(second) - len(both),
        "agree": int(same.sum()), "share": round(float(same.sum() / len(both)), 4) if both else None,
        "kappa": None if np.isnan(value) else round(value, 4), "interval": interval(table, seed),
        "confusion": table.tolist(),
        "labels": [{"label": label, "first": int(rows[at]), "second": int(columns[at]), "both": int(same[at]),
                    "agreement": round(float(2 * same[at] / (rows[at] + columns[at])), 4)
                    if rows[at] + columns[at] else None} for at, label in enumerate(labels)],
    }


def disagreements(first: Mapping[str, str], second: Mapping[str, str], order: Sequence[str]) -> list[str]:
    """The items that both labelled and not alike, in `order`."""
    return [item for item in order if item in first and item in second and first[item] != second[item]]
