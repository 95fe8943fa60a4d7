"""The heat maps of long text: how much a model finds, by the length of the text and the place of what is asked."""

from __future__ import annotations

import math
from typing import Any

from tasks.report import figures

TASKS = {  # task -> (what a reader calls it, what the rows are, what they are about)
    "needle": ("Needle in long text", "depth", "One statement of its kind at each depth, 0 where the text begins."),
    "multi_needle": ("One of several needles", "depth", "Statements of one kind: the right one is known by its key."),
    "tracing": ("Variable tracing", "hops", "Assignments between the variable asked and its number."),
}


def maps(models: dict[str, Any]) -> list[dict[str, Any]]:
    """A figure a task, a panel a model, of those that were asked; with what is said under it."""
    out = []
    for task, (name, rows, about) in TASKS.items():
        cells = {model: found["long_text"]["cells"][task] for model, found in models.items()
                 if found.get("long_text", {}).get("cells", {}).get(task)}
        if cells:
            chances = sorted({cell["chance"] for of in cells.values() for cell in of})
            chance = f"{chances[0]:.2f}" + (f" to {chances[-1]:.2f}" if chances[-1] - chances[0] >= 0.005 else "")
            out.append({"name": name, "figure": drawn(cells, rows), "about": f"{about} Chance is {chance}."})
    return out


def drawn(models: dict[str, list[dict[str, Any]]], rows: str) -> figures.Markup:
    """A panel a model: columns are lengths in the model's own tokens, rows places, the number in a cell the pass rate,
    with a star where its 95 % interval lies above chance."""
    lengths = sorted({cell["length"] for cells in models.values() for cell in cells})
    places = sorted({cell["place"] for cells in models.values() for cell in cells})
    across = min(3, len(models))
    down = math.ceil(len(models) / across)
    figure, grid = figures.plt.subplots(down, across, figsize=(0.9 + across * (0.5 + 0.58 * len(lengths)),
                                                               down * (0.75 + 0.3 * len(places))),
                                        squeeze=False, sharex=True, sharey=True, layout="constrained")
    for axes in grid.flat[len(models):]:
        axes.set_visible(False)
    for axes, (model, cells) in zip(grid.flat, models.items()):
        values = {(cell["place"], cell["length"]): cell for cell in cells}
        axes.pcolormesh([[values.get((place, length), {"value": math.nan})["value"] for length in lengths]
                         for place in places], cmap="YlGnBu", vmin=0, vmax=1)
        for row, place in enumerate(places):
            for column, length in enumerate(lengths):
                if cell := values.get((place, length)):
                    axes.text(column + 0.5, row + 0.5, f"{cell['value']:.2f}" + "*" * (cell["low"] > cell["chance"]),
                              ha="center", va="center", fontsize=8, color="white" if cell["value"] > 0.6 else "black")
        axes.set_title(model, fontsize=10, color=figures.INK)
        axes.set_xticks([at + 0.5 for at in range(len(lengths))], [str(length) for length in lengths])
        axes.set_yticks([at + 0.5 for at in range(len(places))], [f"{place:g}" for place in places])
        axes.grid(visible=False)
    grid[0, 0].invert_yaxis()       # shared: the beginning of the text is on top
    figure.supxlabel("length, tokens", fontsize=10)
    figure.supylabel(rows, fontsize=10)
    return figures.svg(figure)


def unread(models: dict[str, Any]) -> list[str]:
    """What was not asked, or not read whole, one line each."""
    lines = []
    for model, found in models.items():
        for task, left in found.get("long_text", {}).get("left_out", {}).items():
            lengths = ", ".join(f"{count} of {length} tokens" for length, count in left.items())
            lines.append(f"{model}, {task.replace('_', ' ')}: items left out: {lengths}; the model reads "
                         f"{found['context']:,} tokens, and a text must be longer than what it hides")
        for task, count in found.get("cut", {}).items():
            lines.append(f"{model}, {task.replace('_', ' ')}: {count} items are longer than the {found['context']:,} "
                         "tokens that the model reads; their beginnings were cut, and each says so in data/answers")
    return lines
