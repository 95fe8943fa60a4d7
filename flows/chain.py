"""The chain as a Prefect flow: one task run a stage of dvc.yaml, DVC the only cache.

    ./run                                                      (or, by hand)
    python -m flows.server python -m flows.chain [--profile NAME] [--until STAGE]

Prefect owns order, side-by-side runs, logs and the UI; DVC decides what is stale and keeps what was made. A run
holds a lock on its workspace for its life: a second run waits, and the next one closes a killed one as Crashed.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from httpx import HTTPError
from prefect import flow, get_run_logger, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.concurrency.sync import concurrency
from prefect.events import Event, Resource
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Completed, Crashed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import allow_failure

from flows import artifacts, graph, lineage, lock, machine
from flows.console import Console
from flows.progress import Progress
from flows.stage_run import Outcome, kill_all, run_stage
from tasks import stage as stage_process
from tasks.params import ParamsError
from tasks.report.lineage import processor

# Stages side by side. Two: a stage spends seconds on imports, files and single-threaded parts, where the other
# track's stage has the cores; more would only compete for them and for memory.
TOGETHER = 2
PROGRESS_EVERY = 10.0  # seconds between progress lines of one stage in the run's log
ALARM = "watchman: "   # a stage's line that begins so is an event for automations too
SLOTS = "catena-stages"  # Prefect's global limit on stages at work in all runs, where it is set (./run schedule)


@task(cache_policy=NO_CACHE, persist_result=False, retries=0, log_prints=False, task_run_name="{name}")
def run_one(name: str, workspace: str, fate: str, count: str, console: Console, shared: bool) -> State:
    """One stage: `fate` is "clean" (nothing to do), "run", or the name of a parent that did not end well.

    `shared`: it takes one of the SLOTS while it runs, and waits for one.
    """
    log = get_run_logger()
    if fate == "clean":
        outcome = Outcome("Cached", "code, inputs and outputs unchanged", 0.0, 0)
    elif fate != "run":
        outcome = Outcome("Skipped", f"not run: {fate} did not end well", 0.0, 0)
    else:
        due, bar = throttle(PROGRESS_EVERY), Progress(name)

        def say(text: str, passing: bool) -> None:
            (console.progress if passing else console.line)(text, name)
            if text.startswith(ALARM):
                alarm(name, text.removeprefix(ALARM))
            if not passing or due():
                log.info("%s", text)
                if passing:
                    bar.look(text)

        if shared:
            console.line(f"waits for one of the {SLOTS}", name)
        with concurrency(SLOTS, raise_on_lease_renewal_failure=False) if shared else nullcontext():
            console.line("started", name)
            outcome = run_stage(name, Path(workspace), say)
        if outcome.name == "Completed":
            bar.end(outcome.message)
            written = (Path(workspace) / "dvc.lock").read_text(encoding="utf-8")
            stage_process.write_timing(f"stage-{name}", {
                "seconds": round(outcome.seconds, 2), "peak_mib": outcome.peak_mib,
                "entry": lineage.block(written, name), "machine": f"{processor()}, {os.cpu_count()} cores"})
    log.info("%s: %s", outcome.name, outcome.message)
    console.state(name, outcome.name, count, outcome.message)
    good = outcome.name in ("Cached", "Restored", "Completed")
    return (Completed if good else Failed)(name=outcome.name, message=outcome.message)


def alarm(stage: str, line: str) -> None:
    """A stage's alarm as Prefect's event `catena.alarm`; a server that does not take it holds nothing up."""
    about = Resource({"prefect.resource.id": f"catena.stage.{stage}", "prefect.resource.name": stage})
    event = Event(event="catena.alarm", resource=about, payload={"line": line})
    try:
        with get_client(sync_client=True) as client:  # a request is answered, the event socket is not
            client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
    except HTTPError as error:
        get_run_logger().warning("the alarm became no event: %s", type(error).__name__)


@flow(name="catena", validate_parameters=False, persist_result=False, flow_run_name="{profile} {commit}",
      task_runner=ThreadPoolTaskRunner(max_workers=TOGETHER))
def chain(workspace: str, profile: str, commit: str, until: str | None = None) -> State:
    """Run every stage of `workspace` that is not up to date, or only stage `until` and those above it; one task run for
    each stage, whatever its end."""
    try:
        every = graph.read(Path(workspace))
        if until and until not in {stage.name for stage in every}:
            return Failed(message=f"--until {until}: no such stage (known: {', '.join(one.name for one in every)})")
        wanted = graph.ancestors(every, until) if until else {stage.name for stage in every}
        stages = [stage for stage in every if stage.name in wanted]
        dirty = stale(Path(workspace)) & wanted
        if dirty:
            judge(workspace)
    except (graph.GraphError, ParamsError, DvcException) as error:
        return Failed(message=" ".join(str(error).split()))
    console = Console(max(len(stage.name) for stage in stages))
    try:
        states = schedule(stages, dirty, workspace, console)
    except BaseException:
        kill_all()
        raise
    if made := [name for name, state in states.items() if state.name == "Completed"]:
        machine.record(Path(workspace), made)
    graph.order_lock(Path(workspace), every)
    if any(state.name != "Cached" for state in states.values()):  # drawing costs seconds; the last ones still hold
        artifacts.publish(Path(workspace))
    bad = {name: state for name, state in states.items() if state.is_failed()}
    if bad:
        failed = [f"{name}: {state.message}" for name, state in bad.items() if state.name == "Failed"]
        return Failed(message="\n".join(failed))
    counts = [state.name for state in states.values()]
    return Completed(message=", ".join(f"{counts.count(name)} {name}" for name in sorted(set(counts))))


def throttle(every: float) -> Callable[[], bool]:
    """A function that is true at most once in `every` seconds."""
    last = [-every]

    def due() -> bool:
        now = time.monotonic()
        if now - last[0] < every:
            return False
        last[0] = now
        return True

    return due


def judge(workspace: str) -> None:
    """Refuse faulty params now rather than hours on. Raises ParamsError with one line a fault.

    In a process of its own: it imports every stage's module.
    """
    done = subprocess.run([sys.executable, "-m", "flows.check"], cwd=workspace, capture_output=True, text=True)
    if done.returncode:
        faults = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise ParamsError("; ".join(faults) or f"checking params.yaml failed: {done.stderr.strip()[-300:]}")


def schedule(stages: list[graph.Stage], dirty: set[str], workspace: str, console: Console) -> dict[str, State]:
    """Submit each stage when its parents have ended and a place is free; its state by name, in order of the end.

    A stage marked alone waits until nothing runs, and nothing starts beside it.
    """
    waiting, running, states, shared = list(stages), {}, {}, bool(dirty) and limited()
    futures: dict[str, PrefectFuture[State]] = {}
    ended: queue.Queue[str] = queue.Queue()
    while waiting or running:
        for stage in list(waiting):
            if any(parent not in states for parent in stage.parents):
                continue
            fate = decide(stage, dirty, states)
            lone = any(other.alone for other in running.values()) or (stage.alone and running)
            if fate == "run" and (len(running) >= TOGETHER or lone):
                continue
            waiting.remove(stage)
            running[stage.name] = stage
            upstream = [allow_failure(futures[parent]) for parent in stage.parents]
            count = f"{len(states) + len(running)}/{len(stages)}"
            future = run_one.submit(stage.name, workspace, fate, count, console, shared, wait_for=upstream)
            futures[stage.name] = future
            future.add_done_callback(lambda _, name=stage.name: ended.put(name))
        name = ended.get()
        del running[name]
        futures[name].wait()
        states[name] = futures[name].state
    return states


def limited() -> bool:
    """Whether the server limits the stages at work in all its runs."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(SLOTS).active
        except ObjectNotFound:
            return False


