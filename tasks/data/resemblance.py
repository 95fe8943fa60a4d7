"""Evaluation text met again in other words: resemblance and containment of shingle sets (Broder 1997).

Runs of n equal words (tasks/data/overlap.py) miss a copy with a word changed in every ten. Here a text is the set of
its short word runs, and three shares of what two texts have in common tell three cases apart: of both together, a near
duplicate; of the document's, a document taken from inside an evaluation item; of the item's, an item retold inside
a document, looked for in stretches of twice its length so that a long document does not contain it by chance. The
evaluation sets are small beside a corpus, so the shares are exact, not sketched.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import Field

from tasks.data import shingles, words
from tasks.data.shingles import Words
from tasks.params import Section

EXCERPT = 300  # characters of each side of a pair
STRETCH = 2  # a retold item is at most so many times as long
SHORTEST = 13  # words; of a shorter item too few runs outlive one changed word, and overlap.py protects it whole


class ResemblanceParams(Section):
    """From which share on a document is too like an evaluation item; null switches a direction off."""

    shingle: int = Field(ge=2, le=20, description="words a shingle")
    near_duplicate: float | None = Field(gt=0, le=1, description="Jaccard similarity of document and item")
    document_in_item: float | None = Field(gt=0, le=1, description="share of the document's shingles in the item")
    item_in_document: float | None = Field(gt=0, le=1, description="share of the item's shingles in one stretch")


class Pair(NamedTuple):
    """An evaluation item and how a document is like it; the excerpts begin where they first agree."""

    item: str
    direction: str
    similarity: float
    document_excerpt: str
    item_excerpt: str

    def described(self) -> dict:
        """As metadata of a reject."""
        return {"direction": self.direction, "similarity": round(self.similarity, 3),
                "excerpt": {"document": self.document_excerpt, "item": self.item_excerpt}}


class Stretch(NamedTuple):
    """Words of a document that retell an item: their places, the share of the item's shingles among them."""

    places: np.ndarray  # first words of the shared shingles
    unit: int
    similarity: float


