"""Progress bars: one shape everywhere, quiet in logs (a line every ten seconds), live on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: Iterable[T] | None = None, *, total: float | None = None, what: str, unit: str = "it") -> tqdm:
    """A tqdm bar named `what`, over `items` or advanced by hand; redraws rarely where stderr is not a terminal."""
    live = sys.stderr.isatty()
    return tqdm(items, total=total, desc=what, unit=unit, unit_scale=True, dynamic_ncols=live,
                mininterval=0.2 if live else 10, maxinterval=10, file=sys.stderr)
