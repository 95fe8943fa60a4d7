"""What a judge is worth: its verdicts on pairs whose better answer is known, and on people's; its biases in numbers.

A judge may rank only where its verdicts on the known pairs agree with the truth above chance: Cohen's kappa above zero
and an exact one-sided sign test over the decided pairs, at ALPHA divided by the number of methods tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.data.annotate.agreement import agreement
from tasks.evaluate import statistics
from tasks.evaluate.judging.methods import Verdict
from tasks.evaluate.judging.questions import REPEATED, Pair

ALPHA = 0.05
LABELS = ("left", "right", "tie")
Judged = Sequence[tuple[Pair, Verdict]]


def sign_test(right: int, wrong: int) -> float:
    """The probability that a fair coin is right at least so often (exact binomial, one-sided); 1 without a verdict."""
    n = right + wrong
    return sum(math.comb(n, k) for k in range(right, n + 1)) / 2 ** n


def agrees(judged: Judged, truth: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Agreement of verdicts with another's labels of the same pairs (by id): kappa with a bootstrap interval, share.

    A reply that could not be read counts as a tie, which is wrong where the other has a side.
    """
    ours = {pair.id: verdict.label or "tie" for pair, verdict in judged}
    found = agreement(ours, truth, LABELS, seed)
    both = ours.keys() & truth.keys()
    right = sum(ours[one] == truth[one] != "tie" for one in both)
    wrong = sum({ours[one], truth[one]} == {"left", "right"} for one in both)
    return {"n": found["items"], "kappa": found["kappa"], "interval": found["interval"], "right": right,
            "wrong": wrong, "tie": found["items"] - right - wrong, "p": round(sign_test(right, wrong), 6)}


def calibrated(judged: Judged, methods: int, seed: int) -> dict[str, Any]:
    """All that is known of one method's verdicts on the known pairs of one language.

    `above_chance`: whether it may rank. `kinds`: right of all, by kind. `swap`: share of pairs on which both orders
    say the same; `first`: how often the first place won of the orders decided (a half without bias); `lean`: mean nats
    for it; `said_twice`: how often an answer said twice was preferred to itself. None where a method has no such thing.
    """
    known = [(pair, verdict) for pair, verdict in judged if pair.kind != REPEATED]
    found = agrees(known, {pair.id: pair.truth for pair, _ in known if pair.truth}, seed)
    found["above_chance"] = (found["kappa"] or 0) > 0 and found["p"] < ALPHA / methods
    found["kinds"] = {kind: [sum(v.label == p.truth for p, v in known if p.kind == kind),
                             sum(p.kind == kind for p, _ in known)] for kind in sorted({p.kind for p, _ in known})}
    found["unreadable"] = sum(verdict.label is None for _, verdict in judged)
    found |= position(judged)
    longer = [(p, v) for p, v in judged if p.kind == REPEATED]
    found["said_twice"] = [sum(v.label == p.longer for p, v in longer), len(longer)] if longer else None
    return found


def position(judged: Judged) -> dict[str, Any]:
    """The bias for a place: `swap`, `first` and `lean` of calibrated."""
    orders = [verdict.orders for _, verdict in judged if len(verdict.orders) == 2 and None not in verdict.orders]
    decided = [one == "first" for pair in orders for one in pair if one != "tie"]
    steady = [int(pair in (("first", "second"), ("second", "first"), ("tie", "tie"))) for pair in orders]
    leans = [verdict.lean for _, verdict in judged if verdict.lean is not None]
    placed = any(one in ("first", "second") for pair in orders for one in pair)
    return {"swap": statistics.proportion(steady).as_dict(4) if placed else None,
            "first": statistics.proportion([int(one) for one in decided]).as_dict(4) if decided else None,
            "lean": round(math.fsum(leans) / len(leans), 3) if leans else None}


def longer_wins(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """What always preferring the longer answer would reach on the known pairs: the floor beside every method."""
    known = [pair for pair in pairs if pair.kind != REPEATED]
    return agrees([(pair, Verdict(pair.longer)) for pair in known],
                  {pair.id: pair.truth for pair in known if pair.truth}, seed)


def itself(one: Judged, again: Judged, seed: int) -> dict[str, Any]:
    """Agreement of a method with itself, asked all over: kappa (None where every verdict is alike) and share."""
    found = agreement({pair.id: verdict.label or "tie" for pair, verdict in one},
                      {pair.id: verdict.label or "tie" for pair, verdict in again}, LABELS, seed)
    return {"n": found["items"], "share": found["share"], "kappa": found["kappa"]}
