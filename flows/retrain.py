"""Retrain once: refresh, run the chain, compare with the current release on the same items, promote or keep.

    ./run [--profile NAME] retrain [--reason TEXT] [--no-refresh]

Works in a git worktree of its own, `.retrain/PROFILE`, at the checkout's commit (what is not committed takes no part),
and shares DVC's cache; a stage that is not up to date runs there, the checkout is never touched. A second one started
meanwhile waits. A killed one is closed as Crashed by the next, which goes on from what DVC has kept. The text is judged
before anything is trained, so a bad refresh costs seconds. The end is one of:

  Promoted    every gate passed and one shows a gain: a release (flows/release.py)
  Kept        a gate stopped it: which one, by how much
  Unchanged   sources, code and params make the models that the current release holds
  Failed      a source could not be had, a stage failed, or the promotion could not be finished
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed, State

from flows import comparison, gate, graph, lock, plots, release, workspace
from flows.chain import chain, close_dead
from flows.models import ModelsError, at, tell
from flows.refresh import RefreshError, refresh, seeds
from flows.release import Release, ReleaseError
from flows.rescore import RescoreError
from flows.stage_run import kill_all, run_stage
from tasks import params

LAST_OF_DATA = "mixture"     # the text is judged once this stage has run, before anything is trained on it
RELEASED = ["params.yaml", "dvc.lock", "metrics"]
FAULTS = (RefreshError, ReleaseError, RescoreError, ModelsError, params.ParamsError, workspace.WorkspaceError,
          graph.GraphError, DvcException, OSError)


class Stopped(RuntimeError):
    """A stage of the challenger's chain failed, named by the message. `changed`: the sources that were not as before."""

    def __init__(self, message: str, changed: list[str]) -> None:
        super().__init__(message)
        self.changed = changed


@dataclass(frozen=True)
class Outcome:
    """How a retraining ended. `gates` are all that were judged, `changed` the sources that were not as before."""

    decision: str
    reason: str
    changed: list[str]
    gates: list[gate.Gate]
    release: str | None


@flow(name="retrain", flow_run_name="{profile}: {reason}", persist_result=False)
def retrain(profile: str = "default", reason: str = "by hand", refresh: bool = True) -> State:
    """Refresh the sources, run the chain, gate, and promote or keep, for the checkout in the working directory.

    profile: whose values (profiles/NAME.yaml). reason: what asked for it; goes into the release. refresh: read the
    sources anew; off, only code and params can have changed.
    """
    root, begin = Path.cwd(), time.monotonic()
    with lock.held(root / ".retrain", "retraining"):
        close_killed(root)
        note = root / ".retrain" / "running"
        note.write_text(str(flow_run.id), encoding="utf-8")
        try:
            outcome = attempt(root, profile, reason, refresh)
        except FAULTS as error:
            outcome = Outcome("Failed", " ".join(str(error).split()), [], [], None)
        except Stopped as error:
            outcome = Outcome("Failed", str(error), error.changed, [], None)
        except BaseException:
            kill_all()
            raise
        record(root, profile, reason, outcome, time.monotonic() - begin)
        note.unlink()
    make = Failed if outcome.decision == "Failed" else Completed
    return make(name=outcome.decision, message=outcome.reason)


