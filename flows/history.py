"""Every run that git knows of: the metrics files at each commit, experiment and release that changed them.

It reads what `dvc exp show --all-commits` shows, from git itself: a few git processes however many commits there are,
and each different file once, kept by its blob's hash, so that hundreds of commits take seconds (DVC opens its
repository anew for each).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lineage import git

KEPT = Path(".runtime/leaderboard")
WORKTREE = "working tree"
ANSWERS = re.compile(r"^    - path: data/answers/([^/\n]+)\.jsonl\n(?:      (?!md5)[^\n]*\n)*"
                     r"      md5: ([0-9a-f]{32})$", re.M)
LEFT_OUT = ("stash", "apply", "exec")    # of refs/exps: DVC's own working states
Z95 = 1.959963984540054
Score = list[float | None]               # value, low, high, items, what a trivial answerer gets


@dataclass
class Run:
    """A state of the metrics: a commit, an experiment on one, or the working tree."""

    commit: str
    date: str
    subject: str
    kind: str                            # commit, experiment, worktree
    experiment: str = ""
    releases: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)      # metrics file -> blob
    answers: dict[str, str] = field(default_factory=dict)    # model -> md5 of its answers


def runs(root: Path) -> list[Run]:
    """All of them, oldest first, the working tree last where it differs. Raises LineageError outside a repository."""
    tags = dict(reversed(line.split(" ", 1)) for line in git(
        "-C", str(root), "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags/release").splitlines())
    released: dict[str, list[str]] = {}
    for name in tags.values():
        released.setdefault(git("-C", str(root), "rev-parse", f"{name}^{{commit}}").strip(), []).append(name)
    found = listed(root, "commit", "HEAD", *tags.values())
    for line in git("-C", str(root), "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines():
        commit, ref = line.split(" ", 1)
        parts = ref.split("/")
        if parts[2] not in LEFT_OUT and len(parts) == 5:
            found += listed(root, "experiment", "-1", commit, experiment=parts[4])
    files_of = trees(root, [*(run.commit for run in found), *released, "HEAD"])
    locks = {name: oid for name, (oid, _) in objects(root, [f"{run.commit}:dvc.lock" for run in found], False).items()}
    texts = objects(root, sorted(set(locks.values())))
    by_lock = {oid: answered(text.decode("utf-8", "replace")) for oid, (_, text) in texts.items()}
    for run in found:
        run.files = files_of[run.commit]
        run.answers = by_lock.get(locks.get(f"{run.commit}:dvc.lock", ""), {})
    for commit, names in released.items():
        files = files_of[commit]
        for run in found:
            if run.kind == "commit" and run.files == files:
                run.releases += names
                break
    there = worktree(root)
    if there.files != files_of["HEAD"]:
        found.append(there)
    return [run for run in found if run.files]


def listed(root: Path, kind: str, *revisions: str, experiment: str = "") -> list[Run]:
    """The commits that changed a metrics file, of an experiment the commit itself, oldest first."""
    if kind == "commit" and subprocess.run(["git", "-C", str(root), "rev-parse", "-q", "--verify", "HEAD"],
                                           capture_output=True).returncode:
        return []
    only = ["--", "metrics"] if kind == "commit" else []
    lines = git("-C", str(root), "log", "--reverse", "--topo-order", "--format=%H%x1f%cs%x1f%s", *revisions, *only)
    return [Run(*line.split("\x1f", 2), kind, experiment) for line in lines.splitlines()]


def trees(root: Path, commits: list[str]) -> dict[str, dict[str, str]]:
    """commit -> (metrics file -> blob), by a few git processes however many commits there are."""
    tops = {name: oid for name, (oid, _) in objects(root, [f"{one}:metrics" for one in commits], False).items()}
    known: dict[str, dict[str, tuple[bool, str]]] = {}
    todo = sorted(set(tops.values()))
    while todo:   # a level of folders at a time, each different one once
        known |= {oid: entries(body, len(oid) // 2) for oid, (_, body) in objects(root, todo).items()}
        below = {oid for one in todo for folder, oid in known.get(one, {}).values() if folder}
        todo = sorted(below - known.keys())

    def walk(oid: str, path: str) -> Iterator[tuple[str, str]]:
        for name, (folder, inner) in known.get(oid, {}).items():
            if folder:
                yield from walk(inner, f"{path}/{name}")
            elif name.endswith(".json"):
                yield f"{path}/{name}", inner

    return {one: dict(walk(tops.get(f"{one}:metrics", ""), "metrics")) for one in commits}


def entries(body: bytes, size: int) -> dict[str, tuple[bool, str]]:
    """name -> (whether a folder, object) of a git tree: `MODE NAME`, a zero byte, the hash in `size` bytes."""
    found, at = {}, 0
    while at < len(body):
        end = body.index(b"\0", at)
        mode, _, name = body[at:end].partition(b" ")
        found[name.decode("utf-8", "replace")] = mode == b"40000", body[end + 1:end + 1 + size].hex()
        at = end + 1 + size
    return found


def objects(root: Path, names: list[str], bodies: bool = True) -> dict[str, tuple[str, bytes]]:
    """name (a hash, or COMMIT:PATH) -> (its hash, its bytes) by one git process; those that are not there are left out.
    """
    if not names:
        return {}
    done = subprocess.run(["git", "-C", str(root), "cat-file", "--batch" if bodies else "--batch-check"],
                          input="".join(f"{name}\n" for name in names).encode(), capture_output=True, check=True).stdout
    found, at = {}, 0
    for name in names:
        end = done.index(b"\n", at)
        head = done[at:end].decode().rsplit(" ", 2)
        at = end + 1
        if head[-1].isdigit():
            size = int(head[2]) if bodies else 0
            found[name] = head[0], done[at:at + size]
            at += size + bodies
    return found


def answered(lock: str) -> dict[str, str]:
    """model -> md5 of data/answers/MODEL.jsonl, of a dvc.lock's text."""
    return dict(ANSWERS.findall(lock))


