"""Draws numbers into a picture in the workspace; the model is told the picture's name, the reader sees it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from tasks.agents.tools import ActionError, Picture

POINTS = 1_000
PICTURES = 100      # that the workspace may come to hold
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
        drawn = io.BytesIO()
        try:
            figure.savefig(drawn, format="png", metadata={"Software": None})
        except (ValueError, OverflowError, MemoryError) as error:
            raise ActionError(f"plot: {' '.join(str(error).split())[:120]}") from None
        for number in range(1, PICTURES + 1):
            path = workspace / f"plot-{number}.png"
            with contextlib.suppress(FileExistsError), path.open("xb") as file:
                file.write(drawn.getvalue())
                return Picture(f"drawn: {path.name}", path)
        raise ActionError(f"plot: the workspace holds {PICTURES} pictures already")
    return plot
