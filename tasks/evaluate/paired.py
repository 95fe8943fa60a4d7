"""Two models' answers to the same items, and the difference with its interval.

What is right or wrong: tasks/evaluate/statistics.py; bits per byte: the ratio estimator over documents.
"""

from __future__ import annotations

from typing import Any

from tasks.evaluate import statistics

Item = dict[str, Any]


def paired(champion: list[Item], challenger: list[Item], task: str) -> list[tuple[Item, Item]]:
    """(champion's, challenger's) answers to the same items of a task, in the order of their ids."""
    def keyed(items: list[Item]) -> dict[tuple[str, str], Item]:
        return {(item["id"], asked(item)): item for item in items if item["task"] == task}

    one, other = keyed(champion), keyed(challenger)
    return [(one[key], other[key]) for key in sorted(one.keys() & other.keys())]


def asked(item: Item) -> str:
    """What tells an item from a later one of the same id: what was asked and would be right; a prompt that a model's
    own chat template wraps is the model's, not the item's."""
    if "bytes" in item:
        return item["prompt"]
    return repr((item.get("choices"), item.get("target")))


def difference(pairs: list[tuple[Item, Item]]) -> statistics.Estimate:
    """Challenger - champion, a gain above zero: of pass rates, clustered by document where the items name one, or of
    bits per byte saved."""
    if "bytes" in pairs[0][0]:
        return bits_saved([item["answer"] for item, _ in pairs], [item["answer"] for _, item in pairs],
                          [item["bytes"] for item, _ in pairs])
    sources = [item.get("document") or item["id"] for item, _ in pairs]
    return statistics.paired_difference([item["right"] for _, item in pairs], [item["right"] for item, _ in pairs],
                                        sources)


def bits_saved(champion: list[float], challenger: list[float], sizes: list[int]) -> statistics.Estimate:
    """Bits per byte the challenger needs less: log-likelihoods in nats (negative) of the same texts, sizes in bytes."""
    from math import log

    from scipy.stats import t

    found = statistics.ratio([(new - old) / log(2) for old, new in zip(champion, challenger)], sizes)
    if found.n < 2:   # one document has no error to tell: nothing is excluded
        return statistics.Estimate(found.value, 0.0, float("-inf"), float("inf"), found.n)
    reach = float(t.ppf(0.975, found.n - 1)) * found.stderr
    return statistics.Estimate(found.value, found.stderr, found.value - reach, found.value + reach, found.n)
