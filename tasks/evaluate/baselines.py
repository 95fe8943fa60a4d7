"""What needs no model: chance and the best of the trivial answers, computed on the very items that are scored."""

from __future__ import annotations

import lzma
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Item = dict[str, Any]


def held_out(items: Sequence[Item], tokens: int, vocabulary: int) -> dict[str, float]:
    """Bits per byte of the held-out texts: every token alike (`uniform`), byte frequencies of the very same text
    (`byte_unigram`: a bound for any byte unigram) and xz of all texts together."""
    text = "\n".join(item["text"] for item in items).encode()
    counts = Counter(text)
    entropy = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    total = sum(len(item["text"].encode()) for item in items)
    return {"uniform": tokens * math.log2(vocabulary) / total, "byte_unigram": entropy,
            "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)}


def choice(items: Sequence[Item], corpus: Sequence[str]) -> dict[str, float]:
    """Accuracy on multiple choice of a random pick (`chance`), the most frequent place of the right one
    (`majority`), the shortest choice (`shortest`), and the choice whose words are the commonest in `corpus`
    (`unigram`). Ties count as a random pick among the tied."""
    counts = Counter(word for text in corpus for word in text.lower().split())
    total = sum(counts.values()) + len(counts) + 1

    def unigram(text: str) -> float:
        words = text.lower().split()
        return sum(math.log((counts[word] + 1) / total) for word in words) / max(1, len(words))

    places = Counter(item["gold"] for item in items)
    return {"chance": sum(1 / len(item["choices"]) for item in items) / len(items),
            "majority": max(places.values()) / len(items),
            "shortest": sum(hit(item, lambda text: -len(text.encode())) for item in items) / len(items),
            "unigram": sum(hit(item, unigram) for item in items) / len(items)}


def hit(item: Item, score: Callable[[str], float]) -> float:
    """Probability that the choice of highest `score` is the right one, ties broken at random."""
    scores = [score(text) for text in item["choices"]]
    best = [at for at, value in enumerate(scores) if value == max(scores)]
    return (item["gold"] in best) / len(best)


def tool_calls(items: Sequence[Item]) -> dict[str, dict[str, float]]:
    """By metric: a random valid call of a random offered tool (`chance`), always the same call (`majority`), and
    plain text (`no_call`, never a valid call)."""
    offered = sum(1 / len(item["offered"]) for item in items) / len(items)
    return {"exact_match": {"chance": sum(item["chance"] for item in items) / len(items),
                            "majority": most_common(item["target"] for item in items)},
            "right_tool": {"chance": offered, "majority": most_common(item["tool"] for item in items)},
            "valid": {"no_call": 0.0}}


def answers(items: Sequence[Item]) -> dict[str, float]:
    """Always the commonest answer (`majority`)."""
    return {"majority": most_common(item["target"] for item in items)}


def most_common(values: Iterable[str]) -> float:
    """Share of the most frequent of `values`."""
    counts = Counter(values)
    return max(counts.values()) / sum(counts.values())