def decide(stage: graph.Stage, dirty: set[str], states: dict[str, State]) -> str:
    """What becomes of a stage whose parents have ended: "clean", "run", or the parent for which it is skipped."""
    bad = [parent for parent in stage.parents if states[parent].is_failed()]
    if bad:
        return bad[0]
    clean = stage.name not in dirty and all(states[parent].name == "Cached" for parent in stage.parents)
    return "clean" if clean else "run"


def stale(workspace: Path) -> set[str]:
    """Names of the stages that DVC finds changed: in code, inputs, params, command or outputs."""
    for _ in range(60):
        try:
            with Repo(str(workspace), _wait_for_lock=True) as repo:
                return set(repo.status())
        except LockError:  # another DVC process holds a path: its work may be what we would do
            time.sleep(5)
    raise LockError("another DVC process has held this workspace for five minutes")


@contextmanager
def turn(workspace: Path) -> Iterator[str]:
    """Wait for the workspace and hold it: the tag of its runs, after those that were killed are closed."""
    tag = f"workspace:{workspace}"
    with lock.held(workspace / ".runtime", "run"):
        if dead := close_dead(tag):
            print(f"{dead} earlier run{'s' * (dead > 1)} killed; closed as Crashed, going on from what is kept")
        yield tag


def close_dead(tag: str) -> int:
    """Set the runs of this workspace that still say Running to Crashed, tasks first; how many there were.

    To be called under the workspace's lock, which a living run would hold.
    """
    unfinished = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    message = "its process was killed; the next run went on from what DVC had kept"
    with get_client(sync_client=True) as client:
        dead = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags={"all_": [tag]}, state=unfinished))
        for run in dead:
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}),
                                          task_run_filter=TaskRunFilter(state=unfinished))
            for one in tasks:
                client.set_task_run_state(one.id, Crashed(message=message), force=True)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return len(dead)


def commit_of(workspace: Path) -> str:
    """Short hash of the commit the workspace stands on, with + when files differ from it."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(workspace), *words], capture_output=True, text=True)
        return done.stdout.strip()
    return (git("rev-parse", "--short=8", "HEAD") or "uncommitted") + ("+" if git("status", "--porcelain") else "")


def main() -> int:
    """Run the chain in the working directory: 0 all well, 1 a stage failed, 2 nothing could be run, 130 stopped."""
    parser = argparse.ArgumentParser(prog="./run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="default", help="the name that this run bears in the UI")
    parser.add_argument("--until", metavar="STAGE", help="run only this stage and those above it")
    given = parser.parse_args()
    if not os.environ.get("PREFECT_API_URL"):
        print("error: no Prefect server: use ./run, or python -m flows.server python -m flows.chain", file=sys.stderr)
        return 2
    workspace, ui = Path.cwd(), os.environ["PREFECT_API_URL"].removesuffix("/api")
    try:
        with turn(workspace) as tag:
            print(f"watch: {ui}/runs", flush=True)
            with tags(tag):
                state = chain(str(workspace), given.profile, commit_of(workspace), given.until, return_state=True)
    except KeyboardInterrupt:
        kill_all()
        print("\nstopped; ./run goes on from here", file=sys.stderr)
        return 130
    except (graph.GraphError, DvcException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if not state.is_completed():
        for line in (state.message or f"the run ended as {state.name}").splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    print(f"{state.message}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
