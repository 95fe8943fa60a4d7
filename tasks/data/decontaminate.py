"""Stage `decontaminate`: the training corpus, which shares nothing with what the models are asked.

    python -m tasks.data.decontaminate data/deduped data/evalsets data/corpus data/rejected/decontaminate \\
        metrics/decontaminate.json

Held-out documents leave the corpus. From the others, every passage that shares a run of words with a held-out
document or an evaluation item is cut (tasks/data/overlap.py tells why passages); the cut passages are kept in
`passages.jsonl` beside the rejected documents, each with the item and the run it shares. A document that would lose
more than `max_document` of its text is dropped whole. The stage fails when more than `max_fraction` of the training
text overlaps, and when a second look at what it has written finds any overlap left. Lookup questions are open-book,
their answers must stand in the corpus, so they protect nothing.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, retention, words
from tasks.data.overlap import Protected, strings
from tasks.params import Runtime, Section
from tasks.stage import Input, Output

OPEN_BOOK = "lookup.jsonl"
NOT_TEXT = ("id", "document", "metadata")
NAMED = 5  # items named in a reject, those that share most first


class DecontaminateParams(Section):
    """What counts as overlap, and how much of it stops the chain."""

    ngram: int = Field(ge=8, le=50, description="words in a row that must not be shared")
    max_document: float = Field(gt=0, le=1, description="a document losing more of its text is dropped whole")
    max_fraction: float = Field(ge=0, le=1, description="gate: share of the training text that overlaps evaluation")


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
        protected = protect(self.evalsets, self.params.ngram)
        for document in data:
            if document.id in self.held_out:
                document.metadata["reason"] = "held_out"
            else:
                self.stat_update("training_characters", value=len(document.text))
                if cut := self.cleaned(document, protected):
                    cuts.append(cut)
            yield document
        documents.write(self.passages / f"{rank:05d}.jsonl", cuts)

    def cleaned(self, document: Document, protected: Protected) -> Document | None:
        """Cuts `document` in place, or sets its reason; returns what was cut out of a document that stays."""
        cut = protected.cut(document.text)
        if not cut.items:
            return None
        most = sorted(cut.items, key=lambda item: (-cut.items[item], item))
        pair = {"overlaps": most[:NAMED], "ngram": cut.ngram}
        if cut.fraction > self.params.max_document:
            self.stat_update("contaminated_characters", value=len(document.text))
            document.metadata |= pair | {"reason": "contaminated"}
            return None
        self.stat_update("documents_cut")
        self.stat_update("characters_cut", value=len(cut.removed))
        self.stat_update("contaminated_characters", value=len(cut.removed))
        document.text = cut.text
        return Document(text=cut.removed, id=document.id, metadata=document.metadata | pair | {"reason": "passage"})


class Prove(PipelineStep):
    """Reads what was written and counts the documents that still share a run with evaluation."""

    type, name = "check", "overlap"

    def __init__(self, evalsets: Path, n: int):
        super().__init__()
        self.evalsets, self.n = evalsets.absolute(), n

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Passes no document on."""
        protected = protect(self.evalsets, self.n)
        for document in data:
            if next(iter(protected.shared(words.normal_words(document.text))), None):
                self.stat_update("overlapping")
        yield from ()


@functools.cache
def protect(evalsets: Path, n: int) -> Protected:
    """The runs of every evaluation item under `evalsets`, each a JSON line with an id, read once a process: forked
    workers inherit them, where a pickled copy for every shard costs more than the search. Raises StageError naming
    file and line of what is no item."""
    protected = Protected(n)
    for path in sorted(evalsets.glob("*.jsonl")):
        if path.name != OPEN_BOOK:
            for name, item in items(path):
                protected.add(name, strings({key: value for key, value in item.items() if key not in NOT_TEXT}))
    return protected


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


def decontaminate(deduped: Input, evalsets: Input, kept: Output, rejected: Output, metrics: Output, *,
                  decontaminate: DecontaminateParams, runtime: Runtime) -> None:
    """Write the shards of `deduped` without held-out documents and without overlap to `kept`.

    Raises StageError above `max_fraction`, where any overlap is left, or where no training document is.
    """
    started = time.monotonic()
    shards = documents.shards(deduped)
    protect(evalsets.absolute(), decontaminate.ngram)  # before the workers fork
    held_out = frozenset(document.id for document in documents.read(evalsets / "held_out.jsonl"))
    work = kept / "passages"
    steps = [documents.ReadShards(deduped), Remove(evalsets, held_out, work, decontaminate),
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
    proof = [documents.ReadShards(kept), Prove(evalsets, decontaminate.ngram)]
    left = executor.run("decontaminate-proof", proof, len(shards), runtime)
    if left["overlapping"]:
        raise stage.StageError(f"{left['overlapping']} documents still overlap evaluation after the cut; this is a "
                               "fault of the stage")
    stage.write_json(metrics, table | {
        "training_characters": training, "contaminated_characters": found,
        "contaminated_fraction": round(fraction, 6),
        "documents_cut": int(counts["documents_cut"]), "characters_cut": int(counts["characters_cut"]),
        "overlapping_after": int(left["overlapping"]), "limit": decontaminate.max_fraction})
    stage.write_timing("decontaminate", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(decontaminate)
