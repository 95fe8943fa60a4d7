"""A model repository of a hub (Hugging Face, ModelScope), taken by id at one commit.

A commit is a pin: the same files for ever. What the hub says of a file's sha256 (it does of large ones) is checked
while it comes; `sha256` of the entry pins them all (fetch.tree). Where no hub can be reached, fetch the directory on a
machine that reaches one and name it by `kind: local`.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

import requests

from tasks import stage
from tasks.data import fetch
from tasks.data.registry import HubPackage
from tasks.stage import StageError

File = tuple[str, str | None, str]  # path, sha256 where the hub knows it, address


def take(package: HubPackage, folder: Path) -> dict[str, str]:
    """Write the files of the repository that match `take` to `folder`; returns {"sha256": that of all of them}.

    Raises StageError: no hub to be reached, no such repository or commit, nothing to take, not what is pinned.
    """
    settings = fetch.pip_settings()
    settings.indexes = [endpoint(package)]
    try:
        files = [file for file in listing(package, settings)
                 if any(fnmatch.fnmatchcase(file[0], glob) for glob in package.take)]
        for path, sha256, address in files:
            if path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path:
                raise StageError(f"sources: {package.name}: the hub names a file {path!r}, outside its folder: refused")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            fetch.download(settings, address, folder / path, PurePosixPath(path).name)
            if sha256 and (found := fetch.digest(folder / path)) != sha256:
                raise StageError(f"sources: {package.name}: {path} came with sha256 {found}, the hub says {sha256}: "
                                 "torn on its way; run again")
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        why = fetch.reason(error) if isinstance(error, requests.RequestException) else "an answer of another form"
        raise StageError(
            f"sources: {package.name}: {package.id} at {package.revision[:12]} cannot be had from {endpoint(package)} "
            f"({why}): check id and revision; where no hub can be reached, fetch it elsewhere and give its directory "
            "(kind: local, path: ...), or name a mirror (HF_ENDPOINT, MODELSCOPE_DOMAIN)") from None
    if not files:
        raise StageError(f"sources: {package.name}: `take` matches no file of {package.id}")
    found = fetch.tree(folder, (folder / path for path, _, _ in files))
    fetch.check(package.name, found, package.sha256)
    stage.write_json(folder / "revision.json", {"hub": package.kind, "id": package.id, "revision": package.revision})
    return {"sha256": found}


def endpoint(package: HubPackage) -> str:
    """The hub's address: the default, or what its own tools take from the environment."""
    if package.kind == "huggingface":
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    domain = os.environ.get("MODELSCOPE_DOMAIN", "www.modelscope.cn").rstrip("/")
    return domain if "://" in domain else f"https://{domain}"


def listing(package: HubPackage, settings: fetch.Settings) -> list[File]:
    """The files of the repository at the commit."""
    hub = endpoint(package)
    base = (f"{hub}/api/models/{package.id}/tree/{package.revision}?recursive=true"
            if package.kind == "huggingface" else
            f"{hub}/api/v1/models/{package.id}/repo/files?Revision={package.revision}&Recursive=true")
    found: list[File] = []
    while base:
        answer = settings.session().get(base, timeout=settings.timeout)
        answer.raise_for_status()
        if package.kind == "huggingface":
            found += [(one["path"], (one.get("lfs") or {}).get("oid"),
                       f"{hub}/{package.id}/resolve/{package.revision}/{quote(one['path'])}")
                      for one in answer.json() if one["type"] == "file"]
        else:
            found += [(one["Path"], one.get("Sha256") or None, f"{hub}/api/v1/models/{package.id}/repo?" + urlencode(
                {"Revision": package.revision, "FilePath": one["Path"]}))
                for one in answer.json()["Data"]["Files"] if one["Type"] != "tree"]
        base = answer.links.get("next", {}).get("url")
    return found
