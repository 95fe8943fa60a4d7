"""What a profile would take at scale: time, money, storage, interruptions, and what is in its way.

    ./run simulate [PROFILE] [--set NAME=VALUE ...]        python -m flows.simulate profiles/cluster.yaml

PROFILE is a name or a file of profiles/ (default: cluster). Measured figures: benchmarks/units.json; assumptions, each
with its source: flows/scale/assumptions.yaml, and `--set` changes one. Prints tables and writes
report/simulate-PROFILE.png and .json. docs/SCALE.md explains them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import graph, workspace
from flows.scale import assumptions, figure, simulation, units, work
from flows.scale.work import DAY, HOUR, Plan
from tasks import params
from tasks.params import ParamsError
from tasks.progress import track

RUNS = 100
FEW = 10  # runs of each of the many variants
DOUBLED = ("gpus", "data_cores", "crawl_workers", "corpus_machines", "hash_threads", "storage_bytes_per_second")
AS_IT_STANDS = {"crawl_workers": 1.0, "corpus_machines": 1.0}


def main(argv: list[str] | None = None) -> int:
    """Simulate, print, write the figure and the JSON; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="./run simulate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="cluster", help="name or file of a profile")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
                        help="another value of an assumption, or data_cores=N")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others' follow")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the figure and the JSON")
    given = parser.parse_args(argv)
    try:
        name = Path(given.profile).stem
        path = Path("profiles") / f"{name}.yaml" if given.profile == name else Path(given.profile)
        found = simulated(path, given.changes, given.seed)
    except (ParamsError, graph.GraphError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    picture = given.out / f"simulate-{name}.png"
    figure.draw(found, picture)
    picture.with_suffix(".json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(text(found))
    print(f"\nfigure: {picture}\njson:   {picture.with_suffix('.json')}")
    return 0


def simulated(path: Path, changes: list[str], seed: int) -> dict[str, Any]:
    """Everything that the tables and the figure show, as plain values. Raises ParamsError for bad input."""
    root = Path.cwd()
    values = workspace.overlay(params.load(root / "params.yaml"), workspace.read_profile(path), str(path))
    found, known = units.load(), assumptions.load()
    cores = [change for change in changes if change.startswith("data_cores=")]
    assumed = assumptions.values(known, [change for change in changes if change not in cores])
    assumed["data_cores"] = float(params.section(params.Runtime, "runtime", values).workers)
    for change in cores:
        assumed["data_cores"] = assumptions.number(f"--set {change}", change.partition("=")[2])
    work.check(values, assumed)
    chain = work.stages(root, values)

    def planned(**other: float) -> Plan:
        return work.plan(chain, values, found, assumed | other)

    base = planned()
    runs = [simulation.run(base.works, base.pools, seed + n) for n in track(range(RUNS), what="simulate", unit="run")]
    out = {"profile": path.stem, "units": {"machine": found["machine"]}, "assumed": assumed,
           "plan": about(base), "stages": spans(base, runs), "totals": totals(base, runs, assumed),
           "training": training(base, runs), "own_runs": units.judged(found),
           "default_run": default_run(graph.read(root), found)}

    def brief(plan: Plan, values: Mapping[str, float]) -> dict[str, float]:
        rows = totals(plan, [simulation.run(plan.works, plan.pools, seed + n) for n in range(FEW)], values)
        return {"days": rows["days"]["median"], "dollars": rows["dollars"]["all"]}

    usual = brief(base, assumed)
    out["doubled"] = {name: brief(planned(**{name: 2 * assumed[name]}), assumed | {name: 2 * assumed[name]})
                      for name in DOUBLED}
    out["as_it_stands"] = brief(planned(**AS_IT_STANDS), assumed | AS_IT_STANDS)
    ranges = {name: (one.low, one.high) for name, one in known.items() if one.low < one.high}
    ranges["data_cores"] = (assumed["data_cores"] / 2, assumed["data_cores"] * 2)
    out["sensitivity"] = {}
    for name, ends in track(ranges.items(), what="vary each assumption", unit="name"):
        out["sensitivity"][name] = [brief(planned(**{name: end}), assumed | {name: end}) for end in ends]
    return out | {"usual": usual}


def about(plan: Plan) -> dict[str, float]:
    """Sizes of the plan."""
    pretrain = plan.pretrain
    return {"parameters": plan.shape.parameters, "tokens": pretrain.steps() * pretrain.batch * pretrain.sequence,
            "flops_per_token": plan.shape.flops(pretrain.sequence), "steps": pretrain.steps(), "pages": plan.pages,
            "tokens_per_gpu_second": plan.tokens_per_second / plan.pools["gpus"],
            "memory": {name: round(size) for name, size in plan.memory.items()}}


def spread(values: list[float]) -> dict[str, float]:
    """Median, and what 5 and 95 % of the runs stay below."""
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] for share in (0.05, 0.95)]
    return {"median": statistics.median(ordered), "low": at[0], "high": at[1]}


