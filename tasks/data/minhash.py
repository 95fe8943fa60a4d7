"""Near-duplicate search: MinHash signatures (Broder 1997) in locality-sensitive bands (Leskovec et al., ch. 3).

A page is the set of its word n-grams; the share of equal positions in two signatures estimates the Jaccard
similarity of their sets, with standard error sqrt(j (1 - j) / permutations). Pages that agree in all rows of a band
become candidates and are then compared by whole signature, so bands decide recall and the threshold decides.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rensa import RMinHash

from tasks.data import shingles

BUCKET = 64  # pages compared with from one bucket: a template's band is shared by any number of unlike pages


def signature(hashes: np.ndarray, permutations: int, shingle: int, seed: int) -> np.ndarray:
    """uint32[permutations]: the MinHash of the set of `shingle`-word runs of a text of hashed words."""
    runs = shingles.windows(hashes, shingle)
    ends = np.array([0, len(runs)], dtype=np.uint64)
    digest = RMinHash.digest_matrix_from_flat_token_hashes(runs, ends, permutations, seed)
    return np.array(digest.to_rows()[0], dtype=np.uint32)


def rows_for(threshold: float, permutations: int, recall: float = 0.99) -> int:
    """The most rows a band may have (of 1, 2, 4, ... dividing `permutations`) so that a pair at `threshold` becomes
    a candidate with probability of at least `recall`; 1 where even that cannot be had."""
    best, rows = 1, 1
    while rows <= permutations and permutations % rows == 0:
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= recall:
            best = rows
        rows *= 2
    return best


def bands(signatures: np.ndarray, rows: int) -> np.ndarray:
    """uint64[permutations / rows, n]: the hash of each band of n signatures; equal where all its rows are."""
    count = signatures.shape[1] // rows
    keys = np.zeros((count, len(signatures)), np.uint64)
    for row in range(rows):
        keys = keys * np.uint64(shingles.BASE) + signatures[:, row::rows].T
    return shingles.mixed(keys)


class Index:
    """The signatures of all pages; those added so far are searchable by similarity.

    Everything is known before the first search, so a band's keys are sorted once and only pages that share a bucket
    are indexed: 8 bytes for each page and bucket it shares, nothing for the rest, besides the signatures, which may
    lie on disk (a numpy memmap). Of one bucket the first BUCKET pages added are searched: time stays linear, and
    similar pages still meet in other buckets.
    """

    def __init__(self, signatures: np.ndarray, keys: Iterable[np.ndarray], threshold: float):
        """`signatures` uint32[n, permutations]; `keys` each band's uint64[n] (`bands`)."""
        self.signatures, self.threshold = signatures, threshold
        pages, buckets, sizes = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        made = 0
        for band in keys:
            order = np.argsort(band, kind="stable").astype(np.int32)
            edges = np.flatnonzero(np.diff(band[order])) + 1
            starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(order)]])
            shared = ends - starts > 1
            size = (ends - starts)[shared]
            pages.append(order[np.repeat(shared, ends - starts)])
            buckets.append(np.repeat(np.arange(made, made + len(size), dtype=np.int32), size))
            sizes.append(np.minimum(size, BUCKET))
            made += len(size)
        page, bucket = np.concatenate(pages), np.concatenate(buckets)
        del pages, buckets
        order = np.argsort(page, kind="stable")
        self.buckets = bucket[order]  # of page 0, then of page 1, ...
        self.first = np.searchsorted(page[order], np.arange(len(signatures) + 1))
        self.room = np.concatenate(sizes)
        self.place = np.concatenate([[0], np.cumsum(self.room)])
        self.filled = np.zeros(made, np.int64)
        self.slots = np.empty(self.place[-1], np.int32)

    def nearest(self, page: int) -> tuple[int, float] | None:
        """(page, estimated Jaccard) of the added page most similar to `page` at or above the threshold, the lowest
        number of equals; None where there is none."""
        own = self._own(page)
        if not len(own) or not len(found := self._members(own)):
            return None
        similar = (self.signatures[found] == self.signatures[page]).mean(axis=1)
        best = int(similar.argmax())
        return (int(found[best]), float(similar[best])) if similar[best] >= self.threshold else None

    def add(self, page: int) -> None:
        """Makes `page` searchable."""
        own = self._own(page)
        own = own[self.filled[own] < self.room[own]]
        self.slots[self.place[own] + self.filled[own]] = page
        self.filled[own] += 1

    def _own(self, page: int) -> np.ndarray:
        return self.buckets[self.first[page]:self.first[page + 1]]

    def _members(self, own: np.ndarray) -> np.ndarray:
        """The pages added to the buckets `own`, in order, each once."""
        counts = self.filled[own]
        ends = np.cumsum(counts)
        return np.unique(self.slots[np.arange(ends[-1]) + np.repeat(self.place[own] - ends + counts, counts)])
