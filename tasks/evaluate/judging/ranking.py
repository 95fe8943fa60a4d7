"""Bradley-Terry strengths from verdicts on pairs, with bootstrap intervals that draw whole questions.

The fit is evalica's (Bradley and Terry, 1952, by Newman's iteration, 2023); a tie is half a win for each. Every two
contestants that met are given PRIOR of a tie more, so that one who always won has a finite strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PRIOR = 1.0         # of a tie: half a win and half a loss
RESAMPLES = 400
LEVEL = 0.95
OUTCOMES = ("one", "other", "tie")


@dataclass(frozen=True)
class Comparison:
    """A verdict between two contestants on a question: `outcome` is `one`, `other` or `tie`."""

    question: str
    one: str
    other: str
    outcome: str


def strengths(comparisons: Sequence[Comparison], names: Sequence[str], weights: Sequence[float]) -> np.ndarray:
    """float64 [names]: log strength of each, mean zero. `weights`: how often each comparison counts."""
    from evalica import Winner, bradley_terry

    met = sorted({tuple(sorted((one.one, one.other))) for one in comparisons})
    winners = {"one": Winner.X, "other": Winner.Y, "tie": Winner.Draw}
    found = bradley_terry([*(one.one for one in comparisons), *(pair[0] for pair in met)],
                          [*(one.other for one in comparisons), *(pair[1] for pair in met)],
                          [*(winners[one.outcome] for one in comparisons), *[Winner.Draw] * len(met)],
                          weights=[*weights, *[PRIOR] * len(met)], tolerance=1e-8, limit=10_000).scores
    logs = np.log(found.reindex(list(names)).to_numpy(np.float64))
    return logs - logs.mean()


def ranked(comparisons: Sequence[Comparison], names: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
    """name -> its strength, interval, rank, interval of the rank, and wins, ties and losses, the strongest first.

    Raises ValueError where a contestant met nobody.
    """
    if lost := [name for name in names if not any(name in (one.one, one.other) for one in comparisons)]:
        raise ValueError(f"{lost[0]} was compared with nobody")
    value = strengths(comparisons, names, [1.0] * len(comparisons))
    questions = sorted({one.question for one in comparisons})
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(questions), [1 / len(questions)] * len(questions), RESAMPLES)
    place = {question: at for at, question in enumerate(questions)}
    samples = np.stack([strengths(comparisons, names, [float(times[place[one.question]]) for one in comparisons])
                        for times in drawn])
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    bounds = np.quantile(samples, edges, axis=0)
    ranks = 1 + (samples[:, None, :] > samples[:, :, None] + 1e-9).sum(-1)
    places = np.quantile(ranks, edges, axis=0, method="closest_observation")
    table = {}
    for rank, at in enumerate(np.argsort(-value, kind="stable"), 1):
        name = names[at]
        own = [result(one, name) for one in comparisons if name in (one.one, one.other)]
        table[name] = {"strength": round(float(value[at]), 4), "low": round(float(bounds[0, at]), 4),
                       "high": round(float(bounds[1, at]), 4), "rank": rank, "rank_low": int(places[0, at]),
                       "rank_high": int(places[1, at]), "n": len(own)} | {
                           kind: own.count(kind) for kind in ("won", "tied", "lost")}
    return table


def result(comparison: Comparison, name: str) -> str:
    """`won`, `tied` or `lost`, as `name` sees it."""
    if comparison.outcome == "tie":
        return "tied"
    return "won" if (comparison.outcome == "one") == (comparison.one == name) else "lost"
