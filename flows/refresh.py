"""What a refresh means for each kind of source: the pins of those whose content may have changed are set anew.

| kind | on a refresh |
|---|---|
| local (corpus, package) | `sha256` of its files now; `snapshot` is the day where the champion's differs |
| warc, jsonl, parquet with `path` | the same, of the file or of all files of the glob |
| huggingface, `path` a directory here | `snapshot` is the day and the digest of its files |
| warc, jsonl, parquet with `url` | the same, of what is there now; asked for by the ETag of the last time |
| seed | crawled again (flows/retrain.py); its snapshot stays, the pages found tell whether it changed |
| pypi, npm, a hub's revision, commoncrawl | pinned: a newer one is a change of params.yaml, by a commit |
| pydoc | follows the Python that is installed |

A source whose files are what the champion read keeps the champion's pins, so a day without news changes no param.
"""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from pydantic import TypeAdapter

from tasks.data import fetch, folders
from tasks.data.registry import LocalCorpus, LocalPackage
from tasks.stage import StageError

FILES = ("warc", "jsonl", "parquet")


class RefreshError(RuntimeError):
    """A source is not to be had; one line that names it."""


def refresh(sources: dict[str, Any], champion: dict[str, Any], root: Path, workspace: Path, day: str) -> list[str]:
    """Set the pins of `sources` (the section of params.yaml, changed in place) to what is there now.

    `champion`: the same section as the current release has it, or {}. A relative path means the file committed in
    `workspace`, else the one in the checkout `root`, by its absolute path. Returns one line a source that is not as
    the champion read it. Raises RefreshError.
    """
    changed = []
    for part in ("corpora", "packages"):
        known = {entry["name"]: entry for entry in champion.get(part, ())}
        for entry in sources.get(part, ()):
            old = known.get(entry["name"], {})
            try:
                renew(entry, old, root, workspace, day)
            except (StageError, OSError, ValueError) as error:
                text = " ".join(str(error).split()).removeprefix("sources: ").removeprefix(f"{entry['name']}: ")
                raise RefreshError(f"source {entry['name']}: {text}") from None
            if entry != old:
                changed.append(f"{entry['name']} ({'changed' if old else 'new'})")
        changed += [f"{name} (gone)" for name in known if name not in {entry["name"] for entry in sources[part]}]
    return changed


def renew(entry: dict[str, Any], old: dict[str, Any], root: Path, workspace: Path, day: str) -> None:
    """Set one entry's pins. Raises StageError, OSError or ValueError where its files cannot be read."""
    kind = entry["kind"]
    if kind in FILES and entry.get("url"):
        repin(entry, old, newest(entry["url"], old.get("sha256") or entry["sha256"]), day)
        return
    own = entry.get("path") and (kind in ("local", *FILES) or (kind == "huggingface" and is_directory(entry, root)))
    if not own:
        return
    if not os.path.isabs(entry["path"]) and not glob.glob(str(workspace / entry["path"]), recursive=True):
        entry["path"] = str(root / entry["path"])
    found = digest(entry | {"path": str(workspace / entry["path"])})
    if kind == "huggingface":
        same = str(old.get("snapshot", "")).endswith(found[:12])
        entry["snapshot"] = old["snapshot"] if same else f"{day}-{found[:12]}"
        entry.pop("sha256", None)   # of what the stage writes, which only the stage can tell
        return
    repin(entry, old, found, day)


def repin(entry: dict[str, Any], old: dict[str, Any], found: str, day: str) -> None:
    """Pin an entry to the sha256 `found`; its snapshot is the day where that is not what was read before."""
    same = found == (old.get("sha256") or entry.get("sha256") or found)
    if "snapshot" in entry:
        entry["snapshot"] = old.get("snapshot", entry["snapshot"]) if same else day
    entry["sha256"] = found


def newest(url: str, known: str) -> str:
    """The sha256 of what is at `url` now, the file kept among the downloads; not sent again where the server answers
    that it is what the validators of the last time stood for. Raises StageError."""
    folder = fetch.downloads()
    folder.mkdir(parents=True, exist_ok=True)
    note, partial = folder / "validators.json", folder / f".refresh.partial-{os.getpid()}"
    try:
        notes = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes = {}
    last, settings = notes.get(url, {}), fetch.pip_settings()
    ask = {}
    if last.get("sha256") == known:   # else what was read since is not what they stand for
        ask = {name: last[key] for name, key in (("If-None-Match", "etag"), ("If-Modified-Since", "modified"))
               if last.get(key)}
    try:
        with settings.session().get(url, headers={"Accept-Encoding": "identity", **ask}, stream=True,
                                    timeout=settings.timeout) as answer:
            if answer.status_code == 304 and ask:
                return known
            answer.raise_for_status()
            validators = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
        fetch.download(settings, url, partial, unquote(urlsplit(url).path.rpartition("/")[2]) or "index")
        found = fetch.digest(partial)
        partial.rename(folder / found)
    except requests.RequestException as error:
        raise StageError(f"{fetch.public(url)} cannot be fetched ({fetch.reason(error)})") from None
    finally:
        partial.unlink(missing_ok=True)
    whole = note.with_name(f".{note.name}.partial-{os.getpid()}")
    whole.write_text(json.dumps(notes | {url: validators | {"sha256": found}}, indent=1, sort_keys=True) + "\n",
                     encoding="utf-8")
    os.replace(whole, note)
    return found


def is_directory(entry: dict[str, Any], root: Path) -> bool:
    """Whether a data set's path is a directory of this machine, not an id of the hub."""
    return (root / entry["path"]).is_dir()


def digest(entry: dict[str, Any]) -> str:
    """The sha256 that pins an entry's files as they are now (fetch.tree; of the file itself where there is one)."""
    if entry["kind"] == "local":
        form = LocalCorpus if "as" in entry else LocalPackage
        typed = TypeAdapter(form).validate_python({key: value for key, value in entry.items() if key != "sha256"})
        return fetch.tree(Path(typed.path), folders.local(typed))
    if entry["kind"] == "huggingface":
        top = Path(entry["path"])
        return fetch.tree(top, (path for path in top.rglob("*") if path.is_file()))
    found = sorted(Path(path) for path in glob.glob(entry["path"], recursive=True) if Path(path).is_file())
    if not found:
        raise StageError(f"path {entry['path']} is no file here and matches none")
    if len(found) == 1:
        return fetch.digest(found[0])
    return fetch.tree(Path(os.path.commonpath([path.parent for path in found])), found)


def seeds(sources: dict[str, Any]) -> list[str]:
    """Names of the public sites, which only a crawl can tell changed."""
    return [entry["name"] for entry in sources.get("corpora", ()) if entry["kind"] == "seed"]
