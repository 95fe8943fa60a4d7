"""A sweep as one picture: the metric over each key that was varied, and the runs' curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

if TYPE_CHECKING:
    from flows.sweep import Row

FEW = 3         # keys shown, those varied most
WIDE = 5.0      # ratio of values from which an axis is logarithmic
COLOURS = ["#2f7ed8", "#e4572e", "#2a9d5c", "#a259c4", "#d8a12f", "#808a96", "#17a2b8", "#7a4b2a"]


def draw(rows: list[Row], by: str, x: str, y: str, path: Path) -> None:
    """Write the PNG; `x` and `y` name the curves' axes."""
    done = [row for row in rows if row.metric is not None]
    keys = sorted(done[0].values, key=lambda key: -len({str(row.values[key]) for row in done}))[:FEW]
    curved = any(row.curve for row in done)
    panels = max(1, len(keys) + curved)
    figure = Figure(figsize=(4.6 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for one, key in zip(axes, keys):
        over(one, done, key, keys, by)
    if curved:
        for place, row in enumerate(done):
            shade = COLOURS[place % len(COLOURS)]
            label = ", ".join(str(row.values[key]) for key in keys) or row.name
            axes[-1].plot(*zip(*row.curve), color=shade, label=label, linewidth=2.2 if place == 0 else 1.1)
        axes[-1].set(xlabel=x, ylabel=y)
        axes[-1].legend(fontsize=7, title=", ".join(short(key) for key in keys), title_fontsize=7)
        axes[-1].grid(alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def over(axes: Axes, rows: list[Row], key: str, keys: list[str], by: str) -> None:
    """The metric over the values of `key`; rows alike in all other keys are one line, the best row a star."""
    values = [row.values[key] for row in rows]
    numeric = all(type(value) in (int, float) for value in values)
    names = sorted({str(value) for value in values})
    place = {id(row): row.values[key] if numeric else names.index(str(row.values[key])) for row in rows}
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row.values[other]) for other in row.values if other != key), []).append(row)
    for number, alike in enumerate(lines.values()):
        alike = sorted(alike, key=lambda row: place[id(row)])
        label = ", ".join(f"{short(other)} {alike[0].values[other]}" for other in keys if other != key)
        axes.plot([place[id(row)] for row in alike], [row.metric for row in alike], "o-" if numeric else "o",
                  color=COLOURS[number % len(COLOURS)], label=label)
    axes.plot(place[id(rows[0])], rows[0].metric, "*", color="black", markersize=14, zorder=3, label="best")
    if not numeric:
        axes.set_xticks(range(len(names)), names)
    elif min(values) > 0 and max(values) / min(values) >= WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        tried = sorted(set(values))
        axes.set_xticks(tried, [f"{value:g}" for value in tried])
    axes.set(xlabel=short(key), ylabel=by)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def short(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]
