"""Stage `picture`: what the text looks like before and after the chain of data stages, counted and shown.

    python -m tasks.data.picture data/crawl data/sources data/extracted data/corpus data/picture metrics/picture.json

A corpus shard is its extracted shard with documents left out, so the two are read side by side, one document of each at
a time. Counted: documents and characters of each source, language, domain, licence, snapshot and year, documents by
length (powers of two) and by score (tenths). Shown, in `samples.jsonl`: a few documents that stayed, chosen by the hash
of their id, each language and source in turn, masked and changed ones first: as the raw page, as extracted, as trained
on, and what was cut out of them or put in its place. They are to be published, so what the chain masks is withheld in
every text of them.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from resiliparse.extract.html2text import extract_plain_text

from tasks import stage
from tasks.data import documents, executor, pages, payloads, pii
from tasks.data.extract import ExtractParams, inputs
from tasks.params import Runtime
from tasks.stage import Input, Output, StageError

SAMPLES, CHARACTERS = 8, 1500
KEYS = ("source", "language", "domain", "licence", "snapshot", "year")
BINS = 10
SIDES = ("before", "after")


def walk(before: Path, after: Path) -> Iterator[tuple[Document, Document | None]]:
    """Each document of the shard `before` with the one of the same id in the shard `after`, None where it is gone.

    Raises StageError where `after` has a document that `before` lacks or has elsewhere.
    """
    left = documents.read(after)
    kept = next(left, None)
    for document in documents.read(before):
        if kept is not None and kept.id == document.id:
            yield document, kept
            kept = next(left, None)
        else:
            yield document, None
    if kept is not None:
        raise StageError(f"{after} holds {kept.id}, which {before} has not at this place: they are of different runs; "
                         "run the chain again (dvc repro)")


def counts(document: Document, side: str) -> Iterator[tuple[str, int]]:
    """(label, amount) of what one document adds; a label is `side/kind/...`, where the last part may hold slashes."""
    metadata, length = document.metadata, len(document.text)
    cell = json.dumps([metadata.get(key) for key in KEYS])
    language = str(metadata.get("language"))
    yield f"{side}/documents/{cell}", 1
    yield f"{side}/characters/{cell}", length
    yield f"{side}/length/{max(0, length.bit_length() - 1)}/{language}", 1
    for name, value in sorted((metadata.get("scores") or {}).items()):
        yield f"{side}/score/{min(BINS - 1, int(value * BINS))}/{name}/{language}", 1


def difference(before: str, after: str) -> tuple[str, str]:
    """(lines of `before` that `after` has not, lines of `after` that `before` has not), in order, repeats counted."""
    own, others = before.split("\n"), after.split("\n")
    return lacking(own, others), lacking(others, own)


def lacking(own: list[str], others: list[str]) -> str:
    """The lines of `own` that are not in `others`, or there less often."""
    there, out = Counter(others), []
    for line in own:
        if there[line]:
            there[line] -= 1
        elif line.strip():
            out.append(line)
    return "\n".join(out)


def sample(before: Document, after: Document, shard: int) -> Document:
    """What is kept of a document that may be shown: how it ended as text, the rest as metadata; long texts cut."""
    cut, put = difference(before.text, after.text)
    return Document(text=shown(after.text), id=after.id, metadata={
        **{key: after.metadata.get(key) for key in (*KEYS, "url")}, "masked": after.metadata.get("masked") or {},
        "shard": shard, "tier": tier(before, after),
        "extracted": shown(before.text), "cut": shown(cut), "put": shown(put),
        "characters": {"before": len(before.text), "after": len(after.text), "cut": len(cut), "put": len(put)}})


def shown(text: str) -> str:
    """The first CHARACTERS of `text` without personal data."""
    return pii.withhold(text)[:CHARACTERS]


def tier(before: Document, after: Document) -> int:
    """0 for a document with masked data, 1 for another changed one, 2 for one that stayed as it was."""
    return 0 if after.metadata.get("masked") else 1 if before.text != after.text else 2


def place(name: str) -> int:
    """Where the hash of a document's id puts it in the order of choice."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8])


