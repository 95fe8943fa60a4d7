"""The corpora and ready models the chain starts from: fetched by pin, unpacked, origin kept.

`python -m tasks.data.sources data/sources data/packages metrics/sources.json` writes, for each corpus, a folder
with origin.json and either `site/` (pages for the crawl), `text/` (documents) or `warc/` (ready pages; a seed has
nothing yet), and for each package a folder with origin.json and its files. Add a corpus by adding an entry to
`sources.corpora` in params.yaml; the kinds are in tasks/data/registry.py.

DVC does not watch what a `path` names. A pinned sha256 is how a change of it reaches the chain: change the files and
run the stage, or put any other pin, and the one error prints the new digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import progress, stage
from tasks.data import archive, commoncrawl, fetch, folders, hubs, records, warc
from tasks.data.registry import (
    AnyCorpus, AnyPackage, AnyRecords, CommonCrawlCorpus, Corpus, HubPackage, LocalCorpus, LocalPackage, SeedCorpus, SourcesParams,
    WarcCorpus,
)
from tasks.stage import Output, StageError

HIDDEN = {"take", "root", "fields", "path", "keys", "documents", "url"}  # of params.yaml, not of the origin


def sources(sources_out: Output, packages: Output, metrics: Output, *, sources: SourcesParams) -> None:
    """Fetch and unpack every corpus and package.

    Raises StageError: not to be had, not what is pinned, damaged, or nothing in it (see the module of each kind).
    """
    names = [entry.name for entry in [*sources.corpora, *sources.packages]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"sources: the name {twice[0]} is there twice; names must differ")
    sources_out.mkdir()
    packages.mkdir()
    table: dict[str, Any] = {}
    for corpus in progress.track(sources.corpora, what="sources", unit="corpus"):
        table[corpus.name] = unpack(corpus, sources_out / corpus.name, sources.shard)
    for package in sources.packages:
        folder = packages / package.name
        if isinstance(package, HubPackage):
            table[package.name] = finish(package, folder, folder, {}, hubs.take(package, folder))
            continue
        row = {"sha256": folders.checksum(package)} if isinstance(package, LocalPackage) else {}
        for path, data in folders.files(package, folder):
            archive.write(folder, path.rpartition("/")[2], data)
        table[package.name] = finish(package, folder, folder, {}, row)
    stage.write_json(metrics, table)


def unpack(corpus: AnyCorpus, folder: Path, size: int) -> dict[str, Any]:
    """Write a corpus's pages or documents and its origin.json to `folder`; returns its row of the metrics."""
    if isinstance(corpus, SeedCorpus):
        return finish(corpus, folder, None, {"as": "seed", "url": corpus.url})
    if isinstance(corpus, WarcCorpus):
        return finish(corpus, folder, folder / "warc", {"as": "warc"}, copied(corpus, folder / "warc", size))
    if isinstance(corpus, CommonCrawlCorpus):
        row = commoncrawl.take(corpus, folder / "warc", size)
        return finish(corpus, folder, folder / "warc", {"as": "warc"}, row | summed(corpus, folder / "warc"))
    if isinstance(corpus, AnyRecords):
        row = records.take(corpus, folder / "text", size)
        own = summed(corpus, folder / "text") if corpus.kind == "huggingface" else {}
        return finish(corpus, folder, folder / "text", {"as": "text"}, row | own)
    row = {"sha256": folders.checksum(corpus)} if isinstance(corpus, LocalCorpus) else {}
    if corpus.form == "text":
        records.write(folder / "text", folders.capped(corpus, folder), size)
        return finish(corpus, folder, folder / "text", {"url": corpus.url}, row)
    for path, data in folders.files(corpus, folder):
        archive.write(folder / "site", path, data)
    return finish(corpus, folder, folder / "site", {"url": corpus.url or f"http://{corpus.name}.invalid/"}, row)


def copied(corpus: WarcCorpus, folder: Path, size: int) -> dict[str, Any]:
    """Check a corpus's WARC files and copy them in shards; returns {"records": responses}."""
    files = responses = 0
    for path in records.places(corpus)[1]:
        more, found = warc.take(path, folder, corpus.name, files, size)
        files, responses = files + more, responses + found
    return {"records": responses}


def summed(corpus: AnyCorpus, folder: Path) -> dict[str, str]:
    """The digest of what was written, where nothing but its bytes can be pinned. Raises StageError: not the pin."""
    found = fetch.tree(folder, folder.iterdir())
    fetch.check(corpus.name, found, corpus.sha256)
    return {"sha256": found}


def finish(entry: AnyCorpus | AnyPackage, folder: Path, content: Path | None, origin: dict[str, Any],
           more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write origin.json to `folder`; returns the metrics row. Raises StageError where nothing was taken."""
    taken = [path for path in content.rglob("*") if path.is_file() and folder / "licence" not in path.parents] \
        if content else []
    row = {"files": len(taken), "bytes": sum(path.stat().st_size for path in taken), "licence": entry.licence}
    if content and not row["bytes"]:
        raise StageError(f"sources: {entry.name}: `take` matches nothing in it; correct root and take")
    row |= more or {}
    if isinstance(entry, Corpus):
        origin = origin | {"snapshot": entry.about()["snapshot"], "year": entry.year}
    stage.write_json(folder / "origin.json", entry.model_dump(by_alias=True, exclude=HIDDEN) | origin | row)
    return row


if __name__ == "__main__":
    stage.run(sources)
