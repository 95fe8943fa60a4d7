"""Corpora of files: out of a package file, the documentation of Python modules, or a directory of one's own."""

from __future__ import annotations

import fnmatch
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document

from tasks.data import archive, fetch, pydocs, texts
from tasks.data.registry import (
    AnyFolder, AnyPackage, LocalCorpus, LocalPackage, NpmCorpus, NpmPackage, Pinned, PydocCorpus,
)
from tasks.stage import StageError

# `*` crosses slashes, so these are also bounded in depth
LICENCES = ["LICEN[CS]E*", "COPYING*", "*/LICEN[CS]E*", "*/COPYING*", "*/licenses/LICEN[CS]E*"]
LICENCE_DEPTH = 3
SMALLEST = 200


def files(entry: AnyFolder | AnyPackage, folder: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of what an entry takes; the licence texts beside it in its archive go to folder/licence."""
    if isinstance(entry, PydocCorpus):
        yield from pydocs.pages(entry.modules)
    elif isinstance(entry, LocalCorpus | LocalPackage):
        for path in local(entry):
            yield path.relative_to(entry.path).as_posix(), path.read_bytes()
    else:
        wanted = [entry.root + glob for glob in entry.take]
        for path, data in archive.members(fetched(entry), entry.name, wanted, LICENCES):
            if any(fnmatch.fnmatchcase(path, glob) for glob in wanted):
                yield path.removeprefix(entry.root), data
            elif path.count("/") <= LICENCE_DEPTH:
                archive.write(folder / "licence", path, data)


def fetched(entry: Pinned) -> Path:
    """The kept package file of an entry."""
    if isinstance(entry, NpmCorpus | NpmPackage):
        return fetch.npm(entry.package, entry.version, entry.sha256)
    return fetch.pypi(entry.package, entry.file, entry.sha256)


def local(entry: LocalCorpus | LocalPackage) -> list[Path]:
    """Files of one's own directory in the order of their paths' hashes; links that lead out of it are refused."""
    top = Path(entry.path)
    if not top.is_dir():
        raise StageError(f"sources: {entry.name}: path {entry.path} is not a directory here")
    found = {path for glob in entry.take for path in top.rglob(glob) if path.is_file()}
    for path in sorted(found):
        if not path.resolve().is_relative_to(top.resolve()):
            raise StageError(f"sources: {entry.name}: {path} leads out of {top}: refused")
    return sorted(found, key=lambda path: rank(path.relative_to(top).as_posix()))


def checksum(entry: LocalCorpus | LocalPackage) -> str:
    """The sha256 of all files taken from one's own directory (fetch.tree). Raises StageError where another is pinned.

    DVC does not watch the directory: the pin is what reruns the stage, in one change with the files.
    """
    found = fetch.tree(Path(entry.path), local(entry))
    fetch.check(entry.name, found, entry.sha256)
    return found


def rank(path: str) -> bytes:
    """A fixed place in a random order."""
    return hashlib.sha256(path.encode()).digest()


def capped(corpus: AnyFolder, folder: Path) -> Iterator[Document]:
    """The documents of a text corpus, whole where it has no cap.

    Under a cap: a fixed sample, files in the order of their paths' hashes, at most a twentieth of it from one file.
    """
    found = files(corpus, folder)
    if corpus.cap and not isinstance(corpus, LocalCorpus):
        found = iter(sorted(found, key=lambda item: rank(item[0])))
    room = corpus.cap or sys.maxsize
    share = -(-room // 20) if corpus.cap else room
    for path, data in found:
        left = min(share, room)
        try:
            for number, text in enumerate(texts.texts(path, data, corpus.fields)):
                if text and len(text) <= left:
                    yield document(corpus, f"{path}#{number}", text)
                    left, room = left - len(text), room - len(text)
        except (ValueError, SyntaxError, RecursionError) as error:
            raise StageError(f"sources: corpus {corpus.name}: {path} cannot be read as text "
                             f"({type(error).__name__}: {error}); narrow its `take`") from None
        if room < SMALLEST:
            break


def document(corpus: AnyFolder, path: str, text: str) -> Document:
    """A document of a text corpus; its URL is the package's, with the file in it."""
    where = f"{corpus.kind}:{getattr(corpus, 'package', corpus.name)}/{getattr(corpus, 'version', '')}/{path}"
    name = f"{corpus.name}:{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    return Document(text=texts.sound(text), id=name, metadata={"url": where} | corpus.about())
