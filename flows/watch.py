"""Looks at the sources that may change by themselves and says which ones did.

Watched are the local directories and files of `sources.corpora` (path), its sites (kind: seed) and single URLs, and
what `schedule.watch` adds. A source has changed when its content differs from what was last told, and is the same in
two looks running: a file still being copied, or a page that is never twice the same, starts nothing. Directories and
files are compared by name, size and time first, then by sha256; pages by ETag and Last-Modified, then by sha256.
What was told lies in `.runtime/watch.json`. At its first look a source is only noted down.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import requests

from tasks import params
from tasks.data import fetch
from tasks.data.registry import SourcesParams

NOTES = Path(".runtime/watch.json")
LARGEST = 64 << 20  # bytes of a page at most


@dataclass(frozen=True)
class Source:
    """A place to look at: a URL, a glob, or a directory with the globs of what counts below it."""

    name: str
    where: str
    take: tuple[str, ...] = ("*",)

    @property
    def web(self) -> bool:
        """Whether it is asked over HTTP."""
        return self.where.startswith(("http://", "https://"))


class Unreachable(RuntimeError):
    """A source cannot be looked at now; the message says why."""


def sources(values: dict[str, Any], more: list[str]) -> list[Source]:
    """What is to be watched in a params.yaml's values, in its order, then `more` (paths, globs and URLs).

    Sources pinned in a package registry cannot change under their pin and are left out. Raises ParamsError.
    """
    found = []
    for corpus in params.section(SourcesParams, "sources", values).corpora:
        if corpus.kind == "local":
            found.append(Source(corpus.name, corpus.path, tuple(corpus.take)))
        elif corpus.kind in ("seed", "warc", "jsonl", "parquet"):
            found.append(Source(corpus.name, getattr(corpus, "path", None) or corpus.url))
    return found + [Source(where, where) for where in more]


def look(watched: list[Source], notes: dict[str, Any], agent: str,
         web: fetch.Settings) -> tuple[list[str], dict[str, str]]:
    """Look once at each source: (names of those that changed, name -> why it could not be looked at).

    `agent` is what pages are told asks them, `web` how they are reached. `notes` is brought up to date in place, save
    for what was told: `told` does that once the news has arrived.
    """
    changed, failed = [], {}
    for source in watched:
        note = notes.get(source.name, {})
        if note.get("where") != source.where:
            note = {"where": source.where}
        try:
            if source.web:
                found = page(source.where, note.get("found", {}), web, agent)
            else:
                found = files(source, note.get("found", {}))
        except (Unreachable, OSError) as error:
            failed[source.name] = str(error)
            continue
        settled = found["sha256"] == note.get("found", {}).get("sha256")
        note["found"] = found
        if note.setdefault("told", found["sha256"]) != found["sha256"] and settled:
            changed.append(source.name)
        notes[source.name] = note
    return changed, failed


def told(names: list[str], notes: dict[str, Any]) -> None:
    """Note that the news of `names` has arrived, so that it is not told again."""
    for name in names:
        notes[name]["told"] = notes[name]["found"]["sha256"]


def files(source: Source, last: dict[str, Any]) -> dict[str, Any]:
    """The state of a directory, file or glob: `stat` of its files, and the `sha256` of their contents.

    Files are read again only where `stat` differs from `last`. Raises Unreachable where nothing is at the path.
    """
    top = Path(source.where)
    if top.is_dir():
        taken = {path for path in top.rglob("*") if path.is_file() and any(  # * crosses slashes, as in `sources:`
            fnmatchcase(path.relative_to(top).as_posix(), pattern) for pattern in source.take)}
    else:
        taken = {Path(path) for path in glob.glob(source.where, recursive=True) if Path(path).is_file()}
        top = Path(os.path.commonpath([path.parent for path in taken])) if taken else top
        if not taken and not glob.has_magic(source.where):
            raise Unreachable(f"{source.where} is not there")
    stats = sorted((path.relative_to(top).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in taken)
    stat = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    return {"stat": stat, "sha256": last["sha256"] if last.get("stat") == stat else fetch.tree(top, taken)}


def page(url: str, last: dict[str, Any], settings: fetch.Settings, agent: str) -> dict[str, Any]:
    """The state of a page: its `etag`, `modified` (Last-Modified) and the `sha256` of its body.

    Asked for with what `last` knows of it, so an unchanged page costs the server no body. Raises Unreachable.
    """
    ask = {"User-Agent": agent}
    if last.get("etag"):
        ask["If-None-Match"] = last["etag"]
    if last.get("modified"):
        ask["If-Modified-Since"] = last["modified"]
    digest, size = hashlib.sha256(), 0
    try:
        with settings.session().get(url, headers=ask, stream=True, timeout=settings.timeout) as answer:
            if answer.status_code == 304 and last:
                return last
            answer.raise_for_status()
            for block in answer.iter_content(fetch.BLOCK):
                digest.update(block)
                size += len(block)
                if size > LARGEST:
                    raise Unreachable(f"{fetch.public(url)} is larger than {LARGEST >> 20} MiB: watch a smaller page")
            return {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified"),
                    "sha256": digest.hexdigest()}
    except requests.RequestException as error:
        raise Unreachable(f"{fetch.public(url)}: {fetch.reason(error)}") from None


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of the looks before; none where there are none that can be read."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def write_notes(path: Path, notes: dict[str, Any]) -> None:
    """Write the notes whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def rounds(watched: list[Source], path: Path, agent: str, tell: Callable[[list[str]], None]) -> Iterator[list[str]]:
    """One look for each item asked for; yields lines to print: what changed, what cannot be reached and is again.

    `tell` is called with the changed names; where it raises OSError the news is told again at the next look.
    """
    notes, before = read_notes(path), {}
    web = fetch.pip_settings() if any(source.web for source in watched) else fetch.Settings([])
    while True:
        changed, failed = look(watched, notes, agent, web)
        lines = [f"cannot look at {name}: {why}" for name, why in failed.items() if before.get(name) != why]
        lines += [f"{name} can be reached again" for name in before if name not in failed]
        if changed:
            try:
                tell(changed)
                told(changed, notes)
                lines.append(f"changed: {', '.join(changed)}; a retraining was asked for")
            except OSError as error:
                lines.append(f"changed: {', '.join(changed)}; Prefect does not answer ({error}), trying again")
        write_notes(path, notes)
        before = failed
        yield lines
