"""Stage `index`: where every word of the training documents stands, so that an answer can be traced to them.

    python -m tasks.data.trace_index data/corpus data/index metrics/index.json

A suffix array (Manber and Myers 1993; sorted by Mori's libdivsufsort through pydivsufsort) over the documents in the
form of tasks/data/trace_text.py, kept at the starts of words only, as infini-gram (Liu et al. 2024, arXiv:2401.17377)
keeps it at tokens. Documents are gathered in their order into parts of `part_megabytes`: sorting takes some six bytes
of memory a byte of one part, the index grows linearly with the corpus, and a query looks into every part. Documents
that the mixture trains on no time are left out. tasks/data/trace.py reads what is written here:

    index.json                 the parts, and how much they hold
    00000.text                 the documents' forms, a line each
    00000.suffixes             uint32: bytes of the text at which words start, in the order of what follows them
    00000.documents.jsonl      id, url, licence, source and language of each document
    00000.offsets              uint64 [documents, 2]: where each begins in the two files before
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from pydantic import Field
from pydivsufsort import divsufsort

from tasks import stage
from tasks.data import documents, trace_text
from tasks.data.epochs import copies
from tasks.params import Section
from tasks.progress import track
from tasks.stage import Input, Output, StageError

FORMAT = 1
TOLD = ("url", "licence", "source", "language")
LARGEST = 2**31 - 1     # bytes of a part: the faster of libdivsufsort's two sorts counts in 32 bits


class IndexParams(Section):
    """How the index is cut; what a query finds does not depend on it."""

    part_megabytes: int = Field(ge=1, le=1024, description="of documents sorted together")


def index(corpus: Input, made: Output, metrics: Output, *, index: IndexParams) -> None:
    """Write the index of the documents of `corpus` (shards) that are trained on to `made`.

    Raises StageError where there is no such document, and for one that is larger than a part can be.
    """
    began = time.monotonic()
    made.mkdir()
    seen = {"documents": 0, "left_out": 0, "text_bytes": 0}
    rows: list[dict[str, Any]] = []
    part: list[tuple[Document, bytes]] = []
    held = 0
    for document in trained(corpus, seen):
        form = trace_text.marked(document.text)
        if part and held + len(form) > index.part_megabytes * 10**6:
            rows.append(write(made, len(rows), part))
            part, held = [], 0
        part.append((document, form))
        held += len(form)
    if not part:
        raise StageError(f"{corpus} holds no document that is trained on: raise the weights of `mixture`")
    rows.append(write(made, len(rows), part))
    stage.write_json(made / "index.json", {"format": FORMAT, "parts": rows, **seen})
    size = sum(path.stat().st_size for path in made.iterdir())
    stage.write_json(metrics, seen | {"parts": len(rows), "words": sum(row["words"] for row in rows),
                                      "index_bytes": size, "bytes_a_byte": round(size / max(1, seen["text_bytes"]), 4)})
    stage.write_timing("index", {"seconds": round(time.monotonic() - began, 2), "documents": seen["documents"]})


def trained(corpus: Path, seen: dict[str, int]) -> Iterator[Document]:
    """The documents that stand in the training text at least once, counted in `seen`."""
    for shard in track(documents.shards(corpus), what="index", unit="shard"):
        for document in documents.read(shard):
            if not copies(document.id, document.metadata.get("epochs", 1)):
                seen["left_out"] += 1
                continue
            seen["documents"] += 1
            seen["text_bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
            yield document


def write(folder: Path, number: int, part: list[tuple[Document, bytes]]) -> dict[str, Any]:
    """Write part `number` of the index; its row of index.json."""
    marked = np.frombuffer(b"\n".join(form for _, form in part) + b"\n", np.uint8)
    if len(marked) > LARGEST:
        raise StageError(f"document {part[0][0].id} is larger than {LARGEST} bytes: split it at its source")
    marks = np.flatnonzero(marked == ord(trace_text.START))
    text = marked[marked != ord(trace_text.START)]
    is_start = np.zeros(len(text), bool)
    is_start[marks - np.arange(len(marks))] = True      # a mark stands where its word does once all before it are gone
    order = divsufsort(text)
    suffixes = order[is_start[order]].astype("<u4")
    heads = np.concatenate([[0], np.flatnonzero(text == ord("\n"))[:-1] + 1])
    lines = [json.dumps({"id": document.id} | {key: document.metadata.get(key) for key in TOLD}, ensure_ascii=False,
                        sort_keys=True).encode("utf-8", "backslashreplace") + b"\n" for document, _ in part]
    places = np.cumsum([0, *map(len, lines[:-1])])
    name = folder / f"{number:05d}"
    text.tofile(name.with_suffix(".text"))
    suffixes.tofile(name.with_suffix(".suffixes"))
    np.stack([heads, places], axis=1).astype("<u8").tofile(name.with_suffix(".offsets"))
    name.with_suffix(".documents.jsonl").write_bytes(b"".join(lines))
    return {"name": name.name, "documents": len(part), "bytes": len(text), "words": len(suffixes)}


if __name__ == "__main__":
    stage.run(index)