def attempt(root: Path, profile: str, reason: str, fresh: bool) -> Outcome:
    """One retraining, from the worktree to the decision. Raises what FAULTS lists, and Stopped."""
    champion = release.repair(root, profile)
    base = workspace.git(root, "rev-parse", "HEAD").strip()
    place = prepare(root, profile, base)
    before = at(root, champion.commit, "params.yaml") if champion else {}
    values = params.load(place / "params.yaml")
    limits = params.section(gate.RetrainParams, "retrain", values)
    crawled: list[str] = []
    if fresh:
        changed = refresh(values["sources"], before.get("sources") or {}, root, place, str(datetime.date.today()))
        crawled = seeds(values["sources"])
    else:
        values["sources"], changed = before.get("sources") or values["sources"], []
    write_params(place, values)
    again = f"; crawled anew: {', '.join(crawled)}" if crawled else ""
    say(f"sources: {', '.join(changed) or 'as they were'}{again}")
    if champion and values == before and not crawled and same_code(root, base, champion):
        return Outcome("Unchanged", f"sources, code and params are those of {champion.tag}", changed, [], None)
    names = {stage.name for stage in graph.read(place)}
    if crawled and "crawl" in names:
        run_chain(place, profile, base, changed, until="sources")
        crawl_anew(place, changed)
    gates: list[gate.Gate] = []
    if LAST_OF_DATA in names:
        run_chain(place, profile, base, changed, until=LAST_OF_DATA)
        if champion:
            gates = gate.data_gates(comparison.metrics_of(root, champion.commit, limits),
                                    comparison.metrics_at(place, limits), limits)
            if not all(one.passed for one in gates):
                return Outcome("Kept", gate.decide(gates).reason, changed, gates, None)
    run_chain(place, profile, base, changed)
    if champion is None:
        decision = gate.Decision(True, "the first release: nothing to compare it with")
    elif comparison.same_models(root, champion.commit, place):
        return Outcome("Unchanged", f"the models are those of {champion.tag}", changed, gates, None)
    else:
        say(f"comparing with {champion.tag} on the same items")
        gates += comparison.model_gates(root, champion.commit, place, limits)
        decision = gate.decide(gates)
    if not decision.promote:
        return Outcome("Kept", decision.reason, changed, gates, None)
    trailers = [("Kind", "promotion"), ("Champion", champion.tag if champion else ""), ("Base", base),
                ("Challenger", comparison.identity(place)), ("Reason", reason), ("Changed", ", ".join(changed)),
                *(("Gate", f"{one.name}: {one.found}; allowed: {one.allowed}") for one in gates)]
    made = release.promote(root, place, base, decision.reason, trailers, champion, RELEASED, profile)
    for line in tell(root, release.folder(root, profile)):
        say(line)
    return Outcome("Promoted", f"{made.tag}: {decision.reason}", changed, gates, made.tag)


