"""A commit rebuilt from nothing in a second clone, stage by stage, each out's hash held against dvc.lock.

The clone has a DVC cache of its own, empty, and no dvc.lock, so nothing made before can enter. Only fetched files are
shared: they are pinned by sha256, and checked when they are taken.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from flows import graph, machine, workspace
from flows.stage_run import Outcome, run_stage

# libraries that choose their arithmetic by the processor they find, so the last bits of their floats differ between two
DISPATCHING = {"torch", "onnxruntime", "sklearn", "scipy"}
SHOWN = 4  # files of a differing directory that are named


class RebuildError(RuntimeError):
    """Nothing can be rebuilt or compared; the message is one line with the remedy."""


@dataclass(frozen=True)
class Comparison:
    """One out of one stage. `verdict`: same; differs (a fault); rounding, follows (differ, may); failed; skipped."""

    stage: str
    out: str
    expected: str
    found: str
    verdict: str
    why: str = ""

    @property
    def fault(self) -> bool:
        """Whether it must match and does not."""
        return self.verdict in ("differs", "failed", "skipped")


def changed(root: Path) -> list[str]:
    """Files of `root` that differ from its commit, new ones too; machines.json, which hashes nothing, left out."""
    lines = workspace.git(root, "status", "--porcelain", "-z").split("\0")
    return [line[3:] for line in lines if line[2:3] == " " and line[3:] != machine.FILE]


def wanted(stages: list[graph.Stage], targets: list[str]) -> list[graph.Stage]:
    """The stages that `targets` name (a stage, a group like `evaluate`, or an out), with all above them; [] names all.

    Raises RebuildError for a target that is none.
    """
    if not targets:
        return stages
    names: set[str] = set()
    for target in targets:
        path = target.rstrip("/")
        hit = {one.name for one in stages if path in (one.name, one.name.partition("@")[0]) or path in one.outs}
        if not hit:
            known = ", ".join(dict.fromkeys(one.name.partition("@")[0] for one in stages))
            raise RebuildError(f"no stage and no output {target!r}: stages are {known}")
        names |= hit
    for one in reversed(stages):  # children stand after their parents
        if one.name in names:
            names |= set(one.parents)
    return [one for one in stages if one.name in names]


def clone(root: Path, place: Path, profile: str | None) -> Path:
    """A clone of `root`'s HEAD at `place`, in a profile's workspace where one is named; the directory to build in.

    Raises RebuildError where git fails, GraphError and ParamsError where the commit's own files are faulty.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["git", "clone", "--quiet", str(root), str(place)], capture_output=True, text=True)
    if done.returncode:
        raise RebuildError(f"git clone: {' '.join(done.stderr.split()) or 'failed'}")
    return place if profile is None else workspace.prepare(place, profile)


def outdated(place: Path, stages: list[graph.Stage], lock: str) -> list[str]:
    """What in the clone is not what dvc.lock was made from, one phrase a thing: code, params, commands, metrics.

    What a stage of the chain writes is left out: it is what the rebuilding compares.
    """
    (place / "dvc.lock").write_text(lock, encoding="utf-8")
    with Repo(str(place)) as repo:
        status = {name.rpartition(":")[2]: parts for name, parts in repo.status().items()}
    made = {out for stage in graph.read(place) for out in stage.outs}
    told = []
    for stage in stages:
        for part in status.get(stage.name, ()):
            if part == "changed command":
                told.append(f"{stage.name}: its command changed")
                continue
            for path, how in (part.get("changed deps") or {}).items() if isinstance(part, dict) else ():
                if isinstance(how, dict):
                    told += [f"{stage.name}: {key} {word}" for key, word in how.items()]
                elif not any(within(path, out) or within(out, path) for out in made):
                    told.append(f"{stage.name}: {path} {how}")
            for path, how in (part.get("changed outs") or {}).items() if isinstance(part, dict) else ():
                if how == "modified":  # a metrics file that git keeps
                    told.append(f"{stage.name}: {path} is not what dvc.lock says")
    (place / "dvc.lock").unlink()
    return told


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(f"{folder}/")


def rounding(root: Path, stage: graph.Stage) -> bool:
    """Whether a stage computes with a library whose arithmetic hangs on the processor: its code deps import one."""
    files = [path for dep in stage.deps if not Path(dep).is_absolute() for path in
             ([root / dep] if (root / dep).is_file() else sorted((root / dep).rglob("*.py")))
             if path.suffix == ".py"]
    return any(modules(path) & DISPATCHING for path in files)


