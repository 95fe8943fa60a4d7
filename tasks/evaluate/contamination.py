"""Whether a model has read what it is asked: words shared with its own training text, and how well it knows the item.

Overlap is Llama 2's measure (Touvron et al., arXiv:2307.09288, A.6): the share of an item's words that lie in runs of
RUN words which the training text has too; an item is dirty from DIRTY on. Min-k % is the mean log-probability of the
least likely fifth of an item's tokens (Shi et al., arXiv:2310.16789): what was read has few surprises. What it tells of
this very model is measured beside it: the area under the ROC curve of training documents over held-out ones. An item
is `likely` when its min-k lies above that of every held-out document. Scores of the sides stand apart.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks import progress
from tasks.data import documents, shingles, words
from tasks.evaluate import statistics

RUN, SHORT = 10, 8      # words in a row; of a text shorter than a run, all its words where they are so many
DIRTY = 0.2             # share of covered words
LOWEST = 0.2            # k of min-k %
TOKENS = 16             # fewer say nothing: their least likely fifth is three
HAN = re.compile(f"[{words.IDEOGRAPHS}]")
Item = dict[str, Any]


def asked(item: Item) -> str:
    """The text of an item that a model could have read before: what is asked, with the right answer where choices are
    read as one text."""
    if "choices" in item:
        return item["prompt"] + item["choices"][item["gold"]]
    return item.get("text") or item.get("question") or item["prompt"]


def run_of(tokens: Sequence[str]) -> int | None:
    """How many words in a row count as shared for a text of `tokens`: as many Han characters say half as much. None
    where the text is too short to be told from a phrase."""
    weight = 2 if 2 * sum(map(bool, map(HAN.match, tokens))) >= len(tokens) else 1
    if len(tokens) >= RUN * weight:
        return RUN * weight
    return SHORT * weight if len(tokens) >= SHORT * weight else None


def overlaps(texts: Sequence[str], corpus: Path) -> list[float | None]:
    """The share of the words of each text that lie in runs which a document of `corpus` (a folder of shards) has;
    None for one too short to tell. Memory: the texts'; the corpus is read once."""
    lengths, wanted = [], []
    for text in texts:
        tokens = words.normal_words(text)
        lengths.append((run_of(tokens), len(tokens)))
        wanted.append(shingles.windows(shingles.hashed(tokens), lengths[-1][0] or SHORT))
    sought = {run: np.unique(np.concatenate([hashes for (own, _), hashes in zip(lengths, wanted) if own == run]))
              for run in {run for run, _ in lengths if run}}
    met: dict[int, list[np.ndarray]] = {run: [np.empty(0, np.uint64)] for run in sought}
    for shard in progress.track(documents.shards(corpus) if sought else [], what="overlap", unit="shard"):
        for document in documents.read(shard):
            hashes = shingles.hashed(words.normal_words(document.text))
            for run, known in sought.items():
                if len(hashes) >= run:
                    found = shingles.windows(hashes, run)
                    met[run].append(found[shingles.among(found, known)])
    seen = {run: np.unique(np.concatenate(found)) for run, found in met.items()}
    return [None if run is None else covered(np.isin(hashes, seen[run]), run, size)
            for (run, size), hashes in zip(lengths, wanted)]


def covered(hit: np.ndarray, run: int, size: int) -> float:
    """Share of `size` words that lie in a run that was `hit` (bool, one for each start)."""
    marks = np.zeros(size, bool)
    for start in np.flatnonzero(hit):
        marks[start:start + run] = True
    return float(marks.mean())


def min_k(values: Sequence[float]) -> float | None:
    """Mean of the lowest fifth of the log-probabilities of a text's tokens, in nats; None for fewer than TOKENS."""
    if len(values) < TOKENS:
        return None
    lowest = sorted(values)[:max(1, math.floor(LOWEST * len(values)))]
    return math.fsum(lowest) / len(lowest)


def members(corpus: Path, count: int, size: int) -> list[str]:
    """The beginnings, `size` bytes of UTF-8 each, of `count` documents of the training text, by the hash of the id."""
    def every() -> Iterable[tuple[bytes, str]]:
        for shard in documents.shards(corpus):
            for document in documents.read(shard):
                yield (hashlib.sha256(document.id.encode("utf-8", "replace")).digest(),
                       document.text.encode("utf-8", "replace")[:size].decode(errors="ignore"))

    return [text for _, text in heapq.nsmallest(count, every())]


def table(kept: Mapping[str, Sequence[Item]], read: Sequence[float]) -> dict[str, Any]:
    """What the metrics tell: `membership`, the area of min-k of training texts (`read`) over the held-out ones, and of
    each task how many items are dirty or likely, and the scores of either side (bits per byte, or pass rates).

    kept: answers of each task, each with `overlap` and `min_k` (or None) and `right`, or `answer` and `bytes`.
    """
    unread = [line["min_k"] for line in kept["held_out"] if line["min_k"] is not None]
    found: dict[str, Any] = {"run": RUN, "dirty_from": DIRTY, "tasks": {}}
    if read and unread:
        found["membership"] = statistics.area(read, unread).as_dict() | {
            "training": len(read), "held_out": len(unread)}
    for task, lines in kept.items():
        tested = [line for line in lines if line["overlap"] is not None]
        known = [line for line in lines if line["min_k"] is not None]
        dirty = [line for line in tested if line["overlap"] >= DIRTY]
        clean = [line for line in lines if line not in dirty]
        entry: dict[str, Any] = {"items": len(lines), "tested": len(tested), "dirty": len(dirty),
                                 "score_clean": score(clean), "score_dirty": score(dirty)}
        if task != "held_out" and unread:
            likely = [line for line in known if line["min_k"] > max(unread)]
            entry |= {"min_k_tested": len(known), "likely": len(likely), "score_likely": score(likely),
                      "score_not_likely": score([line for line in lines if line not in likely])}
        if known:
            entry["min_k"] = round(math.fsum(line["min_k"] for line in known) / len(known), 4)
        found["tasks"][task] = entry
    return found


def score(lines: Sequence[Item]) -> dict[str, float | int] | None:
    """The pass rate of answers, or bits per byte of texts; None of none."""
    if not lines:
        return None
    if "bytes" in lines[0]:
        return statistics.ratio([-line["answer"] / math.log(2) for line in lines],
                                [line["bytes"] for line in lines]).as_dict()
    return statistics.proportion([line["right"] for line in lines]).as_dict()
