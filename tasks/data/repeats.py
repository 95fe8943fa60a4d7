"""Passages repeated between documents, cut at the borders of sentences (after Lee et al. 2022, ACL).

Lee et al. cut every substring of 50 tokens that stands in two documents, found with a suffix array of the corpus;
that takes some 10 bytes of memory a byte of text and leaves half sentences. Here the unit is a sentence, a line, a
code block or a table, whole ones only. From each unit the shortest run of whole units with at least `least` words is
hashed, forwards and backwards, so any repeated run of units that is long enough is covered by repeated hashes to its
very ends, in time linear in the text. The hashes of one document depend on that document alone; the hashes of all are
matched in slices of their range, so memory is bounded by the slice and by what really is shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.data import shingles, words

SLICE = 1 << 18  # runs matched at once: some 25 MB
RUN = np.dtype([("hash", "<u8"), ("start", "<u4"), ("end", "<u4")])
OWNED = np.dtype([*RUN.descr, ("document", "<u4")])
# a code block or a table is one unit: half of one reads like nothing
BLOCK = re.compile(r"^[ \t]*(`{3,})[^\n]*\n(?:.*?^[ \t]*\1[^\n]*(?:\n+|\Z)|.*)|(?:^\|[^\n]*(?:\n|\Z))+\n*", re.M | re.S)


def units(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, line, code block and table of `text` in order, trailing space included: laid
    end to end they are the text."""
    borders = []
    done = 0
    for block in BLOCK.finditer(text) if "```" in text or "|" in text else ():
        borders += [match.end() for match in words.SENTENCE_END.finditer(text, done, block.start())]
        borders += [block.start(), block.end()]
        done = block.end()
    borders += [match.end() for match in words.SENTENCE_END.finditer(text, done)]
    ends = sorted({*borders, len(text)} - {0})
    return list(zip([0, *ends], ends))


def runs(spans: Sequence[tuple[int, int]], tokens: Sequence[Sequence[str]], hashes: np.ndarray,
         least: int) -> np.ndarray:
    """RUN[m]: the runs of units to look for in other documents, sorted by hash.

    `spans` and `tokens` are the units' places and words, `hashes` the hashes of all words. A Han character, kana or
    hangul syllable counts as half a word, as in tasks/data/overlap.py.
    """
    said = [(span, len(own)) for span, own in zip(spans, tokens) if own]
    places = np.cumsum([0] + [length for _, length in said])
    ideographs = np.array([word >= words.FIRST_IDEOGRAPH for own in tokens for word in own], bool)
    halves = 2 * places - np.concatenate([[0], np.cumsum(ideographs)])[places]
    first = np.arange(len(said))
    last = np.searchsorted(halves, halves[:-1] + 2 * least)
    forward = np.stack([first, last], axis=1)[last <= len(said)]
    last = np.arange(1, len(said) + 1)
    first = np.searchsorted(halves, halves[1:] - 2 * least, side="right") - 1
    backward = np.stack([first, last], axis=1)[first >= 0]
    pairs = np.unique(np.concatenate([forward, backward]), axis=0)
    found = np.empty(len(pairs), RUN)
    if len(pairs):
        bounds = np.array([span for span, _ in said])
        found["hash"] = shingles.Runs(hashes).hashes(places[pairs[:, 0]], places[pairs[:, 1]])
        found["start"], found["end"] = bounds[pairs[:, 0], 0], bounds[pairs[:, 1] - 1, 1]
    return found[np.argsort(found["hash"], kind="stable")]


def shared(files: Sequence[np.ndarray], numbers: Sequence[np.ndarray], counted: np.ndarray) -> Iterator[np.ndarray]:
    """OWNED[m], slice by slice: the runs that two of the documents marked in `counted` (bool[documents]) have.

    `files` are arrays of OWNED sorted by hash, on disk or in memory, whose documents `numbers` translates, file by
    file, to numbers of all documents.
    """
    slices = max(1, -(-sum(map(len, files)) // SLICE))
    edges = np.array([2**64 * n // slices for n in range(1, slices)], dtype=np.uint64)
    cuts = [[0, *np.searchsorted(file["hash"], edges), len(file)] for file in files]
    for number in range(slices):
        parts = []
        for file, cut, own in zip(files, cuts, numbers):
            part = np.array(file[cut[number]:cut[number + 1]])
            part["document"] = own[part["document"]]
            parts.append(part[counted[part["document"]]])
        found = np.concatenate(parts)
        found = found[np.lexsort((found["document"], found["hash"]))]
        same = found["hash"][1:] == found["hash"][:-1]
        other = same & (found["document"][1:] != found["document"][:-1])
        group = np.concatenate([[0], np.cumsum(~same)])[:len(found)]
        yield found[np.isin(group, group[1:][other])]


def first_said(owned: np.ndarray, lengths: np.ndarray, limit: float) -> Iterator[tuple[int, int, float, np.ndarray]]:
    """(document, document it repeats most, share of its characters, spans int[k, 2]) for each that repeats another.

    `owned` is OWNED, all that is `shared`. Documents keep what they say in the order of their numbers, the first to
    say it. One that repeats more than `limit` of its `lengths` (int[documents]) keeps nothing, so what it alone says
    is free for the next to keep.
    """
    groups, group = np.unique(owned["hash"], return_inverse=True)
    owner = np.full(len(groups), -1, np.int32)
    order = np.lexsort((owned["start"], owned["document"]))
    owned, group = owned[order], group[order]
    edges = np.flatnonzero(np.diff(owned["document"])) + 1
    for start, end in zip([0, *edges], [*edges, len(owned)]):
        own = group[start:end]
        said = owner[own] >= 0
        share = 0.0
        if said.any():
            document, repeated = int(owned["document"][start]), owned[start:end][said]
            spans = union(repeated["start"], repeated["end"])
            share = float((spans[:, 1] - spans[:, 0]).sum() / lengths[document])
            yield document, int(np.bincount(owner[own][said]).argmax()), share, spans
        if share <= limit:
            owner[own[~said]] = owned["document"][start:end][~said]


def union(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64[k, 2]: the maximal spans covered by [start, end) pairs sorted by start."""
    reach = np.maximum.accumulate(ends.astype(np.int64))
    fresh = np.concatenate([[True], starts[1:] > reach[:-1]])
    places = np.flatnonzero(fresh)
    return np.stack([starts[places].astype(np.int64), reach[np.concatenate([places[1:], [len(starts)]]) - 1]], axis=1)


def cut(text: str, spans: Sequence[Sequence[int]]) -> tuple[str, str]:
    """(what is left of `text`, what went) without the spans, which are sorted and apart."""
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    left = "".join(text[end:start] for end, start in zip(ends, starts))
    return left.strip("\n"), "\n".join(text[start:end].rstrip("\n") for start, end in spans)
