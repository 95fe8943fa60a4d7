"""What tuning cost: general scores of a track's base that its tuned model no longer reaches.

A loss counts above one standard error of the base's own score; held-out text counts as general too. Tool calls and the
arithmetic that tools are for are what tuning is about and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

AIMED = ("tools", "tools_grammar", "arithmetic")
BASE, TUNED = "base", "chat"


def forgotten(models: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence a loss, in the order of `models` (name -> directory); `found` holds their evaluation metrics."""
    names = {directory: name for name, directory in models.items() if name in found}
    lines = []
    for directory, name in names.items():
        base = names.get(str(Path(directory).with_name(BASE)))
        if Path(directory).name != TUNED or base is None:
            continue
        for task, metrics in found[base]["scores"].items():
            for metric, was in metrics.items():
                now = found[name]["scores"].get(task, {}).get(metric)
                if task in AIMED or now is None or not was["stderr"]:
                    continue
                lost = (now["value"] - was["value"]) * (1 if metric == "bits_per_byte" else -1) / was["stderr"]
                if lost > 1:
                    lines.append(f"{name} lost {lost:.1f} standard errors of {base} in {task} {metric}: "
                                 f"{was['value']:.3f} → {now['value']:.3f}, n={was['n']}.")
    return lines