def spans(plan: Plan, runs: list[simulation.Run]) -> list[dict[str, Any]]:
    """One row a stage: its machines, when it ran in the first run, its hours over all."""
    return [{"stage": one.name, "pool": one.pool, "width": one.width, "bytes": one.out,
             "begin": runs[0].spans[one.name][0], "end": runs[0].spans[one.name][1],
             "hours": statistics.median(run.spans[one.name][1] - run.spans[one.name][0] for run in runs) / HOUR}
            for one in plan.works]


def totals(plan: Plan, runs: list[simulation.Run], assumed: Mapping[str, float]) -> dict[str, Any]:
    """Days, dollars by kind, bytes kept, interruptions. GPUs are paid while a stage holds them, spares with them."""
    dollars: dict[str, list[float]] = {"gpus": [], "cores": [], "storage": []}
    for run in runs:
        hours = {kind: 0.0 for kind in ("gpus", "cores")}
        for one in plan.works:
            took = (run.spans[one.name][1] - run.spans[one.name][0]) / HOUR
            spares = one.gang.spares * assumed["gpus_per_node"] if one.gang else 0
            hours["gpus" if one.pool == "gpus" else "cores"] += took * (one.width + spares)
        dollars["gpus"].append(hours["gpus"] * assumed["gpu_hour"])
        dollars["cores"].append(hours["cores"] * assumed["core_hour"])
        kept = zip(run.stored, [*run.stored[1:], (run.seconds, 0.0)], strict=True)
        held = sum(size * (until - since) for (since, size), (until, _) in kept)
        dollars["storage"].append(held / 1e12 / (30 * DAY) * assumed["terabyte_month"])
    middle = {kind: statistics.median(found) for kind, found in dollars.items()}
    days = [run.seconds / DAY for run in runs]
    held = statistics.median(days) * 24 * assumed["gpus"] * assumed["gpu_hour"]
    return {"days": spread(days), "dollars": middle | {"all": sum(middle.values())},
            "dollars_if_gpus_are_held_from_the_start": held,
            "bytes": runs[0].stored[-1][1],
            "dollars_a_month_of_keeping": runs[0].stored[-1][1] / 1e12 * assumed["terabyte_month"],
            "interruptions_of_workers": spread([float(sum(run.interruptions.get(one.name, 0) for one in plan.works
                                                          if not one.gang)) for run in runs])}


def training(plan: Plan, runs: list[simulation.Run]) -> dict[str, Any]:
    """Pretraining alone, beside Daly's expectation and interval."""
    [one] = [one for one in plan.works if one.gang]
    took = [run.spans[one.name][1] - run.spans[one.name][0] for run in runs]
    return {"hours_of_work": one.seconds / HOUR, "hours": spread([seconds / HOUR for seconds in took]),
            "interruptions": spread([float(run.interruptions[one.name]) for run in runs]),
            "hours_lost": spread([run.lost[one.name] / HOUR for run in runs]),
            "hours_waited": spread([run.waited[one.name] / HOUR for run in runs]),
            "hours_of_checkpoints": spread([run.written[one.name] / HOUR for run in runs]),
            "mean_hours": statistics.fmean(took) / HOUR,
            "error_of_mean": statistics.stdev(took) / HOUR / math.sqrt(len(took)),
            "daly_hours": simulation.daly(one.seconds, one.gang) / HOUR,
            "checkpoint_seconds": one.gang.write, "interval_seconds": one.gang.interval,
            "best_interval_seconds": simulation.best_interval(one.gang.write, one.gang.between),
            "hours_between_interruptions": one.gang.between / HOUR if math.isfinite(one.gang.between) else None}


