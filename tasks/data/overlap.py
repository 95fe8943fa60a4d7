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
from typing import Any

from tasks.data import words

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
    ngram: str | None = None  # the first shared run

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

    def length(self, tokens: Sequence[str]) -> int | None:
        """How many words in a row of this text are protected; None where it is too short to be told from a phrase."""
        weight = 1 + sum(map(bool, map(IDEOGRAPHIC.match, tokens))) / max(1, len(tokens))
        if len(tokens) < SHORTEST * weight:
            return None
        return min(round(self.n * weight), len(tokens))

    def shared(self, tokens: list[str]) -> Iterator[tuple[int, int, str, str]]:
        """(first word, length, item, run) of each run of `tokens` that is protected."""
        if len(tokens) < SHORTEST:
            return
        for start, head in enumerate(words.ngrams(tokens, SHORTEST)):
            for length in self.lengths.get(head, ()):
                run = " ".join(tokens[start:start + length])
                if run in self.owners:
                    yield start, length, self.owners[run], run

    def cut(self, text: str) -> Cut:
        """`text` without the lines that a shared run touches; a cut may join new runs, so until none is shared."""
        lines = text.split("\n")
        folded = [words.normal_words(line) for line in lines]
        kept = list(range(len(lines)))
        items: Counter[str] = Counter()
        first = None
        while True:
            tokens = [token for line in kept for token in folded[line]]
            home = [line for line in kept for _ in folded[line]]
            touched: set[int] = set()
            for start, length, item, run in self.shared(tokens):
                touched.update(home[start:start + length])
                items[item] += 1
                first = first or run
            if not touched:
                break
            kept = [line for line in kept if line not in touched]
        if len(kept) == len(lines):
            return Cut(text, "")
        left = set(kept)
        gone = "\n".join(line for number, line in enumerate(lines) if number not in left)
        return Cut("\n".join(lines[line] for line in kept).strip("\n"), gone, items, first)


def strings(value: Any) -> list[str]:
    """Every string in a JSON value, keys left out: what of an evaluation item a model could have memorised."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for part in value.values() for s in strings(part)]
    if isinstance(value, list):
        return [s for part in value for s in strings(part)]
    return []
