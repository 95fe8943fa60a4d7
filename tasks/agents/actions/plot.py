"""Draws numbers into a picture in the workspace; the model is told the picture's name, the reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from tasks.agents.tools import ActionError

POINTS = 1_000
Numbers = Annotated[list[FiniteFloat], Field(min_length=1, max_length=POINTS)]
Label = Annotated[str, Field(max_length=80)]


def action(workspace: Path) -> Callable[..., str]:
    """The action `plot`, which writes plot-1.png, plot-2.png ... into `workspace`."""
    def plot(x: Numbers, y: Numbers, kind: Literal["line", "bar", "scatter"] = "line", title: Label = "") -> str:
        """draw numbers as a picture"""
        from matplotlib.figure import Figure     # no pyplot: it keeps every figure in a global

        if len(x) != len(y):
            raise ActionError(f"plot: {len(x)} values of x, {len(y)} of y")
        figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
        axes = figure.subplots()
        {"line": axes.plot, "bar": axes.bar, "scatter": axes.scatter}[kind](x, y)
        axes.set_title(title.replace("$", r"\$"))   # a dollar sign would be read as mathematics
        number = sum(1 for _ in workspace.glob("plot-*.png")) + 1
        path = workspace / f"plot-{number}.png"
        try:
            figure.savefig(path, metadata={"Software": None})
        except (ValueError, OverflowError, MemoryError) as error:
            raise ActionError(f"plot: {' '.join(str(error).split())[:120]}") from None
        return f"drawn: {path.name}"
    return plot