class Compare(PipelineStep):
    """Counts both sides of shard number `rank`, and writes its candidates for samples to `work`."""

    type, name = "reader", "before and after"

    def __init__(self, extracted: Path, corpus: Path, work: Path):
        super().__init__()
        self.shards = [(path.absolute(), (corpus / path.name).absolute()) for path in documents.shards(extracted)]
        self.work = work.absolute()

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Passes no document on."""
        sums: Counter[str] = Counter()
        drawn: dict[tuple[str, str, int], list[tuple[int, str, Document]]] = defaultdict(list)  # heaps, worst first
        for number in range(rank, len(self.shards), world_size):
            for before, after in walk(*self.shards[number]):
                for label, amount in counts(before, "before"):
                    sums[label] += amount
                if after is None:
                    continue
                for label, amount in counts(after, "after"):
                    sums[label] += amount
                about = after.metadata
                heap = drawn[str(about.get("language")), str(about.get("source")), tier(before, after)]
                if len(heap) < SAMPLES:
                    heapq.heappush(heap, (-place(after.id), after.id, sample(before, after, number)))
                elif -place(after.id) > heap[0][0]:
                    heapq.heapreplace(heap, (-place(after.id), after.id, sample(before, after, number)))
        for label, amount in sums.items():
            self.stat_update(label, value=amount)
        documents.write(self.work / f"{rank:05d}.jsonl", (one for heap in drawn.values() for _, _, one in heap))
        yield from ()


def chosen(candidates: Iterable[Document]) -> list[Document]:
    """SAMPLES of the candidates: each language in turn, of a language each source in turn, of both by tier and hash."""
    queues: dict[str, list[tuple[int, int, Document]]] = defaultdict(list)
    taken: Counter[tuple[str, str, int]] = Counter()
    for one in sorted(candidates, key=lambda d: place(d.id)):
        key = str(one.metadata["language"]), str(one.metadata["source"]), one.metadata.pop("tier")
        queues[key[0]].append((key[2] + taken[key], place(one.id), one))
        taken[key] += 1
    turns = [(turn, language, one) for language, queue in queues.items()
             for turn, (_, _, one) in enumerate(sorted(queue, key=lambda item: item[:2]))]
    return [one for _, _, one in sorted(turns, key=lambda item: item[:2])[:SAMPLES]]


def raw(files: list[Path], origins: dict[str, Any], page_bytes: int, wanted: dict[int, set[str]]) -> dict[str, str]:
    """id -> the whole text of the page as it was fetched, menus and all, of the `wanted` ids by file number.

    Raises StageError where a file has not the document that was made from it.
    """
    found = {}
    for number, names in sorted(wanted.items()):
        reader, left = pages.ReadPages(files, origins, page_bytes), set(names)
        for document in reader.run(rank=number, world_size=len(files)):
            if document.id in left:
                found[document.id] = whole_text(document.metadata.get("payload") or document.text)
                left.remove(document.id)
                if not left:
                    break
        if left:
            raise StageError(f"{files[number]} has no page {min(left)}, which the extracted text has: they are of "
                             "different runs; run the chain again (dvc repro)")
    return found


def whole_text(payload: pages.Payload | str) -> str:
    """Everything a reader of the page would see, of a response or a text."""
    if isinstance(payload, str):
        return payload
    if payload.kind in payloads.READERS:
        return payloads.READERS[payload.kind](payload.body)
    text = pages.decode(payload.body, payload.charset)
    return extract_plain_text(text, main_content=False, alt_texts=False) if payload.kind in pages.HTML else text


def table(sums: Counter[str]) -> dict[str, dict[str, Any]]:
    """{"before", "after"} -> documents, characters, "cells" (both by KEYS), "length" (language -> power of two ->
    documents) and "scores" (name -> language -> documents by tenth)."""
    made: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        cells: dict[str, dict[str, int]] = {}
        length: dict[str, dict[str, int]] = {}
        scores: dict[str, dict[str, list[int]]] = {}
        for label in sorted(label for label in sums if label.startswith(f"{side}/")):
            _, kind, rest = label.split("/", 2)
            if kind in ("documents", "characters"):
                cells.setdefault(rest, {})[kind] = int(sums[label])
            elif kind == "length":
                power, language = rest.split("/", 1)
                length.setdefault(language, {})[power] = int(sums[label])
            else:
                tenth, name, language = rest.split("/", 2)
                bins = scores.setdefault(name, {}).setdefault(language, [0] * BINS)
                bins[int(tenth)] = int(sums[label])
        rows = [dict(zip(KEYS, json.loads(cell))) | amounts for cell, amounts in sorted(cells.items())]
        made[side] = {key: sum(row[key] for row in rows) for key in ("documents", "characters")} | {
            "cells": rows, "length": length, "scores": scores}
    return made


def picture(crawl: Input, sources: Input, extracted: Input, corpus: Input, samples: Output, metrics: Output, *,
            extract: ExtractParams, runtime: Runtime) -> None:
    """Write the samples to `samples`/samples.jsonl and the counts to `metrics`.

    Raises StageError where the inputs are not of one run: another number of shards, a document that came from nowhere.
    """
    started = time.monotonic()
    files, shards = inputs(crawl, sources), documents.shards(extracted)
    if len(files) != len(shards) or [p.name for p in documents.shards(corpus)] != [p.name for p in shards]:
        raise StageError(f"{extracted} has {len(shards)} shards of {len(files)} input files and {corpus} has "
                         f"{len(documents.shards(corpus))}: of different runs; run the chain again (dvc repro)")
    work = samples / "candidates"
    sums = executor.run("picture", [Compare(extracted, corpus, work)], len(shards), runtime)
    picked = chosen(one for shard in sorted(work.glob("*.jsonl")) for one in documents.read(shard))
    stage.remove(work)
    wanted: dict[int, set[str]] = defaultdict(set)
    for one in picked:
        wanted[one.metadata.pop("shard")].add(one.id)
    origins = json.loads((crawl / "origins.json").read_text(encoding="utf-8"))
    fetched = raw(files, origins, extract.page_bytes, wanted)
    with documents.written(samples / "samples.jsonl") as put:
        for one in picked:
            one.metadata["raw"] = shown(fetched[one.id])
            one.metadata["characters"]["raw"] = len(fetched[one.id])
            put(one)
    made = table(sums)
    stage.write_json(metrics, made)
    stage.write_timing("picture", {"seconds": round(time.monotonic() - started, 2),
                                   "documents": made["before"]["documents"]})


if __name__ == "__main__":
    stage.run(picture)
