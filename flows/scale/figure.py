"""The simulation as one picture: when each stage runs, what is kept, and which assumption moves time and money."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"gpus": "#e4572e", "cores": "#2f7ed8", "crawl": "#2a9d5c", "corpus": "#a259c4", "head": "#808a96"}
BARS = 10


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    figure = Figure(figsize=(11, 12), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, height_ratios=(len(found["stages"]) * 0.22 + 1, 2.2, 3.6))
    gantt(top, found)
    kept(middle, found)
    left, right = bottom.inset_axes((0, 0, 0.46, 1)), bottom.inset_axes((0.66, 0, 0.34, 1))
    bottom.axis("off")
    tornado(left, found, "days", "days")
    tornado(right, found, "dollars", "thousand $")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def gantt(axes: Axes, found: Mapping[str, Any]) -> None:
    """A bar a stage, in days from the start; the shortest still to be seen."""
    end = max(row["end"] for row in found["stages"]) / 86400
    for place, row in enumerate(found["stages"]):
        begin, length = row["begin"] / 86400, (row["end"] - row["begin"]) / 86400
        axes.barh(place, max(length, end / 400), left=begin, color=COLOURS[row["pool"]], height=0.7)
    axes.set_yticks(range(len(found["stages"])), [row["stage"] for row in found["stages"]], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, end * 1.01)
    axes.grid(axis="x", alpha=0.3)
    names = {row["pool"]: row["width"] for row in sorted(found["stages"], key=lambda row: row["width"])}
    handles = [axes.barh(0, 0, color=COLOURS[pool]) for pool in names]
    axes.legend(handles, [f"{width:,} {pool}" for pool, width in names.items()], loc="lower left", fontsize=8)
    axes.set_title(f"{found['profile']}: {found['plan']['parameters'] / 1e9:.1f}e9 weights, "
                   f"{found['plan']['tokens']:.1e} tokens: {found['totals']['days']['median']:.1f} days, ${found['totals']['dollars']['all']:,.0f}")


def kept(axes: Axes, found: Mapping[str, Any]) -> None:
    """Terabytes kept over time, each stage's growing while it runs: DVC's cache forgets nothing by itself."""
    times = sorted({time for row in found["stages"] for time in (row["begin"], row["end"])})
    sizes = [sum(row["bytes"] * min(1.0, max(0.0, (time - row["begin"]) / max(1e-9, row["end"] - row["begin"])))
                 for row in found["stages"]) for time in times]
    axes.plot([time / 86400 for time in times], [size / 1e12 for size in sizes], color=COLOURS["cores"])
    axes.set_ylim(0)
    axes.set_xlim(0, max(row["end"] for row in found["stages"]) / 86400 * 1.01)
    axes.set_xlabel("days")
    axes.set_ylabel("TB kept")
    axes.grid(alpha=0.3)


def tornado(axes: Axes, found: Mapping[str, Any], key: str, label: str) -> None:
    """The assumptions that move `key` most, each from its low to its high value."""
    scale, middle = (1e3 if key == "dollars" else 1), found["usual"][key]
    moved = sorted(found["sensitivity"].items(), key=lambda one: -abs(one[1][1][key] - one[1][0][key]))[:BARS]
    for place, (_, ends) in enumerate(moved):
        for end, colour in zip(ends, ("#6fb1ff", "#2f7ed8"), strict=True):
            axes.barh(place, (end[key] - middle) / scale, left=middle / scale, color=colour, height=0.65)
    axes.axvline(middle / scale, color="#808a96", linewidth=1)
    axes.set_yticks(range(len(moved)), [name.replace("_", " ") for name, _ in moved], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"{label}; light: the assumption's low value, dark: its high one")
