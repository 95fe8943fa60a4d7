"""Documents on disk, the form every data stage reads and writes: shards of `{"text", "id", "metadata"}` lines.

A shard is a `.jsonl` file; its documents stand in the order in which its input has them. Rejects have the same form
with `metadata.reason`. Each datatrove rank reads one input shard and writes one output shard of the same number, one
document at a time, so that memory does not grow with the shard.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from tasks.stage import StageError


def shards(folder: Path) -> list[Path]:
    """The shard files of `folder` in order. Raises StageError where there is none."""
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise StageError(f"{folder} holds no .jsonl shard: run the stage that makes it (dvc repro)")
    return found


def read(shard: Path) -> Iterator[Document]:
    """The documents of a shard. Raises StageError naming file and line at the first one that is not whole."""
    with shard.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                item = json.loads(line)
                text, name, metadata = item["text"], item["id"], item["metadata"]
                if not (isinstance(text, str) and isinstance(name, str) and isinstance(metadata, dict)):
                    raise TypeError("text, id or metadata has another type")
            except (ValueError, KeyError, TypeError) as error:
                raise StageError(f"{shard}:{number} is not a document ({type(error).__name__}: {error}): "
                                 "the shard is corrupt; remake it by running its stage again") from None
            yield Document(text=text, id=name, metadata=metadata)


def write(shard: Path, documents: Iterable[Document]) -> None:
    """Write `documents` in the order of their ids to `shard`, aside and then renamed."""
    with written(shard) as put:
        for document in sorted(documents, key=lambda d: d.id):
            put(document)


@contextlib.contextmanager
def written(shard: Path) -> Iterator[Callable[[Document], None]]:
    """A function that appends a document to `shard`, which appears when the block has ended well. A lone surrogate,
    which UTF-8 cannot hold, is written as its JSON escape."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    partial = shard.with_name(f".{shard.name}.partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:

        def put(document: Document) -> None:
            item = {"text": document.text, "id": document.id, "metadata": document.metadata}
            out.write(json.dumps(item, ensure_ascii=False, sort_keys=True) + "\n")

        yield put
    partial.rename(shard)


class ReadShards(PipelineStep):
    """Yields the documents of shard number `rank` of a folder; counts `read` and `characters_in`."""

    type, name = "reader", "shards"

    def __init__(self, folder: Path):
        super().__init__()
        self.paths = shards(folder)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Shards rank, rank + world_size, ... of the folder, document by document."""
        for path in self.paths[rank::world_size]:
            for document in read(path):
                self.stat_update("read")
                self.stat_update("characters_in", value=len(document.text))
                yield document


class WriteShards(PipelineStep):
    """Last step: documents to `kept/<rank>.jsonl`; those with `metadata["reason"]` to `rejected/<rank>.jsonl`.

    A filter step rejects a document by setting its reason and passing it on. Counts `kept`, `characters_out`,
    `dropped/<reason>` and, for the reason `failed`, `failed`. Both files are written for every rank, empty ones too.
    """

    type, name = "writer", "shards"

    def __init__(self, kept: Path, rejected: Path):
        super().__init__()
        self.kept, self.rejected = kept.absolute(), rejected.absolute()

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write this rank's two shards, passing on the kept documents."""
        name = f"{rank:05d}.jsonl"
        with written(self.kept / name) as keep, written(self.rejected / name) as reject:
            for document in data:
                if reason := document.metadata.get("reason"):
                    self.stat_update("failed" if reason == "failed" else f"dropped/{reason}")
                    reject(document)
                else:
                    self.stat_update("kept")
                    self.stat_update("characters_out", value=len(document.text))
                    keep(document)
                    yield document
