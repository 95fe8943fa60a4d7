"""Stage `decontaminate`: the training text, which shares nothing with what the models are asked.

    python -m tasks.data.decontaminate data/valued data/evalsets data/clean data/rejected/decontaminate \\
        metrics/decontaminate.json

Held-out documents leave the corpus. So do their near duplicates and documents that stand inside an evaluation item.
From the others, every passage that shares a run of words with a held-out document or an evaluation item is cut
(tasks/data/overlap.py tells why passages), and every passage that retells one (tasks/data/resemblance.py); the cut
passages are kept in `passages.jsonl` beside the rejected documents. A document that would lose more than
`max_document` of its text is dropped whole. Every reject names the items it is like (`overlaps`, the most alike first),
the `direction`, the `similarity` and an `excerpt` of both sides. The stage fails when more than `max_fraction` of the
training text overlaps, and when a second look at what it has written finds any overlap left. Lookup questions are
open-book, their answers must stand in the corpus, so they protect nothing.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, retention, words
from tasks.data.overlap import Cut, Protected, strings
from tasks.data.resemblance import Evaluation, Pair, ResemblanceParams
from tasks.data.shingles import Words
from tasks.params import Runtime, Section
from tasks.stage import Input, Output

OPEN_BOOK = "lookup.jsonl"
NOT_TEXT = ("id", "document", "metadata")
NAMED = 5  # items named in a reject, those that share most first
DIRECTIONS = ("ngram", "near_duplicate", "document_in_item", "item_in_document")


class DecontaminateParams(Section):
    """What counts as overlap, and how much of it stops the chain."""

    ngram: int = Field(ge=8, le=50, description="words in a row that must not be shared")
    max_document: float = Field(gt=0, le=1, description="a document losing more of its text is dropped whole")
    max_fraction: float = Field(ge=0, le=1, description="gate: share of the training text that overlaps evaluation")
    resemblance: ResemblanceParams


class Remove(PipelineStep):
    """Drops held-out and overlapping documents, cuts overlapping passages out and writes them to `passages`."""

    type, name = "filter", "contamination"

    def __init__(self, evalsets: Path, held_out: frozenset[str], passages: Path, params: DecontaminateParams):
        super().__init__()
        self.evalsets, self.held_out, self.params = evalsets.absolute(), held_out, params
        self.passages = passages.absolute()

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, cut or with the reason it goes."""
        cuts: list[Document] = []
        protected, evaluation = protect(self.evalsets, self.params.ngram, self.params.resemblance)
        for document in data:
            if document.id in self.held_out:
                document.metadata["reason"] = "held_out"
            else:
                self.stat_update("training_characters", value=len(document.text))
                if cut := self.cleaned(document, protected, evaluation):
                    cuts.append(cut)
            yield document
        documents.write(self.passages / f"{rank:05d}.jsonl", cuts)

    def cleaned(self, document: Document, protected: Protected, evaluation: Evaluation) -> Document | None:
        """Cuts `document` in place, or sets its reason; returns what was cut out of a document that stays."""
        text = document.text
        whole = evaluation.whole(text, Words(words.normal_words(text)))
        cut = Cut(text, "") if whole else protected.cut(text, evaluation)
        if not whole and cut.removed:
            whole = evaluation.whole(cut.text, Words(words.normal_words(cut.text)))
        if whole:
            self.count([whole], len(text))
            document.metadata |= {"overlaps": [whole.item], "reason": whole.direction} | whole.described()
            return None
        if not cut.removed:
            return None
        most = sorted(cut.items, key=lambda item: (-cut.items[item], item))
        retold = sorted(cut.retold.values(), key=lambda pair: (-pair.similarity, pair.item))
        first = evaluation.quoted(most[0], cut.runs[most[0]], cut.removed) if most else retold[0]
        pair = {"overlaps": list(dict.fromkeys(most + [pair.item for pair in retold]))[:NAMED]} | first.described()
        if most:
            pair["ngram"] = cut.runs[most[0]]
        gone = cut.fraction > self.params.max_document
        self.count(retold, len(text) if gone else len(cut.removed), ngrams=len(most))
        if gone:
            document.metadata |= pair | {"reason": "contaminated"}
            return None
        self.stat_update("documents_cut")
        self.stat_update("characters_cut", value=len(cut.removed))
        document.text = cut.text
        return Document(text=cut.removed, id=document.id, metadata=document.metadata | pair | {"reason": "passage"})

    def count(self, pairs: list[Pair], characters: int, ngrams: int = 0) -> None:
        """Counts one contaminated document, its characters that overlap, and its pairs by direction."""
        self.stat_update("contaminated_characters", value=characters)
        for direction, found in (*Counter(pair.direction for pair in pairs).items(), ("ngram", ngrams)):
            if found:
                self.stat_update(f"documents/{direction}")
                self.stat_update(f"pairs/{direction}", value=found)