class Evaluation:
    """The texts of evaluation items as shingle sets. Memory: 12 bytes a word of evaluation text, and the text."""

    def __init__(self, params: ResemblanceParams):
        self.params = params
        self.units: list[tuple[str, str]] = []  # item, text
        self.sizes: list[int] = []  # distinct shingles
        self.lengths: list[int] = []  # words
        self.sets: list[np.ndarray] = []
        self.of: dict[str, list[int]] = {}  # item -> its units

    def add(self, item: str, texts: Iterable[str]) -> None:
        """Protect `texts` under the id `item`; those too short are left to the n-gram rule."""
        for text in texts:
            tokens = words.normal_words(text)
            if len(tokens) - sum(token >= words.FIRST_IDEOGRAPH for token in tokens) / 2 < SHORTEST:
                continue
            own = np.unique(Words(tokens).runs(self.params.shingle))
            self.of.setdefault(item, []).append(len(self.units))
            self.units.append((item, text))
            self.sets.append(own)
            self.sizes.append(len(own))
            self.lengths.append(len(tokens))
            self.__dict__.pop("table", None)

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint64[m], int32[m]): every shingle of every unit, sorted, and whose it is."""
        keys = np.concatenate([np.empty(0, np.uint64), *self.sets])
        owners = np.repeat(np.arange(len(self.sets), dtype=np.int32), self.sizes)
        order = np.argsort(keys, kind="stable")
        return keys[order], owners[order]

    def _shared(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64[m], int32[m]): the index in `found` (distinct shingles) and the unit of each one shared."""
        keys, owners = self.table
        hit = np.flatnonzero(shingles.among(found, keys))
        first = np.searchsorted(keys, found[hit])
        counts = np.searchsorted(keys, found[hit], side="right") - first
        ends = np.cumsum(counts)
        return np.repeat(hit, counts), owners[np.arange(ends[-1] if len(ends) else 0)
                                              + np.repeat(first - ends + counts, counts)]

    def whole(self, text: str, own: Words) -> Pair | None:
        """The item that the whole document (`text`, its words) is most like, where that is above a limit: a near
        duplicate before a document taken from inside an item."""
        found = np.unique(own.runs(self.params.shingle))
        _, units = self._shared(found)
        if not len(units):
            return None
        units, shared = np.unique(units, return_counts=True)
        sizes = np.array([self.sizes[unit] for unit in units])
        for direction, share in (("near_duplicate", shared / (len(found) + sizes - shared)),
                                 ("document_in_item", shared / len(found))):
            limit = getattr(self.params, direction)
            if limit is not None and share.max() >= limit:
                return self._pair(int(units[share.argmax()]), direction, float(share.max()), text, own)
        return None

    def stretches(self, own: Words) -> Iterator[Stretch]:
        """Where a document retells an item, unit by unit."""
        limit = self.params.item_in_document
        if limit is None:
            return
        runs = own.runs(self.params.shingle)
        hits = np.flatnonzero(shingles.among(runs, self.table[0]))
        found, inverse = np.unique(runs[hits], return_inverse=True)
        which, units = self._shared(found)
        for unit, shared in zip(*(column.tolist() for column in np.unique(units, return_counts=True))):
            if shared < limit * self.sizes[unit]:
                continue
            of_unit = np.flatnonzero(np.isin(inverse, which[units == unit]))
            places = hits[of_unit]
            inside, most = dense(places, inverse[of_unit], STRETCH * self.lengths[unit], limit * self.sizes[unit])
            if most:
                yield Stretch(places[inside], unit, most / self.sizes[unit])

    def retold(self, stretch: Stretch, text: str, own: Words) -> Pair:
        """The pair of a stretch of a document (`text`, its words)."""
        return self._pair(stretch.unit, "item_in_document", stretch.similarity, text, own, int(stretch.places[0]))

    def quoted(self, item: str, run: str, text: str) -> Pair:
        """The pair of a document's `text` that shares the words `run` with `item` (tasks/data/overlap.py)."""
        own = Words(words.normal_words(text))
        runs = own.runs(self.params.shingle)
        head = Words(run.split(" ")).runs(self.params.shingle)[0]
        place = int((runs == head).argmax())
        for unit in self.of.get(item, ()):
            if np.isin(head, self.sets[unit]):
                return self._pair(unit, "ngram", float(np.isin(self.sets[unit], runs).mean()), text, own, place)
        return Pair(item, "ngram", 1.0, excerpt(text, place), run)  # a short item, all of which is the run

    def _pair(self, unit: int, direction: str, similarity: float, text: str, own: Words, start: int = 0) -> Pair:
        """With the excerpts from the first shingle shared at or after word `start`."""
        item, other = self.units[unit]
        runs = own.runs(self.params.shingle)
        place = start + int(np.isin(runs[start:], self.sets[unit]).argmax())
        theirs = Words(words.normal_words(other)).runs(self.params.shingle)
        return Pair(item, direction, similarity, excerpt(text, place),
                    excerpt(other, int((theirs == runs[place]).argmax())))


def dense(places: np.ndarray, kinds: np.ndarray, length: int, least: float) -> tuple[np.ndarray, int]:
    """(bool[n], int): which of the ascending `places` lie in a stretch of `length` with at least `least` distinct
    `kinds`, and the most of any; linear in n."""
    inside = np.zeros(len(places) + 1, np.int64)
    counts: dict[int, int] = {}
    left = most = 0
    for right, kind in enumerate(kinds.tolist()):
        counts[kind] = counts.get(kind, 0) + 1
        while places[right] - places[left] > length:
            gone = int(kinds[left])
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
            left += 1
        if len(counts) >= least:
            most = max(most, len(counts))
            inside[left] += 1
            inside[right + 1] -= 1
    return np.cumsum(inside[:-1]) > 0, most


def excerpt(text: str, place: int) -> str:
    """EXCERPT characters of `text` from its word number `place` on."""
    folded = unicodedata.normalize("NFKC", text)
    for number, match in enumerate(words.WORD.finditer(folded)):
        if number == place:
            return folded[match.start():match.start() + EXCERPT]
    return folded[:EXCERPT]
