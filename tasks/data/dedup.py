"""Stage `dedup`: one page of each text, the newest. Same text, same address, nearly the same text are dropped, and
what a page repeats of another is cut.

    python -m tasks.data.dedup data/filtered data/deduped data/rejected/dedup metrics/dedup.json

Three passes: every shard is fingerprinted in parallel (tasks/data/fingerprints.py); one process goes through the
fingerprints from the newest `metadata.snapshot` to the oldest, within one by id, and keeps the first of each; every
shard is written in parallel, its rejects with the id of what they repeat (`metadata.duplicate_of`). Reasons: `exact`
(equal words, case and punctuation aside), `url` (same canonical address), `near` (MinHash, tasks/data/minhash.py, with
the estimated `similarity`), `repeated` (most of it stands in others, tasks/data/repeats.py, with the share). Passages
cut from documents that stay are in `passages.jsonl` beside the rejects.

A page is compared with those kept, never with those dropped: with connected components, the usual choice, a chain of
versions takes its ends along, however unlike they are (benchmarks/dedup.py measures both).
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, fingerprints, repeats, retention
from tasks.data.fingerprints import FingerprintParams, Table
from tasks.data.remembered import Memory
from tasks.params import Runtime
from tasks.stage import Input, Output


class DedupParams(FingerprintParams):
    """How alike two pages must be for the older one to go, and how much it may repeat to stay."""

    max_repeated: float = Field(gt=0, le=1, description="a document repeating more of its text is dropped whole")


class Fingerprint(PipelineStep):
    """Writes each shard's fingerprints to `folder`."""

    type, name = "dedup", "fingerprint"

    def __init__(self, folder: Path, params: DedupParams, seed: int):
        super().__init__()
        self.folder, self.params, self.seed = folder.absolute(), params, seed
        self.memory = Memory("dedup-fingerprints", params, seed)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Fingerprints every document; passes none on."""
        names, found = [], []
        with self.memory.opened(rank, self) as remember:
            for document in data:
                names.append((document.id, str(document.metadata.get("snapshot") or "")))
                found.append(fingerprints.Fingerprint(*remember(document, functools.partial(self.made, document))))
        fingerprints.write(self.folder, rank, names, found, self.params)
        yield from ()

    def made(self, document: Document) -> fingerprints.Fingerprint:
        """The fingerprint of one document, of its text and address alone."""
        url = str(document.metadata.get("url") or "")
        return fingerprints.fingerprint(document.text, url, self.params, self.seed)


class Drop(PipelineStep):
    """Carries out the verdicts in `folder`: reasons are set, passages cut out and written to `passages`."""

    type, name = "filter", "duplicates"

    def __init__(self, folder: Path, passages: Path):
        super().__init__()
        self.folder, self.passages = folder.absolute(), passages.absolute()

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, with its verdict."""
        verdicts = json.loads((self.folder / f"{rank:05d}.verdicts.json").read_text(encoding="utf-8"))
        cuts = []
        for document in data:
            verdict = verdicts.get(document.id, {})
            spans = verdict.pop("spans", None)
            if spans:
                document.text, gone = repeats.cut(document.text, spans)
                self.stat_update("documents_cut")
                self.stat_update("characters_cut", value=sum(end - start for start, end in spans))
                cuts.append(Document(text=gone, id=document.id,
                                     metadata=document.metadata | verdict | {"reason": "passage"}))
            else:
                document.metadata |= verdict
            yield document
        documents.write(self.passages / f"{rank:05d}.jsonl", cuts)


def judge(table: Table, params: DedupParams) -> dict[int, dict[str, Any]]:
    """number -> metadata to set, for the documents to drop; {"duplicate_of", "repeated", "spans"} for those to cut."""
    exact, address = table.groups
    kept_text = np.full(len(exact), -1, np.int32)
    kept_page = np.full(len(exact), -1, np.int32)
    index = table.index(params.threshold)
    kept = np.zeros(len(exact), bool)
    verdicts: dict[int, dict[str, Any]] = {}
    for number, (text, page) in enumerate(zip(exact, address)):
        first, similarity = int(kept_text[text]), None
        reason = "exact"
        if first < 0 and page >= 0:
            first, reason = int(kept_page[page]), "url"
        if first < 0 and (near := index.nearest(number)):
            (first, similarity), reason = near, "near"
        if first < 0:
            first = number
            index.add(number)
            kept[number], kept_text[text] = True, number
        else:
            verdicts[number] = {"reason": reason, "duplicate_of": table.names[first]}
            if similarity is not None:
                verdicts[number]["similarity"] = round(similarity, 3)
        if page >= 0 and kept_page[page] < 0:  # also of a dropped page: an older one at its address is stale
            kept_page[page] = first
    for number, other, share, spans in table.repeated(kept, params.max_repeated):
        verdicts[number] = {"duplicate_of": table.names[other], "repeated": round(share, 3)} | (
            {"reason": "repeated"} if share > params.max_repeated else {"spans": spans.tolist()})
    return verdicts


def write_verdicts(table: Table, verdicts: dict[int, dict[str, Any]]) -> None:
    """Each shard's verdicts by id, beside its fingerprints."""
    for stem, numbers in zip(table.stems, table.numbers):
        own = {table.names[number]: verdicts[number] for number in numbers.tolist() if number in verdicts}
        (table.folder / f"{stem}.verdicts.json").write_text(json.dumps(own), encoding="utf-8")


def dedup(filtered: Input, kept: Output, rejected: Output, metrics: Output, *,
          dedup: DedupParams, seed: int, runtime: Runtime) -> None:
    """Keep the newest document of each text in the shards of `filtered`, and of each passage its first."""
    started = time.monotonic()
    shards = documents.shards(filtered)
    with tempfile.TemporaryDirectory(f".partial-{os.getpid()}", ".fingerprints", kept.parent) as folder:
        work = Path(folder)
        executor.run("dedup-fingerprints", [documents.ReadShards(filtered), Fingerprint(work, dedup, seed)],
                     len(shards), runtime)
        judging = time.monotonic()
        table = Table(work)
        write_verdicts(table, judge(table, dedup))
        judging = time.monotonic() - judging
        steps = [documents.ReadShards(filtered), Drop(work, work / "passages"), documents.WriteShards(kept, rejected)]
        counts = executor.run("dedup", steps, len(shards), runtime)
        documents.write(rejected / "passages.jsonl", (document for shard in sorted((work / "passages").glob("*.jsonl"))
                                                       for document in documents.read(shard)))
    rows = retention.table(counts)
    stage.write_json(metrics, rows | {"documents_cut": int(counts["documents_cut"]),
                                      "characters_cut": int(counts["characters_cut"])})
    stage.write_timing("dedup", {"seconds": round(time.monotonic() - started, 2), "documents": rows["read"],
                                 "global_seconds": round(judging, 2)})


if __name__ == "__main__":
    stage.run(dedup)
