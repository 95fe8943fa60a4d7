"""A revision's directories laid out from DVC's cache: hard links, every file's checksum verified; a server told of it.

Others may read them while `dvc repro` works in the checkout: nothing there writes to them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from tasks import params

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ModelsError(RuntimeError):
    """Models cannot be laid out, or artifacts not be had; one line with the remedy."""


@dataclass(frozen=True)
class Cached:
    """A file of a model: its path below the release, its md5, where the cache has it."""

    path: str
    md5: str
    source: Path


def at(root: Path, revision: str, path: str) -> Any:
    """A YAML (or JSON) file at a revision. Raises ModelsError where there is none."""
    done = subprocess.run(["git", "-C", str(root), "show", f"{revision}:{path}"], capture_output=True, text=True)
    if done.returncode:
        raise ModelsError(f"{path} is not in {revision[:12]}")
    return yaml.load(done.stdout, Loader=LOADER)


def outs(lock: dict[str, Any]) -> dict[str, str]:
    """path -> md5 of everything a dvc.lock's stages wrote."""
    return {out["path"]: out["md5"] for entry in (lock.get("stages") or {}).values() for out in entry.get("outs", ())}


def served(root: Path, revision: str) -> list[str]:
    """The model directories that a revision serves. Raises ModelsError where its dvc.lock has none of them."""
    known, tracks = outs(at(root, revision, "dvc.lock")), at(root, revision, "params.yaml").get("served") or ()
    found = [f"models/{track}/int4" for track in tracks if f"models/{track}/int4" in known]
    if not found:
        raise ModelsError(f"dvc.lock of {revision[:12]} names no model that is served: nothing to release")
    return found


def listing(root: Path, revision: str, paths: list[str]) -> list[Cached]:
    """Every file of some outs of a revision. Raises ModelsError where dvc.lock, or cache and remote both, lack one."""
    known = outs(at(root, revision, "dvc.lock"))
    if lost := [path for path in paths if path not in known]:
        raise ModelsError(f"dvc.lock of {revision[:12]} has no {lost[0]}")
    wanted = {path: known[path] for path in paths}
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        if not all(complete(cache, md5) for md5 in wanted.values()):
            fetch(repo, revision, list(wanted))
        files = []
        for path, md5 in wanted.items():
            if not md5.endswith(".dir"):
                files.append(Cached(path, md5, Path(cache.oid_to_path(md5))))
                continue
            for entry in json.loads(Path(cache.oid_to_path(md5)).read_text(encoding="utf-8")):
                files.append(Cached(f"{path}/{entry['relpath']}", entry["md5"], Path(cache.oid_to_path(entry["md5"]))))
        return files


def complete(cache: Any, md5: str) -> bool:
    """Whether the cache has an object, and for a directory every file in it."""
    place = Path(cache.oid_to_path(md5))
    if not place.exists() or not md5.endswith(".dir"):
        return place.exists()
    entries = json.loads(place.read_text(encoding="utf-8"))
    return all(Path(cache.oid_to_path(entry["md5"])).exists() for entry in entries)


def fetch(repo: Repo, revision: str, paths: list[str]) -> None:
    """Bring `paths` of a revision from the remote into the cache. Raises ModelsError."""
    try:
        repo.fetch(targets=paths, revs=[revision], workspace=False)
    except (DvcException, OSError) as error:
        raise ModelsError(f"{', '.join(paths)} of {revision[:12]}: not whole in DVC's cache, and dvc fetch says: "
                          f"{error}") from None


def lay_out(root: Path, revision: str, place: Path, paths: list[str]) -> Path:
    """Lay out the outs `paths` of `revision` in `place`, whole or not at all; what lies there already is verified.

    Raises ModelsError where a file is missing or is not what dvc.lock says, OSError where the disk is full.
    """
    files = listing(root, revision, paths)
    if place.exists():
        if all((place / one.path).is_file() and md5(place / one.path) == one.md5 for one in files):
            return place
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.partial-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for one in files:
            target = fresh / one.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(one.source, target)
            except OSError:   # another file system, or one without links
                shutil.copyfile(one.source, target)
            if md5(target) != one.md5:
                raise ModelsError(f"{one.path} in DVC's cache is not what dvc.lock says ({one.source}): delete that "
                                  "file, then dvc fetch, or make it again")
        os.rename(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def md5(path: Path) -> str:
    """DVC's checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def tell(root: Path, place: Path) -> list[str]:
    """Tell the server of params.yaml's `runtime`, where one listens and has a key, to take the models of `place` now.

    Without a key it sees the moved links by itself within two seconds. One line a model it answered for; a server that
    refuses goes on serving the old model.
    """
    try:
        runtime = params.section(params.Runtime, "runtime", params.load(root / params.PARAMS))
    except params.ParamsError:
        return []
    if runtime.api_key is None:
        return []
    lines = []
    for path in sorted((place / "models").iterdir()):
        try:
            answer = httpx.post(f"http://{runtime.host}:{runtime.port}/admin/swap", json={"model": path.name},
                                headers={"Authorization": f"Bearer {runtime.api_key}"}, timeout=300, trust_env=False)
        except httpx.TransportError:
            return []    # nobody listens
        said = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        if answer.status_code != 404:
            lines.append(f"server, {path.name}: {said.get('status') or said.get('error') or answer.status_code}")
    return lines
