"""Rebuild this commit in a second clone, from nothing, and report every hash that differs from dvc.lock.

    ./run verify                       every stage
    ./run verify dedup                 a stage, a group of stages or an output, with all above it
    ./run verify --model DIR           a model directory against its manifest.json and its signature, nothing rebuilt

On the machine that made dvc.lock everything must match. On another one (machines.json names it) a stage whose code
imports a library that computes as the processor allows may round other bits, and what reads those bits follows; all
else must match there too.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from rich.console import Console as Rich
from rich.markup import escape
from rich.table import Table

from flows import graph, integrity, machine, rebuild, signature
from flows.console import Console
from flows.rebuild import Comparison, RebuildError
from flows.stage_run import kill_all
from flows.workspace import WorkspaceError
from tasks.params import ParamsError
from tasks.quantize.manifest import NAME

WORDS = {"differs": "differs", "rounding": "differs, and may: another machine", "follows": "follows",
         "failed": "not rebuilt", "skipped": "not rebuilt"}


def main() -> int:
    """The command line. Exit codes: 0 all that must match does, 1 something does not, 2 nothing could be compared."""
    parser = argparse.ArgumentParser(prog="./run verify", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="stage, group of stages or output (default: all)")
    parser.add_argument("--directory", type=Path, metavar="DIR",
                        help="build there and keep it (default: .runtime/verify, removed where all is the same)")
    parser.add_argument("--profile", default=None, help=argparse.SUPPRESS)  # ./run --profile NAME verify
    parser.add_argument("--model", type=Path, metavar="DIR", help="check this model directory instead")
    parser.add_argument("--signers", type=Path, metavar="FILE",
                        help="ssh's allowed_signers file, which must vouch for the model's signature (default: what "
                             "git's gpg.ssh.allowedSignersFile says, asked where there is a signature)")
    given = parser.parse_args()
    if given.signers and not given.model:
        parser.error("--signers goes with --model DIR")
    if given.model and (given.targets or given.directory):
        parser.error("--model DIR rebuilds nothing: leave out TARGET and --directory")
    try:
        if given.model:
            return check_model(given.model, given.signers)
        with held(Path.cwd()):
            return verify(Path.cwd(), given.targets, given.directory, given.profile)
    except (RebuildError, WorkspaceError, ParamsError, graph.GraphError, DvcException, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kill_all()
        print("\nstopped; nothing of this checkout was changed", file=sys.stderr)
        return 130


def check_model(directory: Path, signers: Path | None) -> int:
    """Print one line a fault of a model directory, or that it is whole and who signed it."""
    try:
        faults = integrity.faults(directory)
        words = signature.check(directory, signers) if not faults else ""
    except signature.SignatureError as error:
        faults = [str(error)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(f"{directory}: every file is what {NAME} says; {words}")
    return 1 if faults else 0


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Be the only verification of this checkout; freed by the kernel at death. Raises RebuildError where one runs."""
    path = root / ".runtime" / "verify.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RebuildError("another ./run verify works in this checkout: wait for its end") from None
        yield


