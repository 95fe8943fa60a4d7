"""Fits the law and the rules of tasks/pretrain/scaling.py to the runs of benchmarks/scaling.py.

    python -m benchmarks.scaling_fit [RUNS.jsonl]

Without runs the committed ones are fitted again. Writes benchmarks/scaling.json: the runs, the law
L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv:2203.15556, approach 3), its errors, the best
rates. Prints the table; the last line is one JSON document without the runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from tasks import stage
from tasks.pretrain.scaling import Law

RESULT = Path(__file__).with_name("scaling.json")
HUBER = 0.003      # of log bits per byte: above it a residual counts by its size, not its square
DRAWS, SEED = 200, 1
CHANGED = ("matrix_rate", "rate", "batch")
COMMON = (*CHANGED, "seed")
Run = dict[str, Any]
Table = dict[str, Any]  # head, rows: as tasks/report/gather.py's


def columns(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, tokens and bits per byte of `runs`, float64 [runs]."""
    return tuple(np.array([run[name] for run in runs], dtype=float) for name in ("parameters", "tokens", "bpb"))


def fit(weights: np.ndarray, tokens: np.ndarray, bits: np.ndarray, start: Sequence[float] | None = None) -> Law:
    """The law of least Huber loss between log bits per byte; from a grid of starts, or from `start` alone."""
    n, d, target = np.log(weights / weights.mean()), np.log(tokens / tokens.mean()), np.log(bits)

    def off(at: np.ndarray) -> np.ndarray:
        a, b, e, alpha, beta = at
        return np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e) - target

    starts = [start] if start is not None else product((-2.0,), (-0.5,), (-1.0, 0.3), (0.2, 0.6), (0.2, 0.6))
    low, high = (-8.0, -8.0, -8.0, 0.02, 0.02), (3.0, 3.0, 3.0, 3.0, 3.0)
    found = min((least_squares(off, one, loss="huber", f_scale=HUBER, bounds=(low, high)) for one in starts),
                key=lambda one: one.cost)
    return law(found.x, weights.mean(), tokens.mean())


def law(at: Sequence[float], weights: float, tokens: float) -> Law:
    """Fitted numbers, made around mean `weights` and `tokens`, as the law's own."""
    a, b, e, alpha, beta = map(float, at)
    return Law(floor=math.exp(e), by_weights=math.exp(a) * float(weights)**alpha, alpha=alpha,
               by_tokens=math.exp(b) * float(tokens)**beta, beta=beta)


def error(predicted: np.ndarray, bits: np.ndarray) -> float:
    """Root mean square of predicted / measured - 1."""
    return float(np.sqrt(np.mean((predicted / bits - 1) ** 2)))


def left_out(runs: Sequence[Run], groups: Sequence[Any]) -> dict[str, float]:
    """Group -> error on its runs of the law that was fitted to all others."""
    every, groups = columns(runs), np.array(groups)
    found = {}
    for group in sorted(set(groups.tolist())):
        out = groups == group
        found[str(group)] = error(fit(*(c[~out] for c in every)).bits(every[0][out], every[1][out]), every[2][out])
    return found


def bootstrap(made: Law, runs: Sequence[Run]) -> dict[str, list[float]]:
    """95 % intervals of the law's numbers and of what it says of the largest run: residuals drawn again, DRAWS times
    (Efron and Tibshirani 1993, chapter 9)."""
    weights, tokens, bits = columns(runs)
    smooth = np.log(made.bits(weights, tokens))
    draw, rows = np.random.default_rng(SEED), []
    start = (math.log(made.by_weights) - made.alpha * math.log(weights.mean()),
             math.log(made.by_tokens) - made.beta * math.log(tokens.mean()),
             max(-7.9, math.log(made.floor)), max(made.alpha, 0.03), max(made.beta, 0.03))
    most = int(np.argmax(weights * tokens))
    for _ in range(DRAWS):
        one = fit(weights, tokens, np.exp(smooth + draw.choice(np.log(bits) - smooth, len(bits))), start)
        rows.append([one.floor, one.alpha, one.beta, one.bits(weights[most], tokens[most])])
    low, high = np.percentile(rows, [2.5, 97.5], axis=0)
    return {name: [float(f"{a:.4g}"), float(f"{b:.4g}")] for name, a, b in
            zip(("floor", "alpha", "beta", "largest_run"), low, high)}


