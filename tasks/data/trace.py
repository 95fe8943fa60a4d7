"""Which training documents hold the longest spans of a text, word for word, from the index of trace_index.py.

The spans are those of OLMoTrace (Liu et al. 2025, arXiv:2504.07096, section 3): maximal ones, that stand in the corpus
from a word's start on and in no longer span that does. It then keeps the least likely by the product of their words'
frequencies, a twentieth of the text's length in number; here the same product is a threshold, so that a text that was
written elsewhere has none: a span of at least LEAST_WORDS words is kept where a corpus of this size, its words drawn by
chance, would hold it fewer than CHANCE times. Files are mapped, not read: opening takes a millisecond.
"""

from __future__ import annotations

import bisect
import json
import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data import trace_text
from tasks.data.trace_text import Query

FORMAT = 1
LEAST_WORDS = 6         # of a span; an ideograph is a word
CHANCE = 1e-9
DOCUMENTS = 5           # shown of a span
CONTEXT = 160           # bytes shown on each side of a match
OCCURRENCES = 100_000   # of a span, looked at for its documents: beyond, it is a commonplace
STEP = 64               # bytes compared first


class TraceError(RuntimeError):
    """There is no index that can be asked; the message is one line with the remedy."""


@dataclass(frozen=True)
class Found:
    """A document that holds a span: how often, and its first occurrence there between what surrounds it."""

    id: str
    url: str | None
    licence: str | None
    source: str | None
    language: str | None
    times: int
    before: str
    match: str
    after: str


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of the text. `bits`: -log2 of the product of its words' frequencies. `times`: occurrences
    in the corpus, in `holders` documents, of which `documents` are those with the most."""

    start: int
    end: int
    words: int
    bits: float
    times: int
    holders: int
    documents: tuple[Found, ...]


@dataclass(frozen=True)
class Trace:
    """The spans of a text in its order; `longest`: (start, end, words) of the longest one, kept or not, or None."""

    spans: tuple[Span, ...]
    longest: tuple[int, int, int] | None


class Part:
    """One part of an index, mapped."""

    def __init__(self, name: Path) -> None:
        self.text = mapped(name.with_suffix(".text"))
        self.lines = mapped(name.with_suffix(".documents.jsonl"))
        self.suffixes = np.frombuffer(mapped(name.with_suffix(".suffixes")), "<u4")
        self.offsets = np.frombuffer(mapped(name.with_suffix(".offsets")), "<i8").reshape(-1, 2)

    def range(self, pattern: bytes, low: int = 0, high: int | None = None) -> tuple[int, int]:
        """[low, high) of the suffixes that begin with `pattern`, sought among [low, high)."""
        text, item, size = self.text, self.suffixes.item, len(pattern)

        def head(row: int) -> bytes:
            at = item(row)
            return text[at:at + size]

        rows = range(len(self.suffixes))
        low = bisect.bisect_left(rows, pattern, low, high, key=head)
        return low, bisect.bisect_right(rows, pattern, low, high, key=head)

    def longest(self, form: bytes, start: int) -> int:
        """How many bytes of `form` from `start` on stand together at the start of some word."""
        low, high, size = 0, len(self.suffixes), STEP
        while True:
            pattern = form[start:start + size]
            first, last = self.range(pattern, low, high)
            if first == last:   # the nearest in the order share the most
                return max((common(pattern, self.at(row, len(pattern))) for row in (first - 1, first)
                            if low <= row < high), default=0)
            if len(pattern) < size:
                return len(pattern)
            low, high, size = first, last, size * 4

    def holds(self, pattern: bytes) -> bool:
        """Whether `pattern` stands at the start of some word."""
        low, high, size = 0, len(self.suffixes), STEP
        while low < high:
            low, high = self.range(pattern[:size], low, high)
            if size >= len(pattern):
                break
            size *= 4
        return low < high

    def at(self, row: int, size: int) -> bytes:
        """The first `size` bytes of a suffix."""
        place = self.suffixes.item(row)
        return self.text[place:place + size]

    def documents(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the suffixes [low, high): the documents that hold them, their first place there, how many they are."""
        places = np.sort(self.suffixes[low:high].astype(np.int64))
        owners = np.searchsorted(self.offsets[:, 0], places, side="right") - 1
        found, first, times = np.unique(owners, return_index=True, return_counts=True)
        return found, places[first], times

    def found(self, document: int, place: int, size: int, times: int) -> Found:
        """What is told of a match of `size` bytes at `place`."""
        line = int(self.offsets[document, 1])
        told = json.loads(self.lines[line:self.lines.find(b"\n", line)])
        begin, end = int(self.offsets[document, 0]), self.text.find(b"\n", place)
        before = trace_text.shown(self.text[max(begin, place - CONTEXT):place])
        after = trace_text.shown(self.text[place + size:min(end, place + size + CONTEXT)])
        return Found(**told, times=times, before=before, match=trace_text.shown(self.text[place:place + size]),
                     after=after)


