"""Near-duplicate search: MinHash signatures (Broder 1997) in locality-sensitive bands (Leskovec et al., ch. 3).

A page is the set of its word n-grams; the share of equal positions in two signatures estimates the Jaccard
similarity of their sets, with standard error sqrt(j (1 - j) / permutations). Pages that agree in all rows of a band
become candidates and are then compared by whole signature, so bands decide recall and the threshold decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from rensa import RMinHash

from tasks.data import words


def signature(tokens: Sequence[str], permutations: int, shingle: int, seed: int) -> np.ndarray:
    """uint32[permutations]: the MinHash of the set of `shingle`-word runs of `tokens` (words.normal_words)."""
    sketch = RMinHash(num_perm=permutations, seed=seed)
    sketch.update(list(words.ngrams(tokens, shingle)))
    return np.array(sketch.digest(), dtype=np.uint32)


def rows_for(threshold: float, permutations: int, recall: float = 0.99) -> int:
    """The most rows a band may have (of 1, 2, 4, ... dividing `permutations`) so that a pair at `threshold` becomes
    a candidate with probability of at least `recall`; 1 where even that cannot be had."""
    best, rows = 1, 1
    while rows <= permutations and permutations % rows == 0:
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= recall:
            best = rows
        rows *= 2
    return best


class Index:
    """Signatures added so far, searchable by similarity. Memory: one dictionary entry a band and signature."""

    def __init__(self, threshold: float, permutations: int):
        self.threshold, self.rows = threshold, rows_for(threshold, permutations)
        self.buckets: dict[bytes, list[int]] = defaultdict(list)
        self.signatures: list[np.ndarray] = []

    def nearest(self, signature: np.ndarray) -> tuple[int, float] | None:
        """(number, estimated Jaccard) of the most similar added signature at or above the threshold, the first of
        equals; None where there is none."""
        candidates = sorted({number for band in self._bands(signature) for number in self.buckets.get(band, ())})
        if not candidates:
            return None
        similar = (np.stack([self.signatures[c] for c in candidates]) == signature).mean(axis=1)
        best = int(similar.argmax())
        return (candidates[best], float(similar[best])) if similar[best] >= self.threshold else None

    def add(self, signature: np.ndarray) -> int:
        """Adds a signature; returns its number, 0, 1, 2, ..."""
        number = len(self.signatures)
        self.signatures.append(signature)
        for band in self._bands(signature):
            self.buckets[band].append(number)
        return number

    def _bands(self, signature: np.ndarray) -> list[bytes]:
        """Each band as bytes, led by its number so that bands never meet."""
        return [start.to_bytes(4, "big") + signature[start:start + self.rows].tobytes()
                for start in range(0, len(signature), self.rows)]
