"""How sure a score is: standard errors and intervals of proportions, ratios and paired differences.

Items that come from one document rise and fall together: their errors are bootstrapped by document, seeded. All else
is closed-form. Where the textbook error of a proportion would be zero (none or all passed) the interval is Wilson's and
the error of a paired difference is Agresti and Min's, which never are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054     # normal quantile of 0.975
Z80 = 0.8416212335729143    # and of 0.8: the power that a comparison should have
RESAMPLES = 2000            # of documents; the error of a bootstrapped error is then 1.6 %


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; `low`, `high`: a 95 % interval; `n`: items it rests on."""

    value: float
    stderr: float
    low: float
    high: float
    n: int

    def as_dict(self, digits: int = 6) -> dict[str, float | int]:
        """The estimate as rounded JSON values."""
        return {"value": round(self.value, digits), "stderr": round(self.stderr, digits),
                "low": round(self.low, digits), "high": round(self.high, digits), "n": self.n}


def proportion(passed: Sequence[float]) -> Estimate:
    """The pass rate of items scored 0 or 1, its binomial standard error and Wilson's 95 % interval (Wilson, 1927).

    Raises ValueError without items or with a score that is neither 0 nor 1.
    """
    n = len(passed)
    if n == 0 or any(score not in (0, 1) for score in passed):
        raise ValueError("a proportion needs at least one item, each scored 0 or 1")
    p = sum(passed) / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    # the bounds at none and all are 0 and 1 exactly; floating point would miss them by a hair
    return Estimate(p, math.sqrt(p * (1 - p) / n), 0.0 if p == 0 else centre - half,
                    1.0 if p == 1 else centre + half, n)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """sum(numerators) / sum(denominators) over independent items (bits over bytes of documents), with the error of
    the ratio estimator (Cochran, Sampling Techniques, 1977, 6.4). One item has no error to tell: it is reported as 0.

    Raises ValueError without items or where the denominators are not positive.
    """
    n = len(numerators)
    if n == 0 or n != len(denominators) or min(denominators) <= 0:
        raise ValueError("a ratio needs as many numerators as positive denominators, at least one")
    total = math.fsum(denominators)
    value = math.fsum(numerators) / total
    squares = math.fsum((x - value * y) ** 2 for x, y in zip(numerators, denominators))
    error = math.sqrt(n / (n - 1) * squares) / total if n > 1 else 0.0
    return Estimate(value, error, value - Z95 * error, value + Z95 * error, n)


def clustered(passed: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The pass rate of items scored 0 or 1 that come in clusters (documents): its error by the cluster bootstrap
    (Cameron, Gelbach and Miller, 2008), never below the binomial one, since few clusters of like items understate it
    (Miller, arXiv:2411.00640, 2.2); Wilson's interval of as many independent items as have that error (Korn and
    Graubard, 1998). Raises ValueError as `proportion` does, or where an item has no cluster.
    """
    plain = proportion(passed)
    error = max(plain.stderr, bootstrapped(passed, clusters))
    if error == plain.stderr:
        return plain
    effective = plain.value * (1 - plain.value) / error**2
    centre = (plain.value + Z95**2 / (2 * effective)) / (1 + Z95**2 / effective)
    half = Z95 / (1 + Z95**2 / effective) * math.sqrt(error**2 + Z95**2 / (4 * effective * effective))
    return Estimate(plain.value, error, centre - half, centre + half, plain.n)


def bootstrapped(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean of `values` when whole clusters are drawn again, with replacement; seeded by nothing
    but the data's own order. Few clusters draw too little spread: the factor clusters / (clusters - 1) mends the
    variance. 0.0 for one cluster. Raises ValueError where values and clusters are not as many."""
    if len(values) != len(clusters) or not len(values):
        raise ValueError("a clustered error needs the cluster of each item, at least one")
    _, member = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
    sums, sizes = np.bincount(member, np.asarray(values, float)), np.bincount(member)
    count = len(sizes)
    if count == 1:
        return 0.0
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    return float(means.std() * math.sqrt(count / (count - 1)))


def detectable(error: float) -> float:
    """The smallest true difference that a two-sided 5 % test shows with 80 % power, given the standard error of the
    difference (Miller, arXiv:2411.00640, 5; Cohen, 1988)."""
    return (Z95 + Z80) * error


def detectable_by(estimate: Estimate) -> float:
    """The smallest difference to another model's pass rate on the same items that they can show with 80 % power, were
    the two models right and wrong independently; models that agree (most do) show less, see `paired_difference`."""
    return min(1.0, detectable(math.sqrt(2) * spread(estimate)))


def spread(estimate: Estimate) -> float:
    """The error of a proportion that is above zero even where none or all passed: half its interval, in errors."""
    return (estimate.high - estimate.low) / (2 * Z95)


def paired_difference(one: Sequence[float], other: Sequence[float], clusters: Sequence[Hashable] | None = None
                      ) -> Estimate:
    """Pass rate of `one` minus that of `other` on the same items, scored 0 or 1 each.

    The standard error adds half an item to each cell of the 2x2 table (Agresti and Min, 2005), so it is above zero
    even where every pair agrees; the interval is centred on their shrunken difference. With `clusters` (the document
    of each item) the error is that of the cluster bootstrap where that is larger. Raises ValueError on no or unpaired
    items.
    """
    n = len(one)
    if n == 0 or n != len(other):
        raise ValueError("a paired difference needs two scores of each item")
    gained = sum(a > b for a, b in zip(one, other))
    lost = sum(a < b for a, b in zip(one, other))
    total, b, c = n + 2, gained + 0.5, lost + 0.5
    shrunken = (b - c) / total
    error = math.sqrt((b + c - (b - c) ** 2 / total)) / total
    if clusters is not None:
        error = max(error, bootstrapped([a - b for a, b in zip(one, other)], clusters))
    return Estimate((gained - lost) / n, error, max(-1.0, shrunken - Z95 * error),
                    min(1.0, shrunken + Z95 * error), n)


def errors_above(estimate: Estimate, baseline: float) -> float:
    """How many standard errors a proportion lies above `baseline`. The error is the larger of Wilson's (half the
    interval, above zero even where none or all passed) and that of the baseline itself on as many items."""
    return (estimate.value - baseline) / max(spread(estimate), math.sqrt(baseline * (1 - baseline) / estimate.n))


def area(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Area under the ROC curve: the chance that a value of `above` exceeds one of `below`, ties half (Mann and Whitney,
    1947), with Hanley and McNeil's error (1982). `n`: values of both. Raises ValueError where a side is empty."""
    m, n = len(above), len(below)
    if not m or not n:
        raise ValueError("an area under the curve needs values on both sides")
    one, other = np.asarray(above, float)[:, None], np.asarray(below, float)[None, :]
    value = float(((one > other) + 0.5 * (one == other)).mean())
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    error = math.sqrt((value * (1 - value) + (m - 1) * (first - value**2) + (n - 1) * (second - value**2)) / (m * n))
    return Estimate(value, error, max(0.0, value - Z95 * error), min(1.0, value + Z95 * error), m + n)