def default_run(chain: list[graph.Stage], found: Mapping[str, Any]) -> dict[str, float]:
    """The default chain's own stages, each as long as it was measured, two at once as flows/chain.py has them; one
    that is newer than the measurement is left out."""
    took = found["last_run"]
    works = [simulation.Work(stage.name, took[stage.name], tuple(name for name in stage.parents if name in took),
                             "places", 1, alone=stage.alone) for stage in chain if stage.name in took]
    return {"stages": len(works), "seconds": simulation.run(works, {"places": 2}, 0).seconds}


def text(found: Mapping[str, Any]) -> str:
    """The tables."""
    plan, all_, gang = found["plan"], found["totals"], found["training"]
    days, dollars = all_["days"], all_["dollars"]
    lines = [f"{found['profile']}: {plan['parameters'] / 1e9:.2f}e9 weights, {plan['tokens']:.3g} tokens of "
             f"{plan['pages']:.3g} pages, {plan['flops_per_token'] / 1e9:.1f} GFLOP a token", "",
             f"{'stage':26}{'on':>16}{'hours':>10}{'TB':>10}"]
    for row in found["stages"]:
        machines = f"{row['width']} {row['pool']}"
        lines.append(f"{row['stage']:26}{machines:>16}{row['hours']:10.2f}{row['bytes'] / 1e12:10.2f}")
    lines += ["", f"time      {days['median']:.1f} days ({days['low']:.1f} to {days['high']:.1f} in 90 % of {RUNS} "
                  "runs)",
              f"money     ${dollars['all']:,.0f}: GPUs {dollars['gpus']:,.0f}, cores {dollars['cores']:,.0f}, storage "
              f"{dollars['storage']:,.0f}; GPUs held from the first day: "
              f"{all_['dollars_if_gpus_are_held_from_the_start']:,.0f}",
              f"storage   {all_['bytes'] / 1e12:,.0f} TB at the end, ${all_['dollars_a_month_of_keeping']:,.0f} a "
              "month",
              f"breaks    {gang['interruptions']['median']:.0f} of training ({gang['interruptions']['low']:.0f} to "
              f"{gang['interruptions']['high']:.0f}), {all_['interruptions_of_workers']['median']:.0f} of data "
              f"workers; lost {gang['hours_lost']['median']:.2f} h, waited {gang['hours_waited']['median']:.2f} h, checkpoints "
              f"{gang['hours_of_checkpoints']['median']:.2f} h",
              f"training  {gang['mean_hours']:.2f} ± {gang['error_of_mean']:.2f} h on average, Daly's formula "
              f"{gang['daly_hours']:.2f}; a checkpoint every {gang['interval_seconds']:.0f} s (best: "
              f"{gang['best_interval_seconds']:.0f})"]
    assumed = found["assumed"]
    sizes = ", ".join(f"{name} {size / 1e12:.2f}" + (" TOO LARGE" if size > assumed["machine_memory"] else "")
                      for name, size in plan["memory"].items())
    lines.append(f"memory    TB a process: {sizes}; a machine has {assumed['machine_memory'] / 1e12:.1f}; the corpus is "
                 f"divided among {assumed['corpus_machines']:.0f}, undivided it would be as many times that")
    lines += ["", f"{'with twice the':30}{'days':>8}{'$':>14}"]
    lines += [f"{name:30}{row['days']:8.1f}{row['dollars']:14,.0f}" for name, row in found["doubled"].items()]
    stands = found["as_it_stands"]
    lines += [f"{'(one-process stages undivided)':30}{stands['days']:8.0f}{stands['dollars']:14,.0f}",
              "", f"{'our own runs, CPU s':20}{'foretold':>10}{'measured':>10}{'error':>8}   1x and 3x for 10x"]
    lines += [f"{row['stage']:20}{row['foretold']:10.1f}{row['measured']:10.1f}{row['error']:8.0%}"
              for row in found["own_runs"]]
    own = found["default_run"]
    lines.append(f"the default chain's {own['stages']} stages, two at once: {own['seconds'] / 60:.1f} min")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
