"""A memory of what was found out about each document, so that a new snapshot costs only its new or changed records.

A step that judges or changes one document at a time is wrapped: `Remembered(step, "filter", params, model_file)`; one
that collects something of each asks its own `Memory`. What is found is kept under the hash of the document and of all
else that decides: the code of `tasks/data`, the parameters, the files read and the installed packages. So a
remembered answer is the one that would be computed, and the bytes are those of a full run; delete .runtime/records and
only time is lost. A document's id, snapshot and year decide nothing: the same record in a newer snapshot is no new one.
Each rank notes the answers that it used, old and new, and these become the memory of the next run: it never holds more
than one run's documents.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import BaseModel

FOLDER = Path(".runtime/records")
TABLE = "CREATE TABLE records (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID"
COMMIT = 1000  # rows between two writes: bounds memory
UNASKED = ("snapshot", "year")
Remember = Callable[[Document, Callable[[], Any]], Any]


class Memory:
    """The answers to one question about documents. `deciding` is all that the answer depends on beside the document:
    params, files or folders, seeds. An answer is JSON, in which bytes and numpy arrays may stand."""

    def __init__(self, name: str, *deciding: BaseModel | Path | str | int):
        self.folder, self.identity = (FOLDER / name).absolute(), identity(name, *deciding)

    @contextlib.contextmanager
    def opened(self, rank: int, step: PipelineStep) -> Iterator[Remember]:
        """A function that gives the remembered answer for a document, or computes and notes it. Counts `remembered`
        on `step`."""
        notes, past = self.folder / f"rank-{rank:05d}.sqlite", self.folder / "records.sqlite"
        self.folder.mkdir(parents=True, exist_ok=True)
        notes.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            noted = stack.enter_context(contextlib.closing(sqlite3.connect(notes)))
            noted.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLE}")
            known = None
            if past.is_file():
                known = stack.enter_context(contextlib.closing(
                    sqlite3.connect(f"file:{past}?mode=ro&immutable=1", uri=True)))

            def remember(document: Document, compute: Callable[[], Any]) -> Any:
                key = self.key(document)
                found = recalled(known, key)
                if found is None:
                    packed = pack(compute())
                    found = packed, unpack(packed)
                else:
                    step.stat_update("remembered")
                noted.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (key, found[0]))
                if noted.total_changes % COMMIT == 0:
                    noted.commit()
                return found[1]

            yield remember
            noted.commit()

    def key(self, document: Document) -> bytes:
        """What names the answer for this document."""
        state = hashlib.blake2b(self.identity, digest_size=20)
        asked = {key: value for key, value in document.metadata.items() if key not in UNASKED}
        about = json.dumps(asked, sort_keys=True, default=repr)
        state.update(about.encode("utf-8", "surrogatepass") + b"\0" + document.text.encode("utf-8", "surrogatepass"))
        return state.digest()

    def settle(self) -> None:
        """Make the answers that the ranks of this run used the memory of the next one."""
        notes = sorted(self.folder.glob("rank-*.sqlite"))
        partial = self.folder / ".records.partial"
        shutil.copyfile(notes[0], partial)
        with contextlib.closing(sqlite3.connect(partial)) as joined:
            for note in notes[1:]:
                joined.execute("ATTACH ? AS note", (str(note),))
                joined.execute("INSERT OR REPLACE INTO records SELECT * FROM note.records")
                joined.commit()
                joined.execute("DETACH note")
        partial.replace(self.folder / "records.sqlite")
        for note in notes:
            note.unlink()


class Remembered(PipelineStep):
    """`step`, asked only for documents that it has not seen; it must treat every document alone and pass it on."""

    type, name = "memory", "records"

    def __init__(self, step: PipelineStep, name: str, *deciding: BaseModel | Path | str | int):
        super().__init__()
        self.step, self.memory = step, Memory(name, *deciding)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """What the step yields for every document, in the same order and with the same counts."""
        counted: list[tuple[str, float]] = []
        self.step.stat_update = lambda *labels, value=1, **_: counted.extend((label, value) for label in labels)

        def asked(document: Document) -> dict[str, Any]:
            counted.clear()
            text = document.text  # the step may change the document in place
            made, = self.step.run(iter([document]), rank, world_size)
            return {"counts": counted, "metadata": made.metadata, "text": None if made.text == text else made.text}

        try:
            with self.memory.opened(rank, self) as remember:
                for document in data:
                    text, metadata = document.text, document.metadata
                    own = {key: metadata[key] for key in UNASKED if key in metadata}
                    answer = remember(document, functools.partial(asked, document))
                    for label, value in answer["counts"]:
                        self.stat_update(label, value=value)
                    yield Document(text=text if answer["text"] is None else answer["text"], id=document.id,
                                   metadata=answer["metadata"] | own)
        finally:
            del self.step.stat_update


def recalled(known: sqlite3.Connection | None, key: bytes) -> tuple[bytes, Any] | None:
    """(answer as it is kept, the answer) under `key`; None where there is none, or the memory is damaged."""
    try:
        row = known.execute("SELECT answer FROM records WHERE key = ?", (key,)).fetchone() if known else None
        return (row[0], unpack(row[0])) if row else None
    except (sqlite3.DatabaseError, zlib.error, ValueError):
        return None


def pack(answer: Any) -> bytes:
    """An answer as it is kept."""
    return zlib.compress(json.dumps(answer, sort_keys=True, default=spelled).encode(), 1)


def unpack(packed: bytes) -> Any:
    """The answer that was packed. Raises zlib.error or ValueError for other bytes."""
    return json.loads(zlib.decompress(packed), object_hook=read)


def spelled(value: bytes | np.ndarray) -> dict[str, str]:
    """Bytes or an array as JSON."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b85encode(value).decode()}
    out = io.BytesIO()
    np.save(out, value, allow_pickle=False)
    return {"$array": base64.b85encode(out.getvalue()).decode()}


def read(value: dict[str, Any]) -> Any:
    """What `spelled` wrote; any other object as it is."""
    if value.keys() == {"$bytes"}:
        return base64.b85decode(value["$bytes"])
    if value.keys() == {"$array"}:
        return np.load(io.BytesIO(base64.b85decode(value["$array"])), allow_pickle=False)
    return value


def identity(*deciding: BaseModel | Path | str | int) -> bytes:
    """20 bytes that change with the values, the files, this folder's code or any installed package."""
    state = hashlib.blake2b(surroundings(), digest_size=20)
    for part in deciding:
        if isinstance(part, Path):
            files = sorted(path for path in part.rglob("*") if path.is_file()) if part.is_dir() else [part]
            for file in files:
                state.update(f"{file.relative_to(part)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        else:
            state.update(f"{type(part).__name__}\0".encode())
            state.update(part.model_dump_json().encode() if isinstance(part, BaseModel) else repr(part).encode())
    return state.digest()


@functools.cache
def surroundings() -> bytes:
    """The hash of the code that steps may run and of the versions of the packages beside it."""
    state = hashlib.blake2b(digest_size=20)
    root = Path(__file__).resolve().parents[1]
    for file in sorted([*root.glob("*.py"), *root.glob("data/**/*.py")]):
        state.update(str(file.relative_to(root)).encode() + file.read_bytes())
    for one in sorted(f"{package.name}=={package.version}" for package in installed.distributions()):
        state.update(one.encode())
    return state.digest()
