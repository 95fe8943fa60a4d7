"""How sure a score is: standard errors and intervals of proportions, ratios and paired differences.

Everything is closed-form and deterministic. Where the textbook error of a proportion would be zero (none or all
passed) the interval is Wilson's and the error of a paired difference is Agresti and Min's, which never are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054     # normal quantile of 0.975


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


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """Pass rate of `one` minus that of `other` on the same items, scored 0 or 1 each.

    The standard error adds half an item to each cell of the 2x2 table (Agresti and Min, 2005), so it is above zero
    even where every pair agrees; the interval is centred on their shrunken difference. Raises ValueError on no or
    unpaired items.
    """
    n = len(one)
    if n == 0 or n != len(other):
        raise ValueError("a paired difference needs two scores of each item")
    gained = sum(a > b for a, b in zip(one, other))
    lost = sum(a < b for a, b in zip(one, other))
    total, b, c = n + 2, gained + 0.5, lost + 0.5
    shrunken = (b - c) / total
    error = math.sqrt((b + c - (b - c) ** 2 / total)) / total
    return Estimate((gained - lost) / n, error, max(-1.0, shrunken - Z95 * error),
                    min(1.0, shrunken + Z95 * error), n)


def errors_above(estimate: Estimate, baseline: float) -> float:
    """How many standard errors a proportion lies above `baseline`. The error is the larger of Wilson's (half the
    interval, above zero even where none or all passed) and that of the baseline itself on as many items."""
    error = (estimate.high - estimate.low) / (2 * Z95)
    return (estimate.value - baseline) / max(error, math.sqrt(baseline * (1 - baseline) / estimate.n))