def modules(path: Path) -> set[str]:
    """Top names of the modules that a Python file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


class Rebuilding:
    """The stages of one lock, rebuilt in `place` in their order. `cache` is where the directories' listings lie."""

    def __init__(self, place: Path, stages: list[graph.Stage], lock: str, elsewhere: dict[str, str],
                 cache: Path) -> None:
        """`elsewhere`: stage -> how the machine that made it differs from this one; absent where it does not.

        Raises RebuildError where the lock has no entry of a stage.
        """
        self.place, self.stages, self.elsewhere, self.cache = place, stages, elsewhere, cache
        self.expected = (yaml.safe_load(lock) or {}).get("stages") or {}
        if missing := [stage.name for stage in stages if stage.name not in self.expected]:
            raise RebuildError(f"dvc.lock has no entry of {', '.join(missing[:4])}: run ./run and commit dvc.lock")
        self.lost: set[str] = set()           # stages that could not be rebuilt
        self.differing: dict[str, str] = {}   # out that differs -> its stage

    def run(self, say: Callable[[str, str, bool], None]) -> Iterator[tuple[graph.Stage, Outcome, list[Comparison]]]:
        """Rebuild and compare stage after stage. `say(stage, line, passing)` gets what each prints."""
        for stage in self.stages:
            down = [parent for parent in stage.parents if parent in self.lost]
            if down:
                outcome = Outcome("Skipped", f"not rebuilt: {down[0]} could not be", 0.0, 0)
            else:
                outcome = run_stage(stage.name, self.place, lambda text, passing: say(stage.name, text, passing))
            if outcome.name in ("Failed", "Skipped"):
                self.lost.add(stage.name)
            yield stage, outcome, self.compare(stage, outcome)

    def compare(self, stage: graph.Stage, outcome: Outcome) -> list[Comparison]:
        """Every out of a stage that was rebuilt against the lock's, in the lock's order."""
        lock = self.place / "dvc.lock"
        entries = (yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.exists() else None) or {"stages": {}}
        found = {out["path"]: out for out in entries["stages"].get(stage.name, {}).get("outs", ())}
        rows = []
        for out in self.expected[stage.name].get("outs", ()):
            path, before = out["path"], out.get("md5", "")
            after = found.get(path, {}).get("md5", "")
            if outcome.name in ("Failed", "Skipped"):
                verdict, why = outcome.name.lower(), outcome.message
            elif before == after:
                verdict, why = "same", ""
            else:
                verdict, why = self.judge(stage)
                why = "; ".join(filter(None, (why, self.inside(before, after))))
            rows.append(Comparison(stage.name, path, before, after, verdict, why))
        self.differing |= {row.out: stage.name for row in rows if row.verdict != "same"}
        return rows

    def judge(self, stage: graph.Stage) -> tuple[str, str]:
        """(verdict, reason) of an out that differs: it follows from an input, else the machine may excuse it."""
        for out, maker in self.differing.items():
            if any(within(out, dep) or within(dep, out) for dep in stage.deps):
                return "follows", f"its input {out} from {maker} differs"
        if stage.name in self.elsewhere and rounding(self.place, stage):
            return "rounding", self.elsewhere[stage.name]
        return "differs", "the same inputs and code gave other bytes"

    def inside(self, before: str, after: str) -> str:
        """Which files of a directory differ, where both listings can be had."""
        old, new = listing(self.cache, before), listing(self.place / ".dvc" / "cache", after)
        if old is None or new is None:
            return ""
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{len(names)} of {len(old)} files: {', '.join(names[:SHOWN])}{more}"


def listing(cache: Path, md5: str) -> dict[str, Any] | None:
    """File -> md5 of a directory kept in a DVC cache; None for a file, or where the cache has it not."""
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not md5.endswith(".dir") or not path.exists():
        return None
    return {one["relpath"]: one["md5"] for one in json.loads(path.read_text(encoding="utf-8"))}


def share_downloads(root: Path) -> None:
    """Let the clone's stages take fetched files from `root`'s, or from where $CATENA_DOWNLOADS says already."""
    kept = os.environ.get("CATENA_DOWNLOADS", root / ".runtime" / "downloads")
    os.environ["CATENA_DOWNLOADS"] = str(Path(kept).resolve())
