"""Corpora of one record a document: JSON lines (WanJuan 1.0's form), Parquet, Hugging Face data sets.

Records are read one by one and written in shards of bounded size, so memory does not grow with the corpus. A record
that is none (no JSON, no text, larger than a shard may be) is skipped and counted; a file that is cut off ends the
stage, for then it is not known how much is missing.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import requests
from datatrove.data import Document

from tasks.data import documents, fetch, texts
from tasks.data.registry import AnyRecords, Fetched, HuggingFaceCorpus, JsonlCorpus, Keys
from tasks.stage import StageError

RECORD = 64 << 20  # bytes; a longer line or text is skipped
BATCH = 64
YEARS = range(1, 10_000)
Row = tuple[str, dict[str, Any] | str]  # (place, record, or why it is none)


def take(corpus: AnyRecords, folder: Path, size: int) -> dict[str, Any]:
    """Write a corpus's documents to shards of about `size` bytes in `folder`.

    Returns {"records", "skipped": {reason: n}}. Raises StageError: files that are not there, not the pinned ones, cut
    off or of another form; a data set that cannot be reached; no document at all.
    """
    skipped: Counter[str] = Counter()
    records = write(folder, read(corpus, skipped), size)
    if not records:
        why = ", ".join(f"{reason} x{count}" for reason, count in sorted(skipped.items())) or "it is empty"
        raise StageError(f"sources: {corpus.name} holds no document ({why}): correct its keys ({corpus.keys!r})")
    return {"records": records, "skipped": dict(sorted(skipped.items()))}


def write(folder: Path, found: Iterable[Document], size: int) -> int:
    """Write documents to shards 00000.jsonl, ... of about `size` bytes; returns how many documents there were."""
    held: list[Document] = []
    total = room = number = 0
    for document in found:
        if held and room + len(document.text.encode()) > size:
            documents.write(folder / f"{number:05d}.jsonl", held)
            held, room, number = [], 0, number + 1
        held.append(document)
        room, total = room + len(document.text.encode()), total + 1
    documents.write(folder / f"{number:05d}.jsonl", held)
    return total


def read(corpus: AnyRecords, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of a corpus in its own order; what is none is counted in `skipped` by reason."""
    if isinstance(corpus, HuggingFaceCorpus):
        rows = huggingface(corpus)
    else:
        top, paths = places(corpus)
        rows = (row for path in paths for row in
                (jsonl if isinstance(corpus, JsonlCorpus) else parquet)(path, path.relative_to(top), corpus.keys))
    for number, (place, record) in enumerate(rows):
        if corpus.documents is not None and number >= corpus.documents:
            break
        made = document(corpus, place, record) if isinstance(record, dict) else record
        if isinstance(made, str):
            skipped[made] += 1
        else:
            yield made


def document(corpus: AnyRecords, place: str, record: dict[str, Any]) -> Document | str:
    """A record as a document, or the reason why it is none."""
    keys = corpus.keys
    text = next((record[key] for key in keys.text if record.get(key) is not None), None)
    if not isinstance(text, str) or not text.strip():
        return "no_text"
    title = record.get(keys.title) if keys.title else None
    if isinstance(title, str) and title.strip() and not text.lstrip().startswith(title.strip()):
        text = f"{title.strip()}\n\n{text}"
    if len(text) > RECORD:
        return "too_large"
    url, year = record.get(keys.url) if keys.url else None, record.get(keys.year) if keys.year else None
    own = record.get(keys.id) if keys.id else None
    about = corpus.about()
    where = f"{corpus.kind}:{corpus.name}/{about['snapshot']}/{place}"
    if isinstance(own, str | int) and str(own).strip():
        about["url"] = f"{corpus.kind}:{corpus.name}/{own}"
    about["url"] = texts.sound(url if isinstance(url, str) and url else about.get("url", where))
    if str(year).isdecimal() and int(year) in YEARS:
        about["year"] = int(year)
    name = f"{corpus.name}:{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    return Document(text=texts.sound(text), id=name, metadata=about)


