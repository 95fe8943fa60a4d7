"""Figures of the page as inline SVG strings: no script, no network, readable on a light and a dark ground."""

import io
from collections.abc import Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes

from tasks.report.picture import Panel

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen before pyplot picks one

INK, GRID = "#808a96", "#808a9640"
WIDTH = 5.6  # inches; a phone shows ten points of it in eight pixels
COLOURS = ("#2f7ed8", "#e4572e", "#2a9d5c", "#a259c4", "#c98a00", "#17a2b8")
plt.rcParams.update({
    "svg.hashsalt": "catena", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
    "legend.frameon": False, "text.parse_math": False,
})


def lines(series: dict[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str,
          levels: dict[str, float] | None = None, height: float = 2.6) -> Markup:
    """A line chart: `series` name -> (xs, ys); `levels` name -> a dashed horizontal line with its name on it."""
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    for (name, (xs, ys)), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(xs, ys, label=name, color=colour, linewidth=1.8)
    edge = axes.get_xlim()[1]
    for name, level in (levels or {}).items():
        axes.axhline(level, color=INK, linestyle="--", linewidth=1)
        axes.text(edge, level, f"{name} {level:.2f} ", ha="right", va="bottom", fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(series) > 1:
        axes.legend()
    return svg(figure)


def bars(values: dict[str, float], *, x: str, errors: dict[str, float] | None = None,
         marks: dict[str, float] | None = None) -> Markup:
    """Horizontal bars from the top in the order given, with optional error bars and a mark (chance) on each."""
    names = list(values)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.3 * len(names)))
    axes.barh(names, [values[n] for n in names], color=COLOURS[0], height=0.62,
              xerr=[(errors or {}).get(n, 0.0) for n in names] if errors else None, ecolor=INK)
    for name, mark in (marks or {}).items():
        row = names.index(name)
        axes.plot([mark, mark], [row - 0.4, row + 0.4], color=COLOURS[1], linewidth=2)
    axes.invert_yaxis()
    axes.set_xlabel(x)
    axes.grid(axis="y", visible=False)
    return svg(figure)


def intervals(values: dict[str, tuple[float, float, float]], *, x: str) -> Markup:
    """Name -> (value, low, high) as points with their intervals, from the top in the order given; a line at zero."""
    names = list(values)
    figure, axes = plt.subplots(figsize=(3.9, 0.8 + 0.3 * len(names)), layout="constrained")
    for row, (value, low, high) in enumerate(values.values()):
        axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=2)
        axes.plot([value], [row], "o", color=COLOURS[0])
    axes.axvline(0.0, color=INK, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(x)
    axes.grid(axis="y", visible=False)
    return svg(figure, bounds=None)


def scored(values: dict[str, float], errors: dict[str, float], trivial: float) -> Markup:
    """A small chart of one score: a lying bar a model with its standard error, and a line where a trivial answerer
    stands. Title and legend are the page's."""
    names = list(values)
    figure, axes = plt.subplots(figsize=(3.9, 0.5 + 0.28 * len(names)), layout="constrained")
    axes.barh(names, [values[name] for name in names], xerr=[errors[name] for name in names], color=COLOURS[0],
              ecolor=INK, height=0.62)
    axes.axvline(trivial, color=COLOURS[1], linewidth=2)
    axes.set_xlim(0, 1.05 * max(trivial, *(values[name] + errors[name] for name in names), 0.1))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return svg(figure, bounds=None)


def beside(panel: Panel, size: tuple[float, float] = (3.9, 2.3)) -> Markup:
    """A small chart of before and after, without title and legend: those are the page's. All have one size."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw(axes, panel)
    return svg(figure, bounds=None)


def draw(axes: Axes, panel: Panel) -> None:
    """The bars of `panel` on `axes`: before in grey, after in colour; lying where the labels are names."""
    for side, colour, offset in (("before", INK + "99", -0.2), ("after", COLOURS[0], 0.2)):
        places = [place + offset for place in range(len(panel["labels"]))]
        (axes.barh if panel["named"] else axes.bar)(places, panel[side], 0.4, color=colour, label=side)
    step = 1 if panel["named"] else -(-len(panel["labels"]) // 8)
    ticks = range(0, len(panel["labels"]), step)
    labels = [label if len(label) <= 14 else f"{label[:13]}…" for label in panel["labels"][::step]]
    (axes.set_yticks if panel["named"] else axes.set_xticks)(ticks, labels)
    axes.set_xlabel(panel["x"])
    axes.grid(axis="y" if panel["named"] else "x", visible=False)
    if panel["named"]:
        axes.invert_yaxis()


def svg(figure: plt.Figure, bounds: str | None = "tight") -> Markup:
    """The figure as an <svg> element, sized by its container, the same bytes for the same data; `bounds` None keeps
    the margins."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches=bounds, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg"):])
