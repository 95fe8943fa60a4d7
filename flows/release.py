"""Releases: what has been promoted, kept as annotated git tags, and the way back to each of them.

    ./run releases                list them
    ./run rollback [release/N]    bring an earlier one back (default: the one that the current one replaced)

A release is a tag `release/N` (of another profile: `release/PROFILE/N`) on a commit that holds dvc.lock, params.yaml
and metrics; its message tells the gates. The highest N is the current one. The checkout's branch is never touched.

Promotion is all or nothing. In this order: the commit's objects (no ref yet), `dvc push`, the models checked and
hard-linked from DVC's cache into `.releases/N` (flows/models.py), the tag, `.releases/current`. The tag, one file that
git renames into place, is the commit point: what is killed, full or down before it leaves the old release, and what
follows it is derived from the tags and made again by `repair`, which every command here calls first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows import lock
from flows.models import ModelsError, lay_out, served, tell

BOT = {"GIT_AUTHOR_NAME": "Catena", "GIT_AUTHOR_EMAIL": "catena@localhost",
       "GIT_COMMITTER_NAME": "Catena", "GIT_COMMITTER_EMAIL": "catena@localhost"}


class ReleaseError(RuntimeError):
    """Nothing was promoted; one line that says why."""


@dataclass(frozen=True)
class Release:
    """A promoted state. `trailers`: what the tag's message says of it, key -> values in order."""

    number: int
    tag: str
    commit: str
    profile: str
    subject: str
    trailers: dict[str, list[str]]

    def told(self, key: str) -> str:
        """The first value of a trailer; empty without one."""
        return (self.trailers.get(key) or [""])[0]


