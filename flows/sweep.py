"""Hyper-parameter sweeps as DVC experiments: one run a combination of values, then a table and a picture of them all.

    ./run sweep STAGE --by METRIC -S 'KEY=choice(A,B,...)' [-S 'KEY=range(START,STOP,STEP)'] [-S KEY=VALUE]
    ./run sweep STAGE --by METRIC                 table and picture of the experiments there are, run nothing

STAGE is a stage of dvc.yaml, such as pretrain@scratch; METRIC is a number in its metrics file, such as held_out_bpb;
-S is what `dvc exp run -S` takes. Every combination is one `dvc exp run --temp`: in a directory of its own, with what
lies above STAGE taken from DVC's cache, so params.yaml, dvc.lock and the models of this checkout stay as they are. A
combination that ran before, here or in another sweep of the same code and data, comes from the run cache in seconds: a
sweep that was stopped is gone on with by the same command. One that fails is shown as failed, the others are kept.

    dvc exp apply NAME          takes a combination over: params.yaml, dvc.lock, models
    dvc exp remove NAME         forgets one;  --keep HEAD -A  all of older commits (`dvc gc` then frees their models)

Code is taken from git: `git add` new files first.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.utils.hydra import get_hydra_sweeps
from dvc.utils.serialize import load_yaml

from flows import graph, workspace
from tasks.params import ParamsError

PARAMS = "params.yaml"
MOST = 200  # combinations


@dataclass(frozen=True)
class Row:
    """One experiment: what it is called, its values of the keys that differ, its metric, its curve if it has one."""

    name: str
    values: dict[str, Any]
    metric: float | None
    rev: str = ""
    curve: list[tuple[float, float]] = field(default_factory=list)
    error: str = ""


def main(argv: list[str] | None = None) -> int:
    """Run, then print the table; exit code 1 when a combination failed, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="./run sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="stage whose metric is wanted")
    parser.add_argument("--by", required=True, metavar="METRIC", help="number in the stage's metrics file, dotted")
    parser.add_argument("--highest", action="store_true", help="the highest is best (default: the lowest)")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUES", dest="sets",
                        help="as `dvc exp run -S`; may be given again")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the picture and the table")
    given = parser.parse_args(argv)
    try:
        stage, read = find(given.stage)
        failed = run(stage, combinations(given.sets, read)) if given.sets else {}
        rows = table(shown(), stage, read, given.by, given.highest, failed)
    except (ParamsError, graph.GraphError, workspace.WorkspaceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n" + text(rows, given.by))
    path = given.out / f"sweep-{stage.name}.png"
    write(rows, stage, given.by, path)
    if rows[0].metric is not None:
        print(f"\nbest: {rows[0].name}; take it over: dvc exp apply {rows[0].name}\npicture: {path}\n"
              f"table:   {path.with_suffix('.json')}")
    return 1 if failed else 0


def find(name: str) -> tuple[graph.Stage, set[str]]:
    """The stage called `name`, and the params that it or a stage above reads. Raises ParamsError with those known."""
    stages = {stage.name: stage for stage in graph.read(Path())}
    if name not in stages:
        raise ParamsError(f"no stage {name} (known: {', '.join(stages)})")
    above = graph.ancestors(list(stages.values()), name)
    return stages[name], {key for one in above for key in stages[one].params}


def within(key: str, read: set[str]) -> bool:
    """Whether a change of `key` reaches one of the params in `read`."""
    return any(f"{key}.".startswith(f"{one}.") or f"{one}.".startswith(f"{key}.") for one in read)


def combinations(sets: list[str], read: set[str]) -> list[list[str]]:
    """One list of KEY=VALUE a combination. Raises ParamsError for a key that params.yaml has not or that would change
    nothing, since it is not `read`, and for what Hydra refuses."""
    for line in sets:
        key, equals, _ = line.partition("=")
        node = load_yaml(PARAMS)
        for part in key.split("."):
            if not equals or not isinstance(node, dict) or part not in node:
                raise ParamsError(f"-S {line}: params.yaml has no key {key!r}: -S 'SECTION.KEY=choice(A,B)'")
            node = node[part]
        if not within(key, read):
            raise ParamsError(f"-S {line}: neither the stage nor one above it reads {key} (read: "
                              f"{', '.join(sorted(read))})")
    try:
        found = [one[PARAMS] for one in get_hydra_sweeps({PARAMS: sets})]
    except Exception as error:  # whatever DVC and Hydra raise for a grammar they cannot read
        raise ParamsError(f"-S: {' '.join(str(error).split())[:300]}") from None
    if len(found) > MOST:
        raise ParamsError(f"-S: {len(found)} combinations, at most {MOST}: fewer values")
    return found


def called(sets: list[str], runs: list[list[str]]) -> str:
    """The name, such as sweep-rate-0.02-1f3a09: the values that differ among the `runs`, and a hash of all of them,
    so that the same combination is the same experiment."""
    differ = [line.split("=", 1) for place, line in enumerate(sets) if len({one[place] for one in runs}) > 1]
    parts = [f"{key.rsplit('.', 1)[-1]}-{value}" for key, value in differ]
    digest = hashlib.sha256(json.dumps(sorted(sets)).encode()).hexdigest()[:6]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(["sweep", *parts, digest])).replace("..", ".")


