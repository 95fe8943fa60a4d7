"""What was measured here (benchmarks/units.json): a fixed part and a part in proportion to the input, fitted on the two
smaller inputs and judged on the largest one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.params import ParamsError

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "units.json"
PREVIOUS = {"filter": "extract", "dedup": "filter", "safety": "dedup", "value": "safety", "evalsets": "value",
            "decontaminate": "value", "mixture": "decontaminate", "tokenizer": "mixture", "pack": "mixture"}
LARGE = ("3", "10")  # memory shows its slope only where the text outgrows the program


@dataclass(frozen=True)
class Line:
    """fixed + slope * megabytes of a stage's input."""

    fixed: float
    slope: float

    def at(self, megabytes: float) -> float:
        """The line's value."""
        return self.fixed + self.slope * megabytes


@dataclass(frozen=True)
class Unit:
    """One stage's measured figures; its input is HTML for `extract`, the text of the stage before it for the others."""

    cpu: Line           # CPU seconds
    memory: Line        # MiB of its largest process
    serial: float       # CPU seconds a document that one process has to spend; 0 but for dedup
    ratio: float        # bytes written by bytes read


def load(path: Path = FILE) -> dict[str, Any]:
    """The document that `python -m benchmarks.units` writes. Raises ParamsError where it is absent or not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        units(found), picture(found), found["crawl"]["pages"], found["md5_bytes_per_cpu_second"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParamsError(f"{path} holds no measured figures ({type(error).__name__}: {error}): make them by "
                          f"python -m benchmarks.units") from None
    return found


def megabytes(growth: Mapping[str, Any], times: str, stage: str) -> float:
    """The input of `stage` at `times` the pages."""
    one = growth[times]
    return one["megabytes"] if stage == "extract" else one["stages"][PREVIOUS[stage]]["bytes_out"] / 1e6


def through(points: list[tuple[float, float]]) -> Line:
    """The line through two points; one that would fall is level at their mean."""
    (x0, y0), (x1, y1) = points
    slope = (y1 - y0) / (x1 - x0)
    if slope <= 0:
        return Line((y0 + y1) / 2, 0.0)
    return Line(max(0.0, y0 - slope * x0), slope)


def units(found: Mapping[str, Any], fitted: tuple[str, str] = ("1", "3")) -> dict[str, Unit]:
    """stage -> its figures, from the inputs of `fitted` sizes."""
    growth, out = found["growth"], {}
    for stage in growth[fitted[0]]["stages"]:
        rows = {times: growth[times]["stages"][stage] for times in fitted}
        sizes = {times: megabytes(growth, times, stage) for times in fitted}
        last = growth[fitted[1]]
        out[stage] = Unit(
            cpu=through([(sizes[times], rows[times]["cpu_seconds"]) for times in fitted]),
            memory=through([(megabytes(growth, times, stage), growth[times]["stages"][stage]["peak_mib"])
                            for times in LARGE]),
            serial=last["stages"][stage].get("one_process_seconds", 0.0) / last["documents_deduped"],
            ratio=rows[fitted[1]]["bytes_out"] / 1e6 / sizes[fitted[1]])
    return out


def picture(found: Mapping[str, Any]) -> Unit:
    """The picture stage, which the growth leaves out: two workers over the last run's text, its start included."""
    return Unit(Line(0.0, 2 * found["last_run"]["picture"] / found["extracted_megabytes"]), Line(0.0, 0.0), 0.0, 0.0)


def judged(found: Mapping[str, Any], fitted: tuple[str, str] = ("1", "3"), tested: str = "10") -> list[dict[str, Any]]:
    """One row a stage and one for all: CPU seconds foretold from `fitted` for `tested`, measured, and the error."""
    growth = found["growth"]
    rows = []
    for stage, unit in units(found, fitted).items():
        foretold = unit.cpu.at(megabytes(growth, tested, stage))
        rows.append({"stage": stage, "foretold": foretold,
                     "measured": growth[tested]["stages"][stage]["cpu_seconds"]})
    rows.append({"stage": "all", "foretold": sum(row["foretold"] for row in rows),
                 "measured": sum(row["measured"] for row in rows)})
    return [row | {"error": row["foretold"] / row["measured"] - 1} for row in rows]
