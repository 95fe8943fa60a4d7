"""Overlap of training text with evaluation text: runs of n equal words (GPT-3's rule, Brown et al. 2020, appendix C).

Documentation shares licence headers, inherited docstrings and set phrases between pages, so dropping every page that
shares one run with a held-out page would cost a quarter of the corpus for a handful of sentences each. Here, as
there, the overlapping passage goes and the rest stays: every line touched by a shared run is cut, again and again
until none is left, and a page of which too much would go is dropped whole. So no exception for boilerplate is needed:
it costs its own lines, never the page, and after the cut the overlap is exactly zero.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tasks.data import shingles, words
from tasks.data.resemblance import Evaluation, Pair

SHORTEST = 8  # words; a shorter evaluation text is a common phrase and protects nothing
# a Han character counts as a word elsewhere, but 13 of them say as much as seven English words: a text of them alone
# is protected in runs twice as long, a mixed one in between
IDEOGRAPHIC = re.compile(f"[{words.IDEOGRAPHS}]")


@dataclass(frozen=True)
class Cut:
    """What is left of a text, what went (lines, in order), and with which items it overlapped (id -> shared runs)."""

    text: str
    removed: str
    items: Counter[str] = field(default_factory=Counter)
    runs: dict[str, str] = field(default_factory=dict)  # item -> the first run shared with it
    retold: dict[str, Pair] = field(default_factory=dict)  # item -> how the passage is like it

    @property
    def fraction(self) -> float:
        """Share of the characters that went."""
        return len(self.removed) / max(1, len(self.removed) + len(self.text))


class Protected:
    """The word runs of evaluation texts: `n` words (twice as many Han characters), or the whole of a shorter text.

    Memory: about 200 bytes a word of evaluation text. Names the first item, by order of adding, that owns a run.
    Every run is found by its first SHORTEST words, so a text is scanned once whatever the lengths.
    """

    def __init__(self, n: int):
        if n < SHORTEST:
            raise ValueError(f"runs of {n} words are common phrases: at least {SHORTEST}")
        self.n = n
        self.owners: dict[str, str] = {}
        self.lengths: dict[str, set[int]] = {}
        self.parts: list[np.ndarray] = []  # the hashes of the keys of lengths, text by text

    def add(self, item: str, texts: Iterable[str]) -> None:
        """Protect `texts` under the id `item`."""
        for text in texts:
            tokens = words.normal_words(text)
            length = self.length(tokens)
            if length is None:
                continue
            for start, run in enumerate(words.ngrams(tokens, length)):
                self.owners.setdefault(run, item)
                self.lengths.setdefault(" ".join(tokens[start:start + SHORTEST]), set()).add(length)
            self.parts.append(shingles.windows(shingles.hashed(tokens), SHORTEST)[:len(tokens) - length + 1])
            self.__dict__.pop("heads", None)

    @cached_property
    def heads(self) -> np.ndarray:
        """uint64, sorted: the hash of each key of `lengths`."""
        return np.unique(np.concatenate([np.empty(0, np.uint64), *self.parts]))

    def length(self, tokens: Sequence[str]) -> int | None:
        """How many words in a row of this text are protected; None where it is too short to be told from a phrase."""
        weight = 1 + sum(map(bool, map(IDEOGRAPHIC.match, tokens))) / max(1, len(tokens))
        if len(tokens) < SHORTEST * weight:
            return None
        return min(round(self.n * weight), len(tokens))

    def shared(self, text: shingles.Words) -> Iterator[tuple[int, int, str, str]]:
        """(first word, length, item, run) of each run of `text` that is protected."""
        tokens = text.tokens
        if len(tokens) < SHORTEST:
            return
        for start in np.flatnonzero(shingles.among(text.runs(SHORTEST), self.heads)).tolist():
            for length in self.lengths.get(" ".join(tokens[start:start + SHORTEST]), ()):
                run = " ".join(tokens[start:start + length])
                if run in self.owners:
                    yield start, length, self.owners[run], run

    def cut(self, text: str, evaluation: Evaluation | None = None) -> Cut:
        """`text` without the lines that a shared run, or a passage that retells an item of `evaluation`, touches; a
        cut may join new ones, so until there is none."""
        lines = text.split("\n")
        folded = [words.normal_words(line) for line in lines]
        kept = list(range(len(lines)))
        items: Counter[str] = Counter()
        runs: dict[str, str] = {}
        retold: dict[str, Pair] = {}
        while True:
            own = shingles.Words([token for line in kept for token in folded[line]])
            home = [line for line in kept for _ in folded[line]]
            touched: set[int] = set()
            for start, length, item, run in self.shared(own):
                touched.update(home[start:start + length])
                items[item] += 1
                runs.setdefault(item, run)
            if evaluation:
                left = "\n".join(lines[line] for line in kept)
                for stretch in evaluation.stretches(own):
                    for start in stretch.places.tolist():
                        touched.update(home[start:start + evaluation.params.shingle])
                    pair = evaluation.retold(stretch, left, own)
                    if pair.item not in retold or retold[pair.item].similarity < pair.similarity:
                        retold[pair.item] = pair
            if not touched:
                break
            kept = [line for line in kept if line not in touched]
        if len(kept) == len(lines):
            return Cut(text, "")
        whole = set(kept)
        gone = "\n".join(line for number, line in enumerate(lines) if number not in whole)
        return Cut("\n".join(lines[line] for line in kept).strip("\n"), gone, items, runs, retold)


def strings(value: Any) -> list[str]:
    """Every string in a JSON value, keys left out: what of an evaluation item a model could have memorised."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for part in value.values() for s in strings(part)]
    if isinstance(value, list):
        return [s for part in value for s in strings(part)]
    return []