def verify(root: Path, targets: list[str], directory: Path | None, profile: str | None) -> int:
    """Rebuild the commit of `root` and print what differs; 0 where all that must match does, else 1.

    Raises RebuildError for a tree that differs from its commit, a lock that is not of this commit, a bad target.
    """
    if dirty := rebuild.changed(root):
        more = f" and {len(dirty) - 4} more" if len(dirty) > 4 else ""
        raise RebuildError(f"this tree differs from its commit ({', '.join(dirty[:4])}{more}): commit or remove that, "
                           "for it is the commit that is rebuilt")
    home = root if profile is None else root / ".profiles" / profile
    try:
        lock = (home / "dvc.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RebuildError(f"{home / 'dvc.lock'} is not there: ./run{f' --profile {profile}' if profile else ''} "
                           "makes it") from None
    place = prepare(root, directory)
    rebuild.share_downloads(root)
    work = rebuild.clone(root, place / "clone", profile)
    stages = rebuild.wanted(graph.read(work), targets)
    elsewhere = strangers(home, lock, stages)
    job = rebuild.Rebuilding(work, stages, lock, elsewhere, home_cache(root))
    if old := rebuild.outdated(work, stages, lock):
        more = f" and {len(old) - 4} more" if len(old) > 4 else ""
        raise RebuildError(f"dvc.lock was not made from this commit ({'; '.join(old[:4])}{more}): run ./run, and "
                           "commit dvc.lock and metrics with the change")
    for reason in dict.fromkeys(elsewhere.values()):
        names = [name for name, why in elsewhere.items() if why == reason]
        print(f"{len(names)} of {len(stages)} stages: {reason}")
    rows = progress(job, len(stages))
    known = machine.read(home)
    unknown = [stage.name for stage in stages if machine.maker(known, stage.name, job.expected[stage.name]) is None]
    same = {stage.name for stage in stages} - {row.stage for row in rows if row.verdict != "same"}
    if confirmed := [name for name in unknown if name in same]:
        machine.record(home, confirmed)
        print(f"{machine.FILE}: noted that {len(confirmed)} stages come out the same on this machine; commit it")
    return report(rows, place, keep=directory is not None)


def prepare(root: Path, directory: Path | None) -> Path:
    """The empty directory to build in. Raises RebuildError where a given one holds something."""
    if directory is None:
        place = root / ".runtime" / "verify"
        if place.exists():  # of a verification that was killed, or that found a difference
            shutil.rmtree(place)
        return place
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RebuildError(f"{directory} is not empty: name a new directory")
    return directory.resolve()


def home_cache(root: Path) -> Path:
    """The DVC cache of `root`."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def strangers(home: Path, lock: str, stages: list[graph.Stage]) -> dict[str, str]:
    """Stage -> how the machine that made its entry differs from this one, where it does or is not known."""
    kept, here = machine.read(home), machine.describe(home)
    entries, told = (yaml.safe_load(lock) or {}).get("stages") or {}, {}
    for stage in stages:
        made = machine.maker(kept, stage.name, entries.get(stage.name, {}))
        if made is None:
            told[stage.name] = f"made on a machine that {machine.FILE} does not name"
        elif differences := machine.differences(made, here):
            told[stage.name] = f"made on another machine ({', '.join(differences)})"
    return told


def progress(job: rebuild.Rebuilding, total: int) -> list[Comparison]:
    """Rebuild all, one line a stage as it ends; every comparison."""
    console, rows = Console(max(len(stage.name) for stage in job.stages)), []

    def say(stage: str, text: str, passing: bool) -> None:
        (console.progress if passing else console.line)(text, stage)

    for number, (stage, outcome, compared) in enumerate(job.run(say), start=1):
        rows += compared
        bad = [row for row in compared if row.verdict != "same"]
        state = "Failed" if any(row.fault for row in bad) or outcome.name == "Failed" else "Completed"
        if outcome.name in ("Failed", "Skipped"):
            text, state = outcome.message, outcome.name
        else:
            text = f"{len(compared) - len(bad)} of {len(compared)} outputs the same, {outcome.seconds:.1f} s"
        console.state(stage.name, state, f"{number}/{total}", text)
    return rows


def report(rows: list[Comparison], place: Path, keep: bool) -> int:
    """Print what differs and the counts; removes `place` unless something differs or `keep`. The exit code."""
    bad = [row for row in rows if row.verdict != "same"]
    if bad:
        table = Table("stage", "output", "dvc.lock", "found", "verdict", "why")
        for row in bad:
            colour = "red" if row.fault else "yellow"
            table.add_row(row.stage, row.out, row.expected[:12], row.found[:12] or "(none)",
                          f"[{colour}]{WORDS[row.verdict]}[/]", escape(row.why))
        Rich(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    faults = sum(row.fault for row in rows)
    counts = f"{len(rows) - len(bad)} of {len(rows)} outputs are byte for byte what dvc.lock says"
    if bad:
        counts += f", {faults} must be and are not, {len(bad) - faults} differ as they may"
    print(counts)
    if bad or keep:
        print(f"the rebuilt commit: {place / 'clone'}")
    else:
        shutil.rmtree(place)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