def places(corpus: Fetched) -> tuple[Path, list[Path]]:
    """(folder, its files in order) of a path, glob or URL, checked against the pinned sha256."""
    if corpus.url is not None:
        path = fetch.web(corpus.url, corpus.sha256)
        return path.parent, [path]
    found = sorted(Path(path) for path in glob.glob(corpus.path, recursive=True) if Path(path).is_file())
    if not found:
        raise StageError(f"sources: {corpus.name}: path {corpus.path} is no file here and matches none")
    top = found[0].parent
    while not all(path.is_relative_to(top) for path in found):
        top = top.parent
    fetch.check(corpus.name, fetch.digest(found[0]) if len(found) == 1 else fetch.tree(top, found), corpus.sha256)
    return top, found


def jsonl(path: Path, name: Path, keys: Keys) -> Iterator[Row]:
    """The lines of one file. Raises StageError where it is cut off."""
    number = 0
    try:
        with unpacked(path) as lines:
            while line := lines.readline(RECORD):
                number += 1
                whole = line.endswith(b"\n") or len(line) < RECORD
                while not whole and (more := lines.readline(RECORD)):
                    whole = more.endswith(b"\n")
                    line = b""
                if line.strip():
                    yield f"{name}#{number}", parsed(line)
                elif not line:
                    yield f"{name}#{number}", "too_large"
    except (EOFError, zlib.error, OSError) as error:
        raise StageError(f"sources: {path} is truncated or damaged after line {number} ({error}): "
                         "fetch it again") from None


def unpacked(path: Path) -> IO[bytes]:
    """A plain, gzip or zstd file, told apart by its first bytes, as a stream of lines."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(path)
    if magic == b"\x28\xb5\x2f\xfd":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), 1 << 20)
    return path.open("rb")


def parsed(line: bytes) -> dict[str, Any] | str:
    """A line as a JSON object, or why it is none."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "not_json"
    return value if isinstance(value, dict) else "not_json"


def parquet(path: Path, name: Path, keys: Keys) -> Iterator[Row]:
    """The rows of one file, of the wanted columns only. Raises StageError where it is none or lacks the text."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            there = file.schema_arrow.names
            wanted = [key for key in [*keys.text, keys.id, keys.title, keys.url, keys.year] if key in there]
            if not any(key in there for key in keys.text):
                raise StageError(f"sources: {path} has no column {' or '.join(keys.text)} (but {', '.join(there)}): "
                                 "correct keys.text")
            for batch in file.iter_batches(BATCH, columns=sorted(set(wanted)), use_threads=False):
                for index in range(batch.num_rows):
                    number += 1
                    yield f"{name}#{number}", cells(batch, index)
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(f"sources: {path} is no whole Parquet file, damaged after row {number} "
                         f"({' '.join(str(error).split())}): fetch it again") from None


def cells(batch: Any, index: int) -> dict[str, Any] | str:
    """A row of a record batch as a record; `encoding` where a string of it is not UTF-8."""
    try:
        return {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except UnicodeDecodeError:
        return "encoding"


def huggingface(corpus: HuggingFaceCorpus) -> Iterator[Row]:
    """The rows of a data set of the hub or of a directory, streamed. Raises StageError where it cannot be had."""
    here = Path(corpus.path)
    if not here.is_dir():  # this is asked for; all else of the chain runs with the hub shut off (flows/environment.py)
        os.environ |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        reach(corpus)
    number = 0
    import datasets

    try:
        if (here / "state.json").is_file() or (here / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(corpus.path)
            rows = loaded[corpus.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            rows = datasets.load_dataset(corpus.path, corpus.config, split=corpus.split, streaming=True,
                                         revision=None if here.is_dir() else corpus.revision)
        for number, row in enumerate(rows, 1):
            yield f"{corpus.config or 'default'}/{corpus.split}#{number}", row
    except Exception as error:  # noqa: BLE001 - the library's errors have no common base
        raise unreachable(corpus, number, error) from None


def reach(corpus: HuggingFaceCorpus) -> None:
    """Ask the hub for the data set once: the library would try for half a minute. Raises StageError: no answer."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        requests.head(f"{hub}/api/datasets/{corpus.path}", timeout=15)
    except requests.RequestException as error:
        raise unreachable(corpus, 0, error) from None


def unreachable(corpus: HuggingFaceCorpus, number: int, error: Exception) -> StageError:
    """The error of a data set that cannot be had, or only its first rows."""
    return StageError(
        f"sources: {corpus.name}: the data set {corpus.path} (split {corpus.split}) cannot be read after {number} rows "
        f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): check path, config, split and revision; "
        "where no hub can be reached, download it elsewhere and give its directory as `path` (or set HF_ENDPOINT to a "
        "mirror)")