def run(stage: graph.Stage, runs: list[list[str]]) -> dict[str, str]:
    """Run every combination for `stage`; name -> why, of those that failed."""
    failed = {}
    for number, sets in enumerate(runs, 1):
        name = called(sets, runs)
        print(f"sweep {number}/{len(runs)}: {', '.join(sets)} ({name})", flush=True)
        dvc(["exp", "remove", "-q", name])  # else DVC keeps the old one; what it ran is in the run cache
        command = ["exp", "run", "--temp", "-n", name, *(word for one in sets for word in ("-S", one)), stage.name]
        process = subprocess.Popen([sys.executable, "-m", "dvc", *command], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace")
        said = ""
        for line in process.stdout:
            if line.strip() and not line.startswith(("To apply", "\tdvc exp apply")):
                print(f"  {line.rstrip()}", flush=True)
            if re.match(r"error:|ERROR:", line):
                said = said if said.startswith("error:") else line.strip()  # the stage's own line before DVC's
        if process.wait():
            failed[name] = said or f"dvc exp run ended with exit code {process.returncode}"
    return failed


def dvc(words: list[str]) -> str:
    """stdout of a DVC command; whether it failed is the caller's to see from it."""
    return subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True).stdout


def shown() -> list[dict[str, Any]]:
    """`dvc exp show --json` of this commit. Raises WorkspaceError where DVC prints none."""
    said = dvc(["exp", "show", "--json"])
    try:
        return json.loads(said)
    except json.JSONDecodeError:
        raise workspace.WorkspaceError("`dvc exp show --json` gave no JSON: run it by hand to see why") from None


def table(experiments: list[dict[str, Any]], stage: graph.Stage, read: set[str], by: str, highest: bool,
          failed: dict[str, str]) -> list[Row]:
    """The experiments that hold `by`, best first, then the failed ones; values of the `read` keys that differ.

    Raises ParamsError when the stage's metrics of none hold it, with the numbers they do hold.
    """
    found, numbers = [], set()
    for baseline in experiments:
        for group in baseline.get("experiments") or []:
            one = group["revs"][0]
            data = one.get("data") or {}
            metrics = {key: value for path, file in (data.get("metrics") or {}).items() if path in stage.outs
                       for key, value in flat(file.get("data") or {}).items()}
            numbers |= {key for key, value in metrics.items() if type(value) in (int, float)}
            values = flat(((data.get("params") or {}).get(PARAMS) or {}).get("data") or {})
            if type(metrics.get(by)) in (int, float):
                found.append((one["name"], values, metrics[by], one["rev"]))
    if not found and not failed:
        raise ParamsError(f"no experiment of {stage.name} holds {by!r} (numbers there: {', '.join(sorted(numbers))})"
                          if numbers else f"no experiment of this commit has run {stage.name}: give -S KEY=choice(A,B)")
    kinds: dict[str, set[str]] = {}
    for _, values, _, _ in found:
        for key, value in values.items():
            kinds.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    differ = [key for key, several in kinds.items() if len(several) > 1 and within(key, read)]
    rows = [Row(name, {key: values.get(key) for key in differ}, metric, rev) for name, values, metric, rev in found]
    rows.sort(key=lambda row: (not math.isfinite(row.metric), -row.metric if highest else row.metric, row.name))
    return rows + [Row(name, {}, None, error=why) for name, why in sorted(failed.items())]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a tree of mappings; lists are values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        found |= flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return found


def text(rows: list[Row], by: str) -> str:
    """The table: a line an experiment."""
    keys = list(rows[0].values)
    lines = [[by, *(key.rsplit(".", 1)[-1] for key in keys), "experiment"]]
    lines += [["failed" if row.metric is None else f"{row.metric:.6g}", *(str(row.values.get(key, "")) for key in keys),
               f"{row.name}{': ' if row.error else ''}{row.error}"] for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]) - 1)]
    return "\n".join("  ".join([*(cell.rjust(width) for cell, width in zip(line, widths)), line[-1]]) for line in lines)


def curves(stage: graph.Stage, rows: list[Row]) -> tuple[list[Row], str, str]:
    """`rows` with their curves, and the names of the axes: the stage's first plot with x and y, by commit."""
    spec = load_yaml("dvc.yaml")["stages"][stage.name.partition("@")[0]]
    plots = [(path, about) for plot in spec.get("do", spec).get("plots", []) if isinstance(plot, dict)
             for path, about in plot.items() if {"x", "y"} <= set(about)]
    if not plots:
        return rows, "", ""
    about = plots[0][1]
    made = []
    for row in rows:
        points: list[tuple[float, float]] = []
        for path in (out for out in stage.outs if row.rev and out.endswith(".csv")):
            done = subprocess.run(["git", "show", f"{row.rev}:{path}"], capture_output=True, text=True)
            points = [(float(line[about["x"]]), float(line[about["y"]]))
                      for line in csv.DictReader(io.StringIO(done.stdout))]
        made.append(Row(row.name, row.values, row.metric, row.rev, points, row.error))
    return made, about["x"], about["y"]


def write(rows: list[Row], stage: graph.Stage, by: str, path: Path) -> None:
    """The picture at `path` and the table beside it as JSON."""
    from flows.sweep_figure import draw  # matplotlib takes a second to load

    rows, x, y = curves(stage, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if any(row.metric is not None for row in rows):
        draw(rows, by, x, y, path)
    document = {"stage": stage.name, "by": by, "experiments": [
        {"name": row.name, "values": row.values, "metric": row.metric, "error": row.error} for row in rows]}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
