"""Runs of words as 64-bit numbers: what MinHash, repeated passages and resemblance to evaluation all compare.

A word is hashed once (BLAKE2b), a run of words is the polynomial of its words' hashes modulo 2^64 (Karp and Rabin
1987), so every run of a text costs a few vector operations whatever its length. Two different runs meet with a
probability of about 2^-64 a pair. The numbers depend on the words alone: the same in any process and in any year.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 2**64)


def hashed(tokens: Sequence[str]) -> np.ndarray:
    """uint64[len(tokens)]: the hash of each word (words.normal_words)."""
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    hashes = np.frombuffer(b"".join(map(word_hash, numbers)), dtype="<u8")
    return hashes[list(map(numbers.__getitem__, tokens))] if numbers else np.empty(0, np.uint64)


@functools.lru_cache(1 << 17)
def word_hash(word: str) -> bytes:
    """8 bytes of BLAKE2b; the frequent words of a language are remembered."""
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def windows(hashes: np.ndarray, n: int) -> np.ndarray:
    """uint64: the hash of every run of `n` words, in order; of the whole text where it is shorter and not empty."""
    n = min(n, len(hashes))
    count = len(hashes) - n + 1 if n else 0
    found = np.zeros(count, np.uint64)
    for start in range(n):
        found = found * np.uint64(BASE) + hashes[start:start + count]
    return mixed(found)


def among(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool[len(found)]: which of `found` stand in `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(found), bool)
    return known[np.minimum(np.searchsorted(known, found), len(known) - 1)] == found


class Words:
    """The words of one text (words.normal_words), hashed once, and their runs of several lengths."""

    def __init__(self, tokens: Sequence[str]):
        self.tokens = tokens
        self.hashes = hashed(tokens)
        self.made: dict[int, np.ndarray] = {}

    def runs(self, n: int) -> np.ndarray:
        """`windows` of `n` words, made once."""
        if n not in self.made:
            self.made[n] = windows(self.hashes, n)
        return self.made[n]


class Runs:
    """The hash of any run of one text in constant time, from running sums of its words' hashes."""

    def __init__(self, hashes: np.ndarray):
        powers = np.full(len(hashes) + 1, BASE, np.uint64)
        self.inverse = np.full(len(hashes) + 1, INVERSE, np.uint64)
        powers[0] = self.inverse[0] = 1
        np.cumprod(powers, out=powers)
        np.cumprod(self.inverse, out=self.inverse)
        self.sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes * powers[:-1], dtype=np.uint64)])

    def hashes(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """uint64: the hash of the words [start, end) of each pair; equal for equal words, wherever they stand."""
        lengths = (ends - starts).astype(np.uint64)
        return mixed((self.sums[ends] - self.sums[starts]) * self.inverse[starts] + lengths)


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014): low and high bits of a polynomial become equally random."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
