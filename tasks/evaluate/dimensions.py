"""What the tasks tell about, as OpenCompass groups them: each dimension's scores, by task and by language."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate import programs, statistics

BUILT_IN = {"held_out": "language", "pairs": "language", "safety": "safety", "cloze": "knowledge",
            "recall": "long text", "needle": "long text", "multi_needle": "long text", "tracing": "long text",
            "code": "code", "tools": "tools", "tools_grammar": "tools", "arithmetic": "mathematics"}
SHOWN = ("acc", "acc_norm", "exact_match", "passed")


def table(samples: Mapping[str, Sequence[dict[str, Any]]], dimensions: Mapping[str, str]) -> dict[str, Any]:
    """dimension -> task -> language ("all" where an item names none) -> the pass rate of its items with its interval;
    of held-out text the bits per byte, of which fewer are better.

    samples: lm-eval's, of each task; a task with neither stands under `scores` alone.
    """
    found: dict[str, Any] = {}
    for task, dimension in dimensions.items():
        if task not in samples:
            continue
        if task == "held_out":
            found.setdefault(dimension, {})[task] = bits(samples[task])
            continue
        by_language: dict[str, list[Any]] = {}
        for sample in samples[task]:
            if any(name in sample for name in SHOWN):
                by_language.setdefault(sample["doc"].get("language") or "all", []).append(sample)
        if by_language:
            found.setdefault(dimension, {})[task] = {
                language: rate(of).as_dict() for language, of in sorted(by_language.items())}
    return found


def bits(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """language -> bits per byte of its held-out texts."""
    texts: dict[str, list[tuple[float, int]]] = {}
    for sample in samples:
        texts.setdefault(sample["doc"].get("language") or "all", []).append(sample["bits_per_byte"])
    return {language: statistics.ratio([-nats / math.log(2) for nats, _ in of], [size for _, size in of]).as_dict()
            for language, of in sorted(texts.items())}


def rate(samples: Sequence[dict[str, Any]]) -> statistics.Estimate:
    """The pass rate of lm-eval's samples; of programs pass@1, whose items are the problems."""
    if "passed" in samples[0]:
        return programs.estimate(samples, 1)
    metric = next(name for name in SHOWN if name in samples[0])
    return statistics.proportion([int(sample[metric]) for sample in samples])