def git(root: Path, *words: str, given: str | None = None, extra: dict[str, str] | None = None) -> str:
    """git's answer in `root`. Raises ReleaseError with git's last line."""
    done = subprocess.run(["git", "-C", str(root), *words], input=given, capture_output=True, text=True,
                          env=os.environ | (extra or {}))
    if done.returncode:
        raise ReleaseError(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def tag_of(profile: str, number: int) -> str:
    """The tag of a release."""
    return f"release/{number}" if profile == "default" else f"release/{profile}/{number}"


def folder(root: Path, profile: str = "default") -> Path:
    """Where a profile's releases lie as files."""
    return root / ".releases" if profile == "default" else root / ".releases" / profile


def releases(root: Path, profile: str = "default") -> list[Release]:
    """Every release of a profile, oldest first."""
    prefix = tag_of(profile, 0)[:-1]
    form = "%(refname:lstrip=2)%00%(*objectname)%00%(contents)%00%00"
    text = git(root, "for-each-ref", f"refs/tags/{prefix}", f"--format={form}")
    found = []
    for block in text.split("\0\0"):
        name, _, rest = block.strip("\n").partition("\0")
        commit, _, contents = rest.partition("\0")
        if commit and re.fullmatch(re.escape(prefix) + r"[1-9]\d*", name):
            lines = contents.strip().splitlines()
            trailers: dict[str, list[str]] = {}
            for line in "\n".join(lines).split("\n\n")[-1].splitlines():
                key, colon, value = line.partition(": ")
                if colon:
                    trailers.setdefault(key, []).append(value)
            found.append(Release(int(name.removeprefix(prefix)), name, commit, profile, lines[0], trailers))
    return sorted(found, key=lambda release: release.number)


def current(root: Path, profile: str = "default") -> Release | None:
    """The release now in force, None before the first."""
    return (releases(root, profile) or [None])[-1]


def promote(root: Path, workspace: Path, base: str, subject: str, trailers: list[tuple[str, str]],
            champion: Release | None, paths: list[str], profile: str = "default") -> Release:
    """Make the state of `workspace` (files `paths` of it, laid over commit `base`) the current release.

    `champion` is the release it was judged against. Raises ReleaseError where another is current by now, or where any
    step up to the tag fails: then nothing is promoted.
    """
    with lock.held(folder(root, profile), "promotion"):
        repair_locked(root, profile)
        now = current(root, profile)
        if (now and now.tag) != (champion and champion.tag):
            raise ReleaseError(f"{now.tag if now else 'no release'} is current now, the challenger was judged "
                               f"against {champion.tag if champion else 'none'}: run it again")
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            git(workspace, "read-tree", base, extra=index)
            git(workspace, "rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", *paths, extra=index)
            there = [path for path in paths if (workspace / path).exists()]
            git(workspace, "add", "-f", "-A", "--", *there, extra=index)
            tree = git(workspace, "write-tree", extra=index).strip()
        return release(root, profile, tree, base, subject, trailers)


def rollback(root: Path, tag: str | None = None, profile: str = "default", reason: str = "by hand") -> Release:
    """Bring an earlier release back as a new one with the same tree. Raises ReleaseError where that cannot be."""
    with lock.held(folder(root, profile), "promotion"):
        repair_locked(root, profile)
        known = releases(root, profile)
        if not known:
            raise ReleaseError("there is no release yet: ./run retrain makes the first")
        now = known[-1]
        tag = tag or now.told("Champion")
        old = next((one for one in known if tag in (one.tag, str(one.number))), None)
        if old is None:
            tags = ", ".join(one.tag for one in known)
            raise ReleaseError(f"no release {tag or 'before ' + now.tag} (known: {tags})")
        tree = git(root, "rev-parse", f"{old.commit}^{{tree}}").strip()
        if tree == git(root, "rev-parse", f"{now.commit}^{{tree}}").strip():
            raise ReleaseError(f"{old.tag} is what {now.tag}, the current release, holds already")
        # Champion: where the next rollback leads: to what the restored release had replaced, not to what is left now
        trailers = [("Kind", "rollback"), ("Champion", old.told("Champion")), ("Left", now.tag),
                    ("Restores", old.told("Restores") or old.tag), ("Base", old.told("Base")),
                    ("Challenger", old.told("Challenger")), ("Reason", reason)]
        return release(root, profile, tree, now.commit, f"back to {old.tag}: {reason}", trailers)


def release(root: Path, profile: str, tree: str, base: str, subject: str, trailers: list[tuple[str, str]]
            ) -> Release:
    """Commit a tree, push its artifacts, materialize its models, tag it, and switch to it."""
    known = releases(root, profile)
    number = known[-1].number + 1 if known else 1
    tag = tag_of(profile, number)
    body = [(key, " ".join(value.split())) for key, value in [("Profile", profile), *trailers] if value.strip()]
    message = f"{tag}: {' '.join(subject.split())}\n\n" + "".join(f"{key}: {value}\n" for key, value in body)
    parents = dict.fromkeys([*(one.commit for one in known[-1:]), git(root, "rev-parse", f"{base}^{{commit}}").strip()])
    try:
        identity = {} if git(root, "var", "GIT_COMMITTER_IDENT") else BOT
    except ReleaseError:
        identity = BOT
    words = [word for parent in parents for word in ("-p", parent)]
    commit = git(root, "commit-tree", tree, *words, "-F", "-", given=message, extra=identity).strip()
    try:
        push(root, commit)
        place = folder(root, profile) / str(number)
        if place.exists():   # of a promotion that never came to its tag
            shutil.rmtree(place)
        lay_out(root, commit, place, served(root, commit))
    except Exception as error:   # whatever fails before the tag, a library's own errors too, promotes nothing
        raise ReleaseError("not promoted, the release before stands: "
                           f"{' '.join(str(error).split()) or type(error).__name__}") from error
    git(root, "tag", "-a", tag, commit, "-F", "-", given=message, extra=identity)
    try:
        switch(root, profile, number)
    except OSError as error:
        raise ReleaseError(f"{tag} is promoted, but its links could not be moved ({error}): ./run releases does it"
                           ) from None
    return current(root, profile)


def materialize(root: Path, tag: str) -> Path:
    """Lay out a release's models in `.releases/N/models/TRACK/int4`, verified; the path of `.releases/N`.

    Raises ReleaseError for a tag that is none, ModelsError where a file is missing or damaged.
    """
    named = re.fullmatch(r"release/(?:(.+)/)?(\d+)", tag)
    if not named:
        raise ReleaseError(f"{tag} is no release's tag: release/N, or release/PROFILE/N")
    profile, number = named.groups("default")
    commit = git(root, "rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}").strip()
    return lay_out(root, commit, folder(root, profile) / number, served(root, commit))


def push(root: Path, commit: str) -> None:
    """`dvc push` of what dvc.lock at `commit` names, where a default remote is configured. Raises ModelsError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            if repo.config["core"].get("remote"):
                repo.push(revs=[commit], workspace=False)
    except (DvcException, OSError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ModelsError(f"dvc push: {error}{cause}: see that the remote is there and has room, then run it again"
                          ) from None
    except Exception as error:   # every store has errors of its own
        raise ModelsError(f"dvc push: {type(error).__name__}: {error}") from None


def switch(root: Path, profile: str, number: int) -> None:
    """Point `current`, then each served model's link, at release `number`; each link is replaced in one step."""
    place = folder(root, profile)
    link(place / "current", str(number))
    (place / "models").mkdir(exist_ok=True)
    tracks = sorted(path.parent.name for path in (place / str(number) / "models").glob("*/int4"))
    for track in tracks:   # a server watches these: the model's path itself has to be a link
        link(place / "models" / track, f"../current/models/{track}/int4")
    for old in (place / "models").iterdir():
        if old.name not in tracks:
            old.unlink()
    branch = "release" if profile == "default" else f"release-{profile}"
    taken = git(root, "worktree", "list", "--porcelain").splitlines()
    if f"branch refs/heads/{branch}" not in taken:   # whoever has it checked out keeps it as it is
        git(root, "update-ref", f"refs/heads/{branch}", f"{tag_of(profile, number)}^{{commit}}")


def link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target` by one rename, unless it is."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    fresh = path.with_name(f".{path.name}.partial-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, path)


def repair(root: Path, profile: str = "default") -> Release | None:
    """Bring `.releases` to what the tags say, after whatever stopped a promotion; the current release."""
    with lock.held(folder(root, profile), "promotion"):
        return repair_locked(root, profile)


def repair_locked(root: Path, profile: str) -> Release | None:
    """`repair`, for who holds the lock."""
    place, now = folder(root, profile), current(root, profile)
    refs = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir").strip()) / "refs"
    branch = "release" if profile == "default" else f"release-{profile}"
    for left in [*(refs / "tags" / tag_of(profile, 0)).parent.glob("*.lock"), refs / "heads" / f"{branch}.lock"]:
        left.unlink(missing_ok=True)   # of a git that was killed; no other writes these refs without our lock
    for left in place.glob(".*.partial-*"):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    if now is not None:
        try:
            materialize(root, now.tag)
        except Exception as error:   # DVC's own database has errors of its own, as on a full disk
            raise ReleaseError(f"{now.tag} cannot be laid out: {' '.join(str(error).split())}") from error
        switch(root, profile, now.number)
    return now


def main() -> int:
    """The command line. Exit codes: 0 done, 1 it cannot be, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m flows.release", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="default")
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("list", prog="./run releases", description="Every release: when, its kind, reason and models.",
                     help="every release, its kind, reason and models")
    parts.add_parser("models", help="print NAME=DIR of each model of the current release, as the server takes them")
    back = parts.add_parser("rollback", prog="./run rollback", help="bring an earlier release back",
                            description="Bring an earlier release back: seconds, from what DVC has kept; itself a release.")
    back.add_argument("tag", nargs="?", help="release/N, or N (default: the one that the current one replaced)")
    back.add_argument("--reason", default="by hand", help="goes into the release (default: by hand)")
    given = parser.parse_args()
    root, profile = Path.cwd(), given.profile
    try:
        if given.part == "rollback":
            made = rollback(root, given.tag, profile, given.reason)
            print(f"{made.subject}\n{folder(root, profile) / 'current'} -> {made.number}")
            for line in tell(root, folder(root, profile)):
                print(line)
            return 0
        now = repair(root, profile)
        if now is None:
            raise ReleaseError("there is no release yet: ./run retrain makes the first")
        if given.part == "models":
            for path in sorted((folder(root, profile) / "models").iterdir()):
                print(f"{path.name}={path.relative_to(root)}")
            return 0
        for one in releases(root, profile):
            when = git(root, "log", "-1", "--format=%ci", one.commit).strip()[:16]
            print(f"{'*' if one == now else ' '} {when}  {one.subject}")
        print(f"* current, laid out in {folder(root, profile) / 'current'}; more: git show {now.tag}")
    except (ReleaseError, ModelsError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