def prepare(root: Path, profile: str, base: str) -> Path:
    """The worktree `.retrain/PROFILE` with the files of commit `base` and the profile's values; its outputs stay.

    Raises ParamsError, WorkspaceError, GraphError.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", profile):
        raise params.ParamsError(f"profile name {profile!r}: letters, digits, - and _ only, a letter first")
    place = root / ".retrain" / profile
    if not (place / ".git").exists() or not (place / ".runtime" / "laid-out").exists():
        shutil.rmtree(place, ignore_errors=True)
        workspace.git(root, "worktree", "prune")
        workspace.git(root, "worktree", "add", "--detach", "--no-checkout", str(place), base)
        workspace.git(place, "reset", "--hard", "--quiet", base)
        own = [] if profile == "default" else ["dvc.lock", "metrics"]
    else:
        outputs = sorted({out for stage in graph.read(place) for out in stage.outs})
        lockfile = place / workspace.git(place, "rev-parse", "--git-path", "index.lock").strip()
        lockfile.unlink(missing_ok=True)   # of a git that was killed here
        workspace.git(place, "reset", "--mixed", "--quiet", base)
        apart = [f":(exclude){path}" for path in ("params.yaml", "dvc.lock", "metrics", *outputs)]
        workspace.git(place, "checkout", "--quiet", "--", ".", *apart)
        strays = workspace.git(place, "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *apart)
        for path in filter(None, strays.split("\0")):
            (place / path).unlink(missing_ok=True)
        own = None
    values = yaml.safe_load(workspace.git(root, "show", f"{base}:params.yaml"))
    if profile != "default":
        values = workspace.overlay(values, workspace.read_profile(place / "profiles" / f"{profile}.yaml"),
                                   f"profiles/{profile}.yaml")
    write_params(place, values)
    with Repo(str(root)) as repo:
        cache = os.path.relpath(repo.cache.local_cache_dir, place / ".dvc")
    workspace.write_changed(place / ".dvc" / "config.local", f"[cache]\n    dir = {cache}\n")
    if not (place / plots.PAGE).exists():
        plots.write(place)
    if own is not None:
        lay_first(root, profile, place, own)
    return place


def lay_first(root: Path, profile: str, place: Path, own: list[str]) -> None:
    """Start a new worktree from the outputs that this checkout has made already: what is up to date does not run."""
    for name in own:   # the commit's are those of the default profile
        target, known = place / name, root / ".profiles" / profile / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        if known.is_dir():
            shutil.copytree(known, target)
        elif known.exists():
            shutil.copyfile(known, target)
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "--quiet", "--allow-missing", "--force"], cwd=place,
                   capture_output=True)
    (place / ".runtime").mkdir(exist_ok=True)
    (place / ".runtime" / "laid-out").touch()


def write_params(place: Path, values: dict[str, Any]) -> None:
    """Write params.yaml unless it holds these values already: its comments stay where nothing was refreshed."""
    path = place / "params.yaml"
    if not path.exists() or params.load(path) != values:
        path.write_text("# made by retraining: the profile's values and the refreshed pins of the sources\n"
                        + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def same_code(root: Path, base: str, champion: Release) -> bool:
    """Whether commit `base` has the code that the champion was made by."""
    made_by = champion.told("Base")
    apart = [f":(exclude){path}" for path in (*RELEASED, "docs")]
    return made_by == base or bool(made_by) and not workspace.git(
        root, "diff", "--name-only", made_by, base, "--", ".", *apart).strip()


def run_chain(place: Path, profile: str, base: str, changed: list[str], until: str | None = None) -> None:
    """The chain, or its part above stage `until`, as a flow within this one. Raises Stopped where a stage fails."""
    tag = f"workspace:{place}"
    with lock.held(place / ".runtime", "run"), tags(tag), contextlib.chdir(place):   # DVC's status asks where it is
        close_dead(tag)
        state = chain(str(place), profile, base[:8], until, return_state=True)
    if not state.is_completed():
        raise Stopped("; ".join((state.message or f"the chain ended as {state.name}").splitlines()), changed)


def crawl_anew(place: Path, changed: list[str]) -> None:
    """Run the crawl though no param changed: only that tells whether a public site has. Raises Stopped."""
    outcome = run_stage("crawl", place, lambda text, passing: None if passing else say(f"crawl: {text}"), force=True)
    if outcome.name == "Failed":
        raise Stopped(f"crawl: {outcome.message}", changed)


def close_killed(root: Path) -> None:
    """Set the retraining that a kill ended, if one did, to Crashed. To be called under the lock."""
    note = root / ".retrain" / "running"
    if note.exists():
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(note.read_text(encoding="utf-8"), force=True, state=Crashed(
                    message="its process was killed; the next one went on from what DVC had kept"))
        except (ObjectNotFound, ValueError):
            pass   # of another server
        note.unlink()


def record(root: Path, profile: str, reason: str, outcome: Outcome, seconds: float) -> None:
    """Show the outcome as an artifact and append it to `.retrain/history.jsonl`."""
    page = f"# {outcome.decision}\n\n{outcome.reason}\n\n"
    page += f"Sources: {', '.join(outcome.changed) or 'as they were'}. Asked for {reason}.\n\n"
    page += gate.table(outcome.gates) if outcome.gates else "No gate was judged."
    create_markdown_artifact(markdown=page, key="retrain-gates", description=f"{profile}: {outcome.decision}")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "profile": profile, "asked": reason, "seconds": round(seconds, 1), **asdict(outcome)}
    with (root / ".retrain" / "history.jsonl").open("a", encoding="utf-8") as sink:
        sink.write(json.dumps(line, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A line for who watches the terminal; the flow's log has the stages'."""
    print(text, flush=True)


def main() -> int:
    """The command line. Exit codes: 0 promoted, kept or unchanged, 1 failed, 2 no server, 130 stopped."""
    parser = argparse.ArgumentParser(prog="./run retrain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="default", help="whose values; its releases are release/PROFILE/N")
    parser.add_argument("--reason", default="by hand", help="what asked for it; goes into the release")
    parser.add_argument("--no-refresh", action="store_true", help="leave the sources as the current release read them")
    given = parser.parse_args()
    if not os.environ.get("PREFECT_API_URL"):
        print("error: no Prefect server: use ./run retrain", file=sys.stderr)
        return 2
    print(f"watch: {os.environ['PREFECT_API_URL'].removesuffix('/api')}/runs", flush=True)
    try:
        state = retrain(given.profile, given.reason, not given.no_refresh, return_state=True)
    except KeyboardInterrupt:
        kill_all()
        print("\nstopped; nothing was promoted, the next retraining goes on from here", file=sys.stderr)
        return 130
    if state.is_failed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(f"{state.name}: {state.message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
