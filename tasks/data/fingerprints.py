"""What dedup knows of a document: a pure function of its text and address, and the table of all documents' on disk.

A fingerprint depends on nothing but the document and the params, so one made for an earlier snapshot serves a later
run. The table lies in a folder, one set of numpy files a shard, and is read by memory map: in memory the global pass
holds ids and a few integers a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from tasks.data import minhash, repeats, shingles, words
from tasks.params import Section
from tasks.stage import StageError

INDEX_FILES = ("index.html", "index.htm", "default.html", "index.php")
NOWHERE = b"\0" * 16


class FingerprintParams(Section):
    """What makes two pages, or two passages, look alike."""

    permutations: int = Field(ge=16, le=1024, description="MinHash signature length; error sqrt(j(1-j)/permutations)")
    shingle: int = Field(ge=1, le=20, description="words a shingle")
    threshold: float = Field(gt=0, le=1, description="Jaccard similarity from which on a page is a duplicate")
    repeat_words: int | None = Field(ge=10, description="a passage of so many words, said before, is cut; null: never")


class Fingerprint(NamedTuple):
    """Of one document: length, digests of its words and of its address, MinHash signature, runs to look for."""

    characters: int
    exact: bytes  # 16
    address: bytes  # 16; NOWHERE without one
    signature: np.ndarray  # uint32[permutations]
    runs: np.ndarray  # repeats.RUN, sorted by hash


def fingerprint(text: str, url: str, params: FingerprintParams, seed: int) -> Fingerprint:
    """The fingerprint of a document; the same for the same arguments in any process."""
    spans = [(0, len(text))] if params.repeat_words is None else repeats.units(text)
    own = [words.normal_words(text[start:end]) for start, end in spans]
    tokens = [token for unit in own for token in unit]
    hashes = shingles.hashed(tokens)
    runs = np.empty(0, repeats.RUN)
    if params.repeat_words is not None:
        runs = repeats.runs(spans, own, hashes, params.repeat_words)
    address = canonical(url)
    return Fingerprint(len(text), digest(" ".join(tokens)), digest(address) if address else NOWHERE,
                       minhash.signature(hashes, params.permutations, params.shingle, seed), runs)


def digest(text: str) -> bytes:
    """16 bytes of BLAKE2b."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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


def write(folder: Path, shard: int, names: Sequence[tuple[str, str]], found: Sequence[Fingerprint],
          params: FingerprintParams) -> None:
    """Write one shard's fingerprints, in the order of its documents, as `folder`/<shard>.*; `names` are their ids and
    snapshots."""
    stem = f"{shard:05d}"
    signatures = np.array([one.signature for one in found], np.uint32).reshape(len(found), params.permutations)
    runs = np.empty(sum(len(one.runs) for one in found), repeats.OWNED)
    for name in repeats.RUN.names:
        runs[name] = np.concatenate([one.runs[name] for one in found]) if found else []
    runs["document"] = np.repeat(np.arange(len(found)), [len(one.runs) for one in found])
    runs = runs[np.lexsort((runs["start"], runs["document"], runs["hash"]))]
    (folder / f"{stem}.names.json").write_text(json.dumps(names), encoding="utf-8")
    digests = b"".join(one.exact + one.address for one in found)
    np.save(folder / f"{stem}.digests.npy", np.frombuffer(digests, "<u8").reshape(-1, 4))
    np.save(folder / f"{stem}.lengths.npy", np.array([one.characters for one in found], np.int64))
    np.save(folder / f"{stem}.signatures.npy", signatures)
    np.save(folder / f"{stem}.bands.npy",
            minhash.bands(signatures, minhash.rows_for(params.threshold, params.permutations)))
    np.save(folder / f"{stem}.runs.npy", runs)


class Table:
    """All fingerprints of a folder, numbered 0, 1, ... from the newest snapshot to the oldest, within one by id.

    `names` are the ids by number, `numbers` for each shard the numbers of its documents in their order there.
    """

    def __init__(self, folder: Path):
        """Raises StageError where two documents share an id."""
        self.folder = folder
        self.stems = sorted(file.name.split(".")[0] for file in folder.glob("*.names.json"))
        named, sizes = [], []
        for stem in self.stems:
            names = json.loads((folder / f"{stem}.names.json").read_text(encoding="utf-8"))
            named += [(name, snapshot, len(named) + place) for place, (name, snapshot) in enumerate(names)]
            sizes.append(len(names))
        named.sort()
        for (name, *_), (following, *_) in zip(named, named[1:]):
            if name == following:
                raise StageError(f"two documents have the id {name}: ids must be unique, remake the extract stage")
        named.sort(key=lambda entry: entry[1], reverse=True)
        self.names = [name for name, *_ in named]
        self.order = np.array([place for *_, place in named], np.int64)  # number -> place in the folder
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        self.numbers = np.split(place, np.cumsum(sizes)[:-1]) if sizes else []

    def loaded(self, kind: str) -> list[np.ndarray]:
        """The arrays of one kind, shard by shard, as memory maps."""
        return [np.load(self.folder / f"{stem}.{kind}.npy", mmap_mode="r") for stem in self.stems]

    @cached_property
    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(int32[n], int32[n]): number of the words' and of the address's equal ones; -1 for no address."""
        digests = np.concatenate(self.loaded("digests"))[self.order]
        exact, address = grouped(digests[:, :2]), grouped(digests[:, 2:])
        address[~digests[:, 2:].any(axis=1)] = -1
        return exact, address

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64[n]: characters."""
        return np.concatenate(self.loaded("lengths"))[self.order]

    def index(self, threshold: float) -> minhash.Index:
        """The near-duplicate index of all documents; their signatures stay on disk, in the order of the numbers."""
        files = self.loaded("signatures")
        shape = (len(self.names), files[0].shape[1])
        signatures = np.lib.format.open_memmap(self.folder / "signatures.npy", "w+", np.uint32, shape)
        for numbers, file in zip(self.numbers, files):
            signatures[numbers] = file
        return minhash.Index(signatures, self.bands(), threshold)

    def bands(self) -> Iterator[np.ndarray]:
        """uint64[n] of each band."""
        files = self.loaded("bands")
        for band in range(len(files[0])):
            yield np.concatenate([file[band] for file in files])[self.order]

    def repeated(self, counted: np.ndarray, limit: float) -> Iterator[tuple[int, int, float, np.ndarray]]:
        """repeats.first_said of the documents marked in `counted`."""
        owned = np.concatenate(list(repeats.shared(self.loaded("runs"), self.numbers, counted)))
        return repeats.first_said(owned, self.lengths, limit) if len(owned) else iter(())


def grouped(digests: np.ndarray) -> np.ndarray:
    """int32[n]: one number for equal rows of uint64[n, 2]."""
    order = np.lexsort(digests.T)
    changed = (np.diff(digests[order], axis=0) != 0).any(axis=1)
    found = np.empty(len(digests), np.int32)
    found[order] = np.concatenate([[0], np.cumsum(changed)])[:len(digests)]
    return found
