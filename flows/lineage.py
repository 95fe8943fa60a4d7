"""What made what, read from a revision's dvc.lock: the tree of stages above an artifact, and its export as W3C PROV.

dvc.lock holds the hash of everything a stage read and wrote. Git says when a hash came into it; `.runtime/timing` says on
which machine and how long, for stages that the flow has run here.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CODE = ("tasks/", "kernels/", "flows/")


class LineageError(RuntimeError):
    """Nothing is known about what was asked; the message is one line with the remedy."""


@dataclass(frozen=True)
class File:
    """A path as a stage read or wrote it: DVC's md5 (`.dir` for directories) and bytes."""

    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class Entry:
    """One stage of dvc.lock. `params` are values by dotted key."""

    name: str
    cmd: str
    params: dict[str, Any]
    deps: tuple[File, ...]
    outs: tuple[File, ...]

    @property
    def code(self) -> tuple[File, ...]:
        """The deps that are this project's own code."""
        return tuple(file for file in self.deps if file.path.startswith(CODE))

    @property
    def data(self) -> tuple[File, ...]:
        """The deps that are data."""
        return tuple(file for file in self.deps if not file.path.startswith(CODE))


def git(*arguments: str) -> str:
    """git's answer. Raises LineageError with its last line."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LineageError(f"git {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def text_at(path: str, revision: str | None) -> str:
    """A file's text at a revision, or (None) as it lies in the working tree. Raises LineageError where there is none."""
    if revision is not None:
        return git("show", f"{revision}:{path}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LineageError(f"{path} cannot be read ({type(error).__name__}): ./run makes it") from None


def read(revision: str | None = None) -> dict[str, Entry]:
    """Stage name -> entry, of dvc.lock at a revision or of the working tree."""
    try:
        stages = (yaml.safe_load(text_at("dvc.lock", revision)) or {})["stages"]
        return {name: Entry(name, entry["cmd"], entry.get("params", {}).get("params.yaml", {}),
                            files(entry, "deps"), files(entry, "outs")) for name, entry in stages.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise LineageError(f"dvc.lock is no lock of DVC's ({' '.join(str(error).split())[:100]}): restore it from git"
                           ) from None


def files(entry: dict[str, Any], side: str) -> tuple[File, ...]:
    """The deps or outs of a raw lock entry."""
    return tuple(File(item["path"], item.get("md5", ""), item.get("size", 0)) for item in entry.get(side, ()))


def maker(entries: dict[str, Entry], path: str) -> tuple[Entry, File] | None:
    """The stage that writes `path`, and the out that is it or holds it; None where no stage does."""
    for entry in entries.values():
        for out in entry.outs:
            if path == out.path or path.startswith(f"{out.path}/"):
                return entry, out
    return None


def ancestors(entries: dict[str, Entry], entry: Entry) -> list[Entry]:
    """`entry` and every stage above it, each once, parents first."""
    found: dict[str, Entry] = {}

    def visit(one: Entry) -> None:
        if one.name in found:
            return
        for file in one.data:
            above = maker(entries, file.path)
            if above:
                visit(above[0])
        found[one.name] = one

    visit(entry)
    return list(found.values())


def entered(md5: str) -> str:
    """`commit date subject` of the commit that brought a hash into dvc.lock; empty where it is in no commit."""
    lines = git("log", "--format=%h %cs %s", f"-S{md5}", "--", "dvc.lock").splitlines()
    return lines[-1] if lines else ""


def block(lock: str, name: str) -> str:
    """md5 of a stage's lines in a dvc.lock's text: says cheaply whether it is the same entry; empty without one."""
    found = re.search(rf"^  {re.escape(name)}:\n(?:    .*\n)*", lock, re.MULTILINE)
    return hashlib.md5(found[0].encode(), usedforsecurity=False).hexdigest() if found else ""


def run_of(name: str, lock: str) -> dict[str, Any] | None:
    """How the flow ran this stage here (seconds, peak_mib, machine), where that run made this very entry of `lock`."""
    try:
        kept = json.loads(Path(f".runtime/timing/stage-{name}.json").read_text(encoding="utf-8"))
        return kept if kept["entry"] == block(lock, name) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prov(entries: list[Entry]) -> dict[str, Any]:
    """PROV-JSON (W3C member submission, 2013) of these stages: files are entities, stages activities."""
    document: dict[str, Any] = {"prefix": {"catena": "urn:catena:"}, "entity": {}, "activity": {}, "used": {},
                                "wasGeneratedBy": {}}
    for entry in entries:
        activity = f"catena:stage/{entry.name}"
        document["activity"][activity] = {"catena:command": entry.cmd,
                                          "catena:params": json.dumps(entry.params, sort_keys=True, ensure_ascii=False)}
        for side, relation, ours in (("deps", "used", entry.deps), ("outs", "wasGeneratedBy", entry.outs)):
            for file in ours:
                entity = f"catena:file/{file.path}@{file.md5}"
                document["entity"][entity] = {"catena:path": file.path, "catena:md5": file.md5, "catena:bytes": file.size}
                document[relation][f"_:{entry.name}-{side}-{file.path}"] = {"prov:activity": activity,
                                                                            "prov:entity": entity}
    return document
