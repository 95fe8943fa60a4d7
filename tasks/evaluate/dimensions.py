"""What the tasks tell about, as OpenCompass groups them: each dimension's scores, by task and by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate import statistics

BUILT_IN = {"held_out": "language", "pairs": "language", "cloze": "knowledge", "recall": "long text",
            "tools": "tools", "tools_grammar": "tools", "arithmetic": "mathematics"}
SHOWN = ("acc", "acc_norm", "exact_match")


def table(samples: Mapping[str, Sequence[dict[str, Any]]], dimensions: Mapping[str, str]) -> dict[str, Any]:
    """dimension -> task -> language ("all" where an item names none) -> the pass rate of its items with its interval.

    samples: lm-eval's, of each task; a task without a pass rate (bits per byte) stands under `scores` alone.
    """
    found: dict[str, Any] = {}
    for task, dimension in dimensions.items():
        if task not in samples:
            continue
        by_language: dict[str, list[int]] = {}
        for sample in samples[task]:
            metric = next((name for name in SHOWN if name in sample), None)
            if metric is not None:
                by_language.setdefault(sample["doc"].get("language") or "all", []).append(int(sample[metric]))
        if by_language:
            found.setdefault(dimension, {})[task] = {
                language: statistics.proportion(passed).as_dict() for language, passed in sorted(by_language.items())}
    return found
