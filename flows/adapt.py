"""From a model to an application: choose, tune, try, quantize and serve a model for a task set of your own.

    ./run adapt examples/shop.yaml            every decision with its numbers: .adapt/NAME/decisions.json, and here
    ./run adapt examples/shop.yaml --serve    the same, then serve the result by the OpenAI API until Ctrl-C

The way: is a trial question in the training data? -> each candidate scored on the choosing half -> is the gap to the
target large? -> do tools help, measured? do they suffice? -> what fits memory and time: full, LoRA or QLoRA -> tune ->
trial on the held-out half, paired with the untuned model; failed, the next method -> int4 -> tried again -> served ->
smoke test.
Killed, it goes on where it stood; what has not changed is not done again. flows/taskset.py says what a task set holds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import decisions, taskset, trial
from flows.decisions import Decisions
from flows.taskset import TaskSetError
from flows.way import (NotReached, Way, candidate, choose, code_digest, compress, deploy, enough, file_digest, gap,
                       questions, tuned, with_tools)
from tasks import params
from tasks.stage import StageError


def run(file: Path, listen: Callable[[dict[str, Any], bool], None] | None = None, root: Path = Path(".adapt")) -> Path:
    """Go the way of the task set in `file`; the directory to serve. Raises TaskSetError, NotReached, StageError."""
    given = taskset.read(file)
    places = {name: candidate(name) for name in given.candidates}
    conversations = taskset.training(file, given)
    folder = root / given.name
    folder.mkdir(parents=True, exist_ok=True)
    record = Decisions(folder, listen)
    source = folder / "training.jsonl"
    source.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations), encoding="utf-8")
    way = Way(given, folder, record, source, code_digest(), {})
    record.node("contamination", {"training": file_digest(source), "trial": questions(given, True)}, lambda: {
        "choice": "clean", "reason": f"no question of the {len(given.part(True))} trial items is among the "
        f"{len(conversations)} conversations to learn, exactly or by {taskset.NEAR:.0%} of its words",
        "numbers": {"conversations": len(conversations), "trial": len(given.part(True)),
                    "choosing": len(given.part(False))}})
    chosen = choose(way, places)
    base = places[chosen["choice"]]
    if gap(way, chosen)["choice"] == "none":
        model, tools = base, chosen["numbers"]["tools"]
    else:
        measured = with_tools(way, base)
        tools = measured["choice"] == "with"
        model = base if enough(way, base, measured) else tuned(way, base, tools)
    served = compress(way, model, tools)
    return deploy(way, served, tools)


def printed(entry: dict[str, Any], kept: bool) -> None:
    """A decision as it is made."""
    print(f"{entry['node']:>13}  {entry['choice']}{' (kept)' if kept else ''}: {entry['reason']}", flush=True)
    for name, value in entry["numbers"].items():
        print(f"{'':>15}{name}: {decisions.shown(value)}", flush=True)


def shown_in_prefect(file: Path) -> Path:
    """The way as a Prefect flow: a task run for each node, the decisions so far as one markdown artifact."""
    from prefect import flow, task
    from prefect.artifacts import create_markdown_artifact
    from prefect.cache_policies import NO_CACHE

    name = taskset.read(file).name
    entries: list[dict[str, Any]] = []

    @task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{node}")
    def decided(node: str, choice: str) -> str:
        return choice

    def listen(entry: dict[str, Any], kept: bool) -> None:
        printed(entry, kept)
        entries.append(entry)
        decided(entry["node"], entry["choice"])
        create_markdown_artifact(markdown=decisions.markdown(entries), key=f"adapt-{name.lower().replace('_', '-')}",
                                 description=f"decisions of {file}")

    @flow(name="adapt", validate_parameters=False, persist_result=False, flow_run_name=name)
    def adapt() -> str:
        return str(run(file, listen))

    return Path(adapt())


def main() -> int:
    """The command line. Exit codes: 0 deployed, 1 the target was not reached, 2 a task set that cannot be used."""
    parser = argparse.ArgumentParser(prog="./run adapt", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the task set, YAML")
    parser.add_argument("--serve", action="store_true", help="serve the result when it is deployed")
    given = parser.parse_args()
    try:
        params.runtime()
        link = shown_in_prefect(given.file) if os.environ.get("PREFECT_API_URL") else run(given.file, printed)
    except (TaskSetError, params.ParamsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (NotReached, trial.TrialError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"\n{link}: serve it with ./run adapt {given.file} --serve")
    if given.serve:
        os.execv(sys.executable, [sys.executable, "-m", "tasks.serve.api", f"{link.parent.name}={link}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