def worktree(root: Path) -> Run:
    """The metrics as they lie in the checkout, by the hashes git would give them."""
    paths = sorted(path.relative_to(root).as_posix() for path in (root / "metrics").rglob("*.json"))
    hashes = git("-C", str(root), "hash-object", "--", *paths).split() if paths else []
    lock = root / "dvc.lock"
    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    return Run("", "", "not committed", "worktree", files=dict(zip(paths, hashes)), answers=answered(text))


def scores(root: Path, found: list[Run]) -> dict[str, dict[str, Score]]:
    """blob -> the scores in that file; what was read before is taken from .runtime/leaderboard."""
    kept_at = root / KEPT / "blobs.json"
    try:
        kept = json.loads(kept_at.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    named = {blob: path for run in found for path, blob in run.files.items()}
    missing = sorted(blob for blob in named if blob not in kept)
    lying = {blob: path for run in found if run.kind == "worktree" for path, blob in run.files.items()}
    fresh = {blob: body for blob, (_, body) in objects(root, [one for one in missing if one not in lying]).items()}
    fresh |= {blob: (root / lying[blob]).read_bytes() for blob in missing if blob in lying}
    for blob, text in fresh.items():
        try:
            kept[blob] = dict(estimates(json.loads(text)))
        except (ValueError, RecursionError):
            kept[blob] = {}          # torn or no JSON at that commit: nothing to show of it
    if fresh:
        kept_at.parent.mkdir(parents=True, exist_ok=True)
        partial = kept_at.with_suffix(".partial")
        partial.write_text(json.dumps(kept), encoding="utf-8")
        partial.replace(kept_at)
    return {blob: kept.get(blob, {}) for blob in named}


def estimates(value: Any, prefix: str = "") -> Iterator[tuple[str, Score]]:
    """(dotted key, score) of everything with a standard error in a metrics file; `dimensions` says the same again."""
    if not isinstance(value, dict):
        return
    if number(value.get("value")) and number(value.get("stderr")):
        spread = Z95 * value["stderr"]
        low, high = (value[key] if number(value.get(key)) else value["value"] + sign * spread
                     for key, sign in (("low", -1), ("high", 1)))
        beside = [one for one in (value.get("baselines") or {}).values() if number(one)] if isinstance(
            value.get("baselines"), dict) else []
        items = value.get("n") if number(value.get("n")) else None
        best = (min if prefix.endswith("bits_per_byte") else max)(beside) if beside else None
        yield prefix.removeprefix("scores."), [value["value"], low, high, items, best]
        return
    for name, inner in value.items():
        key = f"{prefix}.{name}" if prefix else name
        if number(inner) and number(value.get(f"{name}_stderr")):
            spread = Z95 * value[f"{name}_stderr"]
            yield key, [inner, inner - spread, inner + spread, None, None]
        elif name != "dimensions":
            yield from estimates(inner, key)


def number(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
