"""What alignment gained and what it cost: every score before and after each of its steps, on the same items.

Ouyang et al. 2022 call the cost the alignment tax; InternLM2's report (arXiv:2403.17297) shows one on IFEval. A step
leads from one directory of a track to the next: sft, dpo (preference pairs, where alignment follows them) and chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.report.answers import Answers, compared, tasks
from tasks.report.gather import SCORES, Table

WAY = ("sft", "dpo", "chat")


def steps(models: Mapping[str, str], answers: Answers) -> list[tuple[str, str, str]]:
    """(model before, model after, method) of every step whose two models were asked."""
    names = {directory: name for name, directory in models.items() if name in answers}
    found = []
    for track in dict.fromkeys(Path(directory).parent for directory in names):
        there = [folder for folder in WAY if str(track / folder) in names]
        for one, other in zip(there, there[1:]):
            method = "DPO" if one == "sft" and (other == "dpo" or str(track / "dpo") not in models.values()) else "GRPO"
            found.append((names[str(track / one)], names[str(track / other)], method))
    return found


def measured(models: Mapping[str, str], answers: Answers) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(step, score, unit, paired difference) of every step and task that both models answered; above zero is a gain."""
    out = []
    for one, other, method in steps(models, answers):
        for task in tasks(answers):
            if found := compared(answers[one], answers[other], task):
                label = next((label for (name, _), label in reversed(SCORES.items()) if name == task),
                             task.replace("_", " ")).removesuffix(" ↓")
                unit = " saved" if task == "held_out" else ""
                out.append((f"{method}: {one} → {other}", label, unit, found))
    return out


def table(models: Mapping[str, str], answers: Answers) -> Table:
    """One row a step and score: the paired difference, its error and interval, and in how many errors it is a loss."""
    rows = []
    for step, label, unit, found in measured(models, answers):
        low, high = (f"{found[key]:+.3f}" if found[key] is not None else "unknown" for key in ("low", "high"))
        rows.append([step, label + unit, f"{found['value']:+.3f} ± {found['stderr']:.3f}", f"{low} to {high}",
                     verdict(found), str(found["n"])])
    return {"head": ["step", "score", "paired difference", "95 %", "", "items"], "rows": rows, "from": [""] * len(rows)}


def verdict(found: dict[str, Any]) -> str:
    """gained or lost where the interval excludes zero, else what one standard error says."""
    if found["low"] is not None and found["low"] > 0:
        return "gained"
    if found["high"] is not None and found["high"] < 0:
        return "lost"
    return "lost more than one error" if lost(found) else "cannot tell"


def lost(found: dict[str, Any]) -> bool:
    """Whether the loss is above one standard error of the paired difference."""
    return found["low"] is not None and found["value"] < -found["stderr"]


def costs(models: Mapping[str, str], answers: Answers) -> list[str]:
    """A sentence for each score that a step lowered by more than one standard error."""
    return [f"{step} lost {-found['value']:.2g} ± {found['stderr']:.2g} in {label}, n={found['n']}."
            for step, label, _, found in measured(models, answers) if lost(found)]
