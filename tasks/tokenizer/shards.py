"""A packed token stream on disk: `NAME.bin`, the tokens of all documents one after another, and `NAME.idx`, where
each ends. Read as memory maps, so a stream may be far larger than memory; checked by sha256 against `meta.json`.
`NAME.about.jsonl`, of the held-out split alone, says of each document in order what kind it is.

`NAME.bin`: little-endian uint16 (uint32 for vocabularies above 65,536); every document is its separator token and
then its text's tokens. `NAME.idx`: little-endian int64 [documents, 2]: tokens of the document with its separator,
UTF-8 bytes of its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.stage import StageError

SPLITS = ("train", "held_out")
KINDS = ("language", "domain", "source")  # of a document: what its score is told apart by


def token_type(vocabulary: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every token of `vocabulary`."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Stream:
    """One packed split: `tokens` [T] and `index` int64 [documents, 2] (tokens with separator, bytes of text)."""

    tokens: np.ndarray
    index: np.ndarray

    def starts(self) -> np.ndarray:
        """int64 [documents + 1]: where each document begins, and the end of the stream."""
        return np.concatenate([[0], np.cumsum(self.index[:, 0])])

    def documents(self) -> list[np.ndarray]:
        """Each document's tokens [n], separator first, as views of the map."""
        starts = self.starts()
        return [self.tokens[a:b] for a, b in zip(starts[:-1], starts[1:])]


def write(folder: Path, split: str, documents: Iterable[tuple[np.ndarray, int]], kind: np.dtype) -> dict[str, object]:
    """Write (tokens, bytes) pairs as `split`; returns its entry of meta.json (counts and sha256 of both files)."""
    rows = []
    with (folder / f"{split}.bin").open("wb") as out:
        for tokens, size in documents:
            out.write(tokens.astype(kind).tobytes())
            rows.append((len(tokens), size))
    index = np.array(rows, dtype="<i8").reshape(-1, 2)
    (folder / f"{split}.idx").write_bytes(index.tobytes())
    return {
        "documents": len(rows), "tokens": int(index[:, 0].sum()), "bytes": int(index[:, 1].sum()),
        "sha256": {suffix: digest(folder / f"{split}.{suffix}") for suffix in ("bin", "idx")},
    }


def meta(folder: Path) -> dict[str, object]:
    """meta.json of a packed folder. Raises StageError where it is missing or broken."""
    try:
        value = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if {"tokenizer", "dtype", "separator", "vocabulary", *SPLITS} <= value.keys():
            return value
    except (OSError, ValueError, AttributeError):
        pass
    raise StageError(f"{folder}/meta.json is missing or broken: pack again (dvc repro pack)")


def open_stream(folder: Path, split: str) -> Stream:
    """Memory-map `split`, after comparing both files with their sha256. Raises StageError naming the corrupt file."""
    about = meta(folder)
    entry = about[split]
    for suffix, expected in entry["sha256"].items():
        path = folder / f"{split}.{suffix}"
        if not path.is_file():
            raise StageError(f"{path} is missing: pack again (dvc repro pack)")
        found = digest(path)
        if found != expected:
            raise StageError(f"{path} is corrupt: sha256 {found[:12]}, meta.json says {expected[:12]}; "
                             "pack again (dvc repro pack --force)")
    if entry["tokens"] == 0:
        raise StageError(f"{folder}/{split}.bin holds no tokens: read more documents")
    tokens = np.memmap(folder / f"{split}.bin", dtype=about["dtype"], mode="r")
    index = np.fromfile(folder / f"{split}.idx", dtype="<i8").reshape(-1, 2)
    return Stream(tokens, index)


def write_kinds(folder: Path, split: str, kinds: Iterable[dict[str, str]]) -> None:
    """Write what each document of `split` is: a value for each of KINDS."""
    (folder / f"{split}.about.jsonl").write_text(
        "".join(json.dumps(kind, sort_keys=True, ensure_ascii=False) + "\n" for kind in kinds), encoding="utf-8")


def kinds(folder: Path, split: str, documents: int) -> list[dict[str, str]]:
    """What each of the `documents` of `split` is. Raises StageError where the file is missing, broken or of others."""
    path = folder / f"{split}.about.jsonl"
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if len(found) == documents and all(set(KINDS) <= one.keys() for one in found):
            return found
        fault = f"{len(found)} lines for {documents} documents, each with {', '.join(KINDS)}"
    except (OSError, ValueError, AttributeError) as error:
        fault = type(error).__name__
    raise StageError(f"{path} does not tell the documents' kinds ({fault}): pack again (dvc repro pack)")


def digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