class Prove(PipelineStep):
    """Reads what was written and counts the documents that are still like an evaluation item in any direction."""

    type, name = "check", "overlap"

    def __init__(self, evalsets: Path, params: DecontaminateParams):
        super().__init__()
        self.evalsets, self.params = evalsets.absolute(), params

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Passes no document on."""
        protected, evaluation = protect(self.evalsets, self.params.ngram, self.params.resemblance)
        for document in data:
            own = Words(words.normal_words(document.text))
            if (next(protected.shared(own), None) or evaluation.whole(document.text, own)
                    or next(evaluation.stretches(own), None)):
                self.stat_update("overlapping")
        yield from ()


@functools.cache
def protect(evalsets: Path, n: int, resemblance: ResemblanceParams) -> tuple[Protected, Evaluation]:
    """The runs and the shingles of every evaluation item under `evalsets`, each a JSON line with an id, read once a
    process: forked workers inherit them, where a pickled copy for every shard costs more than the search. Raises
    StageError naming file and line of what is no item."""
    protected, evaluation = Protected(n), Evaluation(resemblance)
    for path in sorted(evalsets.glob("*.jsonl")):
        if path.name != OPEN_BOOK:
            for name, item in items(path):
                texts = strings({key: value for key, value in item.items() if key not in NOT_TEXT})
                protected.add(name, texts)
                evaluation.add(name, texts)
    return protected, evaluation


def items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, item) of each line of an evaluation set. Raises StageError naming file and line of a corrupt one."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                item = json.loads(line)
                yield str(item["id"]), item
            except (ValueError, KeyError, TypeError) as error:
                raise stage.StageError(f"{path}:{number} is no evaluation item ({type(error).__name__}: {error}): "
                                       "it must be a JSON object with an id; run the evalsets stage again") from None


def decontaminate(valued: Input, evalsets: Input, kept: Output, rejected: Output, metrics: Output, *,
                  decontaminate: DecontaminateParams, runtime: Runtime) -> None:
    """Write the shards of `valued` without held-out documents and without overlap to `kept`.

    Raises StageError above `max_fraction`, where any overlap is left, or where no training document is.
    """
    started = time.monotonic()
    shards = documents.shards(valued)
    protect(evalsets.absolute(), decontaminate.ngram, decontaminate.resemblance)  # before the workers fork
    held_out = frozenset(document.id for document in documents.read(evalsets / "held_out.jsonl"))
    work = kept / "passages"
    steps = [documents.ReadShards(valued), Remove(evalsets, held_out, work, decontaminate),
             documents.WriteShards(kept, rejected)]
    counts = executor.run("decontaminate", steps, len(shards), runtime)
    documents.write(rejected / "passages.jsonl", (d for shard in sorted(work.glob("*.jsonl"))
                                                   for d in documents.read(shard)))
    stage.remove(work)
    table = retention.table(counts)
    training, found = int(counts["training_characters"]), int(counts["contaminated_characters"])
    fraction = found / max(1, training)
    if fraction > decontaminate.max_fraction:
        raise stage.StageError(
            f"{fraction:.2%} of the training text ({found} of {training} characters) overlaps evaluation, the limit "
            f"decontaminate.max_fraction is {decontaminate.max_fraction:.2%}: take the evaluation's source out of "
            "`sources`, or hold out documents that stand alone")
    if not table["kept"]:
        raise stage.StageError(f"no training document is left of {table['read']} {table['dropped']}: "
                               "lower evalsets.split.fraction or add sources")
    proof = [documents.ReadShards(kept), Prove(evalsets, decontaminate)]
    left = executor.run("decontaminate-proof", proof, len(shards), runtime)
    if left["overlapping"]:
        raise stage.StageError(f"{left['overlapping']} documents still overlap evaluation after the cut; this is a "
                               "fault of the stage")
    stage.write_json(metrics, table | {
        "training_characters": training, "contaminated_characters": found,
        "contaminated_fraction": round(fraction, 6),
        "documents_cut": int(counts["documents_cut"]), "characters_cut": int(counts["characters_cut"]),
        "directions": {direction: {"documents": int(counts[f"documents/{direction}"]),
                                   "pairs": int(counts[f"pairs/{direction}"])} for direction in DIRECTIONS},
        "overlapping_after": int(left["overlapping"]), "limit": decontaminate.max_fraction})
    stage.write_timing("decontaminate", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(decontaminate)