def best(values: Sequence[float], bits: Sequence[float]) -> tuple[float, float]:
    """The value of least bits and those bits: the vertex of the parabola in log(value) through the least point and its
    neighbours; the least point itself where it has none on a side. Values ascend."""
    at = int(np.argmin(bits))
    if not 0 < at < len(values) - 1:
        return float(values[at]), float(bits[at])
    a, b, c = np.polyfit(np.log(values[at - 1:at + 2]), bits[at - 1:at + 2], 2)
    return float(np.exp(-b / (2 * a))), float(c - b * b / (4 * a))


def rules(runs: Sequence[Run], common: Run) -> dict[str, Any]:
    """For each changed value: the best at each size, and the power of the weights that it follows; 0 stays put."""
    found = {}
    for name in CHANGED:
        rest = [other for other in COMMON if other != name]
        own = [run for run in runs if all(run[other] == common[other] for other in rest)]
        swept = {(run["size"], run["tokens"]) for run in own if run[name] != common[name]}
        rows = []
        for size, tokens in sorted(swept):
            line = sorted((run for run in own if (run["size"], run["tokens"]) == (size, tokens)),
                          key=lambda run: run[name])
            value, bits = best([run[name] for run in line], [run["bpb"] for run in line])
            kept = next(run for run in line if run[name] == common[name])
            rows.append({"size": size, "weights": kept["parameters"], "tokens": tokens, "best": float(f"{value:.4g}"),
                         "bpb": round(bits, 4), "lost_by_common": round(kept["bpb"] - bits, 4),
                         "tried": {f"{run[name]:g}": run["bpb"] for run in line}})
        if rows:
            several = len({row["size"] for row in rows}) > 1
            sides = np.log([[row["weights"] for row in rows], [row["best"] for row in rows]])
            found[name] = {"power": round(float(np.polyfit(*sides, 1)[0]), 3) if several else None, "sizes": rows}
    return found


def seeds(runs: Sequence[Run], common: Run) -> dict[str, Any]:
    """What chance alone moves: bits per byte of one run under each of its seeds, and their standard deviation."""
    own = [run for run in runs if all(run[name] == common[name] for name in CHANGED)]
    drawn = {(run["size"], run["tokens"]) for run in own if run["seed"] != common["seed"]}
    bits = [run["bpb"] for run in own if (run["size"], run["tokens"]) in drawn]
    return {"bpb": bits, "deviation": round(float(np.std(bits, ddof=1)), 4)} if len(drawn) == 1 else {}


def pace(runs: Sequence[Run]) -> dict[str, float]:
    """CPU seconds a token as fixed + each FLOP's, by the fastest run of each size: the least disturbed one."""
    fastest = {}
    for run in runs:
        if run["batch"] == runs[0]["batch"]:
            each = run["cpu_seconds"] / run["tokens"]
            fastest[run["size"]] = min(fastest.get(run["size"], (math.inf, 0)), (each, run["flops"] / run["tokens"]))
    seconds, operations = np.array(sorted(fastest.values())).T
    slope, fixed = np.polyfit(operations, seconds, 1, w=1 / seconds)
    return {"seconds_per_token": float(f"{max(fixed, 0.0):.4g}"), "seconds_per_flop": float(f"{slope:.4g}")}


def read(path: Path) -> list[Run]:
    """The runs of a file of lines, or those of a scaling.json. Raises StageError where it is not there."""
    if path.suffix == ".json":
        return load(path)["runs"]
    return [json.loads(line) for line in there(path).read_text(encoding="utf-8").splitlines()]


def load(path: Path) -> dict[str, Any]:
    """What `report` made of the runs, from its file. Raises StageError where it is not there."""
    return json.loads(there(path).read_text(encoding="utf-8"))


def there(path: Path) -> Path:
    """`path`. Raises StageError, naming what makes it, where it is no file."""
    if not path.is_file():
        raise stage.StageError(f"{path} is not there: python -m benchmarks.scaling makes it")
    return path


def report(runs: Sequence[Run]) -> dict[str, Any]:
    """All that is committed: runs, law, errors, rules, pace."""
    sound = [run for run in runs if run["bpb"] is not None]
    common = {name: max({run[name] for run in sound}, key=[run[name] for run in sound].count) for name in COMMON}
    used = plain({"runs": sound, "common": common})
    made = fit(*columns(used))
    return {"law": vars(made), "intervals": bootstrap(made, used), "error": {
                "fitted": error(made.bits(*columns(used)[:2]), columns(used)[2]),
                "size_left_out": left_out(used, [run["size"] for run in used]),
                "budget_left_out": left_out(used, [run["tokens"] for run in used])},
            "rules": rules(sound, common), "seeds": seeds(sound, common), "pace": pace(sound), "common": common,
            "runs": list(runs)}


