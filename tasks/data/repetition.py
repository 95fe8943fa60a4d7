"""How much of a page repeats itself: n-grams seen again, lines and paragraphs seen again (Rae et al. 2021, table A1).

Words become numbers once a page; the n-grams of every length are then 64-bit polynomial hashes of these numbers,
sorted together with their places. So a page of n words costs O(n log n) in numpy for each length, and coverage never
grows with the length: a page whose 5-grams hardly repeat is done after one of the six.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2**64


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64[n]: splitmix64's finalizer (Steele et al. 2014) of each number: near numbers become far ones."""
    with np.errstate(over="ignore"):
        value = (numbers.astype(np.uint64) + np.uint64(1)) * FACTOR
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


class Grams:
    """The n-grams of a page's words, n = 1, 2, 3, ... in turn.

    `numbers` int[w] names each word, equal numbers for equal words; `lengths` int[w] are its characters.
    """

    def __init__(self, numbers: np.ndarray, lengths: np.ndarray):
        self.words = len(numbers)
        self.base = mixed(numbers)
        self.ends = np.concatenate([[0], np.cumsum(lengths)])
        self.bits = np.uint64(max(1, self.words.bit_length()))  # the low bits of a key hold its place
        self.size, self.hashes = 1, self.base
        self.sorted: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def runs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(places, new) of the `n`-grams sorted by gram, then by place; `new` marks the first of each gram.

        The 64 - log2(words) upper bits of the hash stand for the gram: for a page of 100,000 words two different
        grams meet with probability below 1e-4. Must not be called for a smaller `n` than before, but for one it keeps.
        """
        if n not in self.sorted:
            with np.errstate(over="ignore"):
                while self.size < n:
                    self.hashes = self.hashes[:-1] * FACTOR + self.base[self.size:]
                    self.size += 1
            mask = (np.uint64(1) << self.bits) - np.uint64(1)
            keys = (self.hashes & ~mask) | np.arange(len(self.hashes), dtype=np.uint64)
            keys.sort()
            grams = keys >> self.bits
            new = np.ones(len(keys), dtype=bool)
            np.not_equal(grams[1:], grams[:-1], out=new[1:])
            self.sorted[n] = (keys & mask).astype(np.int64), new
        return self.sorted[n]

    def top(self, n: int) -> int:
        """Characters in all places of the `n`-gram that takes the most of the page; 0 where none stands in two."""
        if self.words < n:
            return 0
        places, new = self.runs(n)
        starts = np.flatnonzero(new)
        times = np.diff(starts, append=len(places))
        first = places[starts]
        return int(((self.ends[first + n] - self.ends[first]) * times * (times > 1)).max())

    def covered(self, n: int) -> int:
        """Characters of the words that lie in an `n`-gram seen before in the page, each word counted once."""
        if self.words < n:
            return 0
        places, new = self.runs(n)
        again = places[~new]
        steps = np.bincount(again, minlength=self.words + 1) - np.bincount(again + n, minlength=self.words + 1)
        return int(np.diff(self.ends)[np.cumsum(steps)[:-1] > 0].sum())


def duplicated(parts: Sequence[str]) -> tuple[float, float]:
    """(share of parts, share of characters) in parts seen before; a lone bracket or rule is none."""
    seen: set[str] = set()
    repeated = [part for part in parts if (part in seen or seen.add(part)) and any(map(str.isalnum, part))]
    return len(repeated) / max(1, len(parts)), sum(map(len, repeated)) / max(1, sum(map(len, parts)))