class Index:
    """An index, opened. Raises TraceError where `folder` holds none that is whole."""

    def __init__(self, folder: Path) -> None:
        try:
            told = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if told["format"] != FORMAT:
                raise TraceError(f"{folder} has format {told['format']}, this code reads {FORMAT}: run the stage "
                                 "`index` again (dvc repro index)")
            self.documents: int = told["documents"]
            self.parts = [self.part(folder, row) for row in told["parts"]]
            self.words = sum(row["words"] for row in told["parts"])
        except FileNotFoundError as error:
            raise TraceError(f"no index of the training documents ({error.filename} is not there): ./run makes it "
                             "(the stage `index`)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(f"{folder} is no whole index ({type(error).__name__}: {error}): remake it with "
                             "dvc repro --force index") from None

    @staticmethod
    def part(folder: Path, row: dict[str, Any]) -> Part:
        """A part, its sizes compared with its row of index.json. Raises ValueError where they differ."""
        part = Part(folder / row["name"])
        if (len(part.text), len(part.suffixes), len(part.offsets)) != (row["bytes"], row["words"], row["documents"]):
            raise ValueError(f"part {row['name']} has another size than index.json says")
        return part

    def trace(self, text: str) -> Trace:
        """The spans of `text` (any length) that the documents hold."""
        query = Query.of(text)
        spans: list[Span] = []
        longest = None
        least = math.log2(max(1, self.words) / CHANCE)
        bits: dict[bytes, float] = {}
        for start, end in self.maximal(query):
            first, last = query.starts[start], query.ends[end]
            stop = bisect.bisect_left(query.starts, last, lo=start)
            words = stop - start
            if longest is None or words > longest[2]:
                longest = (first[1], last[1], words)
            rare = sum(self.bits(query, at, bits) for at in range(start, stop))
            if words >= LEAST_WORDS and rare >= least:
                spans.append(self.span(query.form[first[0]:last[0]], first[1], last[1], words, rare))
        return Trace(tuple(spans), longest)

    def maximal(self, query: Query) -> list[tuple[int, int]]:
        """(index of a start, index of an end) of every maximal span.

        A span that begins later must reach further than the one before, past its next end; whether it does so is
        monotone in where it begins, so its begin is found by bisection.
        """
        found: list[tuple[int, int]] = []
        starts, ends, form = query.starts, query.ends, query.form
        at = 0
        while at < len(starts):
            start = starts[at][0]
            reach = start + max(part.longest(form, start) for part in self.parts)
            end = bisect.bisect_right(ends, reach, key=lambda pair: pair[0]) - 1
            if end < 0 or ends[end][0] <= start:    # not even the word
                at += 1
                continue
            found.append((at, end))
            if end + 1 == len(ends):
                break
            goal = ends[end + 1][0]
            beyond = bisect.bisect_left(starts, goal, key=lambda pair: pair[0])
            at = bisect.bisect_left(range(beyond), True, lo=at + 1, key=self.reaches(query, goal))
        return found

    def reaches(self, query: Query, goal: int) -> Callable[[int], bool]:
        """Whether the documents hold what stands from a start, by its index, to the byte `goal`."""
        return lambda at: any(part.holds(query.form[query.starts[at][0]:goal]) for part in self.parts)

    def bits(self, query: Query, at: int, known: dict[bytes, float]) -> float:
        """-log2 of the frequency among the corpus's words of the word with index `at`."""
        start = query.starts[at][0]
        word = query.form[start:query.form.index(trace_text.END.encode(), start) + 1]
        if word not in known:
            times = sum(high - low for low, high in (part.range(word) for part in self.parts))
            known[word] = math.log2(self.words / times)
        return known[word]

    def span(self, form: bytes, start: int, end: int, words: int, bits: float) -> Span:
        """What is told of a span whose form is `form`."""
        times, holders = 0, []
        for number, part in enumerate(self.parts):
            low, high = part.range(form)
            times += high - low
            documents, places, counts = part.documents(low, min(high, low + OCCURRENCES))
            holders += zip((-counts).tolist(), [number] * len(documents), documents.tolist(), places.tolist())
        holders.sort()
        return Span(start, end, words, round(bits, 1), times, len(holders), tuple(
            self.parts[number].found(document, place, len(form), -count)
            for count, number, document, place in holders[:DOCUMENTS]))


def mapped(path: Path) -> mmap.mmap | bytes:
    """A file's bytes, mapped (an empty file cannot be)."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def common(one: bytes, other: bytes) -> int:
    """The length of the common prefix."""
    length = min(len(one), len(other))
    return bisect.bisect_left(range(1, length + 1), True, key=lambda size: one[:size] != other[:size])