def plain(found: dict[str, Any]) -> list[Run]:
    """The runs that the law was fitted to: at the common rates and batch."""
    return [run for run in found["runs"] if run["bpb"] is not None
            and all(run[name] == value for name, value in found["common"].items())]


def by_size(found: dict[str, Any]) -> dict[int, list[Run]]:
    """Size -> its runs at the common values, by tokens."""
    sizes = sorted({run["size"] for run in plain(found)})
    return {size: sorted((run for run in plain(found) if run["size"] == size), key=lambda run: run["tokens"])
            for size in sizes}


def formula(found: dict[str, Any]) -> str:
    """The law in a line, with its numbers' 95 % intervals."""
    law, between = found["law"], found["intervals"]
    sides = {name: f"{law[name]:.3f} ({between[name][0]:.3g} to {between[name][1]:.3g})"
             for name in ("floor", "alpha", "beta")}
    return (f"L(N, D) = E + A / N^alpha + B / D^beta: E = {sides['floor']}, A = {law['by_weights']:.4g}, "
            f"alpha = {sides['alpha']}, B = {law['by_tokens']:.4g}, beta = {sides['beta']}")


def runs_table(found: dict[str, Any]) -> Table:
    """The fitted runs beside the law."""
    made = Law(**found["law"])
    return {"head": ["size", "weights", "tokens", "TFLOP", "CPU s", "bits per byte", "law", "off"],
            "rows": [[str(run["size"]), f"{run['parameters']:,}", f"{run['tokens']:,}", f"{run['flops'] / 1e12:.2f}",
                      f"{run['cpu_seconds']:.0f}", f"{run['bpb']:.4f}",
                      f"{(law := made.bits(run['parameters'], run['tokens'])):.4f}", f"{law / run['bpb'] - 1:+.2%}"]
                     for runs in by_size(found).values() for run in runs]}


def errors_table(found: dict[str, Any]) -> Table:
    """The law's error on what it saw, on each size and on each budget that it did not see."""
    rows = [["all runs, fitted", found["error"]["fitted"]]]
    rows += [[f"size {name}, left out", value] for name, value in found["error"]["size_left_out"].items()]
    rows += [[f"{int(name):,} tokens, left out", value] for name, value in
             sorted(found["error"]["budget_left_out"].items(), key=lambda one: int(one[0]))]
    return {"head": ["runs", "error"], "rows": [[name, f"{value:.2%}"] for name, value in rows]}


def rules_table(found: dict[str, Any]) -> Table:
    """The best value at each size, and what the common one lost to it."""
    return {"head": ["value", "size", "weights", "tokens", "best", "bits per byte lost by the common value"],
            "rows": [[name if rule["power"] is None else f"{name} ~ N^{rule['power']:+.2f}", str(row["size"]),
                      f"{row['weights']:,}", f"{row['tokens']:,}",
                      f"{row['best']:.3g}", f"{row['lost_by_common']:.4f}"]
                     for name, rule in found["rules"].items() for row in rule["sizes"]]}


def publish(runs: Sequence[Run]) -> None:
    """Write scaling.json, print the table and the line."""
    found = report(runs)
    stage.write_json(RESULT, found)
    made = Law(**found["law"])
    print(f"{'size':>4}{'weights':>10}{'tokens':>9}{'matrix':>8}{'rate':>8}{'batch':>6}{'CPU s':>7}{'bpb':>8}"
          f"{'law':>8}")
    for run in runs:
        used = run["bpb"] is not None and all(run[name] == value for name, value in found["common"].items())
        print(f"{run['size']:4}{run.get('parameters', 0):10,}{run['tokens'] // 1024:8}K{run['matrix_rate']:8g}"
              f"{run['rate']:8g}{run['batch']:6}{run.get('cpu_seconds', 0):7.0f}"
              + (f"{run['bpb']:8.4f}" if run["bpb"] is not None else "   fault")
              + (f"{made.bits(run['parameters'], run['tokens']):8.4f}" if used else ""))
    print(json.dumps({name: value for name, value in found.items() if name != "runs"}, sort_keys=True))


def main() -> None:
    """Fit the runs of the file given, or the committed ones again."""
    try:
        publish(read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT))
    except stage.StageError as fault:
        sys.exit(stage.fail(1, str(fault)))


if __name__ == "__main__":
    main()
