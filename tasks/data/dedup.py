"""Stage `dedup`: one page of each text. Same text, same address and nearly the same text are dropped.

    python -m tasks.data.dedup data/filtered data/deduped data/rejected/dedup metrics/dedup.json

Three passes: every shard is fingerprinted in parallel; one process goes through the fingerprints in the order of the
documents' ids and keeps the first of each; every shard is written in parallel, its rejects with the id of what they
repeat (`metadata.duplicate_of`) and, near duplicates, the estimated similarity. Reasons: `exact` (equal words, case
and punctuation aside), `url` (same canonical address), `near` (MinHash, tasks/data/minhash.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, minhash, retention, words
from tasks.params import Runtime, Section
from tasks.stage import Input, Output

INDEX_FILES = ("index.html", "index.htm", "default.html", "index.php")


class DedupParams(Section):
    """How alike two pages must be for the later one to go."""

    permutations: int = Field(ge=16, le=1024, description="MinHash signature length; error sqrt(j(1-j)/permutations)")
    shingle: int = Field(ge=1, le=20, description="words a shingle")
    threshold: float = Field(gt=0, le=1, description="Jaccard similarity from which on a page is a duplicate")


class Fingerprint(PipelineStep):
    """Writes each rank's fingerprints to `folder`/<rank>.npz: ids, hashes of the words, addresses, signatures."""

    type, name = "dedup", "fingerprint"

    def __init__(self, folder: Path, params: DedupParams, seed: int):
        super().__init__()
        self.folder, self.params, self.seed = folder.absolute(), params, seed

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Fingerprints every document; passes none on."""
        rows, signatures = [], []
        for document in data:
            tokens = words.normal_words(document.text)
            exact = hashlib.sha256(" ".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()
            rows.append([document.id, exact, canonical(str(document.metadata.get("url") or ""))])
            signatures.append(minhash.signature(tokens, self.params.permutations, self.params.shingle, self.seed))
        matrix = np.array(signatures, dtype=np.uint32).reshape(len(rows), self.params.permutations)
        np.savez(self.folder / f"{rank:05d}.npz", signatures=matrix,
                 rows=np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8))
        yield from ()


class Drop(PipelineStep):
    """Sets reason, duplicate_of and similarity on the documents the verdicts name."""

    type, name = "filter", "duplicates"

    def __init__(self, verdicts: dict[str, dict[str, Any]]):
        super().__init__()
        self.verdicts = verdicts

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, with its verdict."""
        for document in data:
            document.metadata |= self.verdicts.get(document.id, {})
            yield document


def canonical(url: str) -> str:
    """An address without what does not change the page: scheme, fragment, case of the host, default port, index file,
    trailing slash. The query stays. What is no web address stays as it is; "" for a broken one."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return ""
    if not host:
        return url.strip()
    if port and port != {"http": 80, "https": 443}.get(parts.scheme):
        host = f"{host}:{port}"
    path = parts.path
    for name in INDEX_FILES:
        path = path.removesuffix("/" + name)
    return f"{host}{path.rstrip('/')}" + (f"?{parts.query}" if parts.query else "")


def fingerprints(folder: Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(id, hash of words, address, signature) of every document, in the order of the ids."""
    every = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as shard:
            every += [(*row, signature) for row, signature
                      in zip(json.loads(shard["rows"].tobytes()), shard["signatures"])]
    return iter(sorted(every, key=lambda entry: entry[0]))


def verdicts(entries: Iterator[tuple[str, str, str, np.ndarray]], params: DedupParams) -> dict[str, dict[str, Any]]:
    """id -> metadata to set, for the documents to drop. Raises StageError where two documents share an id."""
    index = minhash.Index(params.threshold, params.permutations)
    numbered: list[str] = []
    exact: dict[str, str] = {}
    addresses: dict[str, str] = {}
    dropped: dict[str, dict[str, Any]] = {}
    previous = None
    for name, text, url, signature in entries:
        if name == previous:
            raise stage.StageError(f"two documents have the id {name}: ids must be unique, remake the extract stage")
        previous = name
        if text in exact:
            dropped[name] = {"reason": "exact", "duplicate_of": exact[text]}
        elif url and url in addresses:
            dropped[name] = {"reason": "url", "duplicate_of": addresses[url]}
        elif near := index.nearest(signature):
            dropped[name] = {"reason": "near", "duplicate_of": numbered[near[0]], "similarity": round(near[1], 3)}
        else:
            index.add(signature)
            numbered.append(name)
            exact[text] = name
            addresses[url] = name
    return dropped


def dedup(filtered: Input, kept: Output, rejected: Output, metrics: Output, *,
          dedup: DedupParams, seed: int, runtime: Runtime) -> None:
    """Keep the first document, by id, of each text in the shards of `filtered`."""
    started = time.monotonic()
    shards = documents.shards(filtered)
    with tempfile.TemporaryDirectory(f".partial-{os.getpid()}", ".fingerprints", kept.parent) as folder:
        steps = [documents.ReadShards(filtered), Fingerprint(Path(folder), dedup, seed)]
        executor.run("dedup-fingerprints", steps, len(shards), runtime)
        dropped = verdicts(fingerprints(Path(folder)), dedup)
    steps = [documents.ReadShards(filtered), Drop(dropped), documents.WriteShards(kept, rejected)]
    table = retention.table(executor.run("dedup", steps, len(shards), runtime))
    stage.write_json(metrics, table)
    stage.write_timing("dedup", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(dedup)
