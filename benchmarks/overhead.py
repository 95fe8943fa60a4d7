"""Claim: Prefect around DVC costs under 5 s on a run with nothing to do, and under 2 CPU seconds a stage that runs.

    python -m benchmarks.overhead [--stages 20] [--rounds 3] [--workspace DIRECTORY]

Plain `dvc repro` and the flow take turns over a pipeline made for it: two chains of stages that write one line each, so
that what is measured is neither's work. --workspace adds a run with nothing to do of a checkout that is up to date.
CPU is that of the command and everything it started; the Prefect server's is counted apart, since one server serves
every run. Wall clock counts only on an idle machine. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from flows import server
from flows.environment import stage_environment

ROOT = Path(__file__).resolve().parents[1]
MOST_NOTHING, MOST_STAGE = 5.0, 2.0  # seconds of wall clock over repro; CPU seconds a stage over repro
WAYS = {"dvc repro": ["-m", "dvc", "--wait-for-lock", "repro"], "flow": ["-m", "flows.chain", "--profile", "overhead"]}


def pipeline(root: Path, stages: int) -> None:
    """A git and DVC repository of `stages` stages in two chains, each of which copies a line and adds a number."""
    text = ["stages:"]
    for index in range(stages):
        before = f"out/{index - 2}.txt" if index > 1 else "start.txt"
        text += [f"  s{index}:", f"    cmd: (cat {before}; echo ${{number}}) > out/{index}.txt",
                 f"    deps: [{before}]", "    params: [number]", f"    outs: [out/{index}.txt]"]
    (root / "dvc.yaml").write_text("\n".join(text) + "\n")
    (root / "out").mkdir()
    (root / "start.txt").write_text("start\n")
    (root / ".gitignore").write_text("/out/\n/.runtime/\n")
    number(root, 0)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"],
                    ["git", "-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", "pipeline"]):
        subprocess.run(command, cwd=root, check=True, env=stage_environment(root))


def number(root: Path, value: int) -> None:
    """Set the param that every stage depends on."""
    (root / "params.yaml").write_text(f"number: {value}\n")


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and its children so far."""
    return sum(sum(one.cpu_times()[:4]) for one in [process, *process.children(recursive=True)])


def measure(way: str, root: Path, env: dict[str, str], served: psutil.Process) -> dict[str, float]:
    """Seconds of one run: `wall`, `cpu` of the command and what it started, `server` CPU meanwhile."""
    before, was, begun = resource.getrusage(resource.RUSAGE_CHILDREN), cpu(served), time.perf_counter()
    path = str(root if (root / "flows").is_dir() else ROOT)
    done = subprocess.run([sys.executable, *WAYS[way]], cwd=root, capture_output=True, text=True,
                          env=stage_environment(root) | env | {"PYTHONPATH": path})
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"error: {way} failed in {root}: {(done.stderr or done.stdout).strip()[-500:]}")
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "server": cpu(served) - was}


def turns(rounds: int, root: Path, env: dict[str, str], served: psutil.Process,
          prepare: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Medians by way over rounds in which both ways take turns at going first, `prepare` before each run."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for index in range(rounds):
        for way in list(WAYS)[:: 1 if index % 2 else -1]:
            prepare()
            found[way].append(measure(way, root, env, served))
    return {way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()}


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="a checkout whose every stage is up to date")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, home = Path(folder, "pipeline"), Path(folder, "prefect")
        root.mkdir()
        pipeline(root, given.stages)
        try:
            env = server.environment(home, server.ensure(home))
            served = psutil.Process(json.loads((home / "server.json").read_text())["pid"])
            values = iter(range(1, 1000))
            measure("flow", root, env, served)  # the first run of a server builds what later ones find
            made = {"all stages": turns(given.rounds, root, env, served, lambda: number(root, next(values))),
                    "nothing to do": turns(given.rounds, root, env, served, lambda: None)}
            if given.workspace:
                made["nothing to do, the workspace"] = turns(given.rounds, given.workspace.resolve(), env, served,
                                                             lambda: None)
        finally:
            server.stop(home)
    print(f"{'':30}{'way':12}{'CPU s':>8}{'wall s':>8}{'server CPU s':>14}")
    for name, ways in made.items():
        for way, row in ways.items():
            print(f"{name:30}{way:12}{row['cpu']:8.2f}{row['wall']:8.2f}{row['server']:14.2f}")
    over = {name: {key: ways["flow"][key] - ways["dvc repro"][key] for key in ("cpu", "wall")} | {
        "server": ways["flow"]["server"]} for name, ways in made.items()}
    all_of, none = ((over[name]["cpu"] + over[name]["server"]) for name in ("all stages", "nothing to do"))
    stage = (all_of - none) / given.stages  # what a run costs as such is in the line of the run with nothing to do
    nothing = {name: row for name, row in over.items() if name != "all stages"}
    for name, row in nothing.items():
        print(f"{name}: the flow costs {row['cpu']:.2f} CPU s and {row['wall']:.2f} s of wall clock more, the server "
              f"{row['server']:.2f} CPU s (at most {MOST_NOTHING:g} s)")
    print(f"a stage that runs: {stage:.2f} CPU s more, the server's with it (at most {MOST_STAGE:g})")
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], "stages": given.stages,
                      "rounds": given.rounds, "runs": made, "over": over, "stage_cpu_seconds": stage}))


if __name__ == "__main__":
    main()
