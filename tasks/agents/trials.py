"""The checkable tasks an agent is tried on, and the check of an answer."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.stage import StageError

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
WORD = re.compile(r"[a-z0-9_.]*[a-z0-9_]|[\u3400-\u9fff]")
RECALLED = 0.75     # share of a long answer's own words that must be said

# what a model should answer without a tool, in whatever words
PLAIN = (("What is the capital of France?", "Paris"), ("Which planet do we live on?", "Earth"),
         ("What colour is the sky on a clear day?", "blue"), ("How many days are there in a week?", "7|seven"))


@dataclass(frozen=True)
class Trial:
    """A question, what its answer must contain, and the world it is asked in (world.py).

    expected: `|` stands between alternatives, `&` between parts that must all be said. calls: the right calls, (tool,
    arguments as JSON), which the oracle makes. files: (name, text) in the workspace before; ends: what must stand
    there afterwards, None for a file that must not be. rows: of the table orders. broken: what `stock` says at first.
    """

    id: str
    family: str
    question: str
    expected: str
    tools: tuple[str, ...] = ("calculator", "search", "python")
    calls: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    ends: tuple[tuple[str, str | None], ...] = ()
    rows: tuple[tuple[str, str, int], ...] = ()
    broken: str = ""


def read_trials(evalsets: Path, counts: dict[str, int]) -> list[Trial]:
    """`counts` tasks of each family by the hash of their id, and the plain ones; none that its own question answers.

    Raises StageError in one line where a set cannot be read, has no task, or too few of arithmetic.
    """
    trials = [Trial(f"plain-{at}", "plain", question, answer) for at, (question, answer) in enumerate(PLAIN)]
    for family, name in (("arithmetic", "arithmetic"), ("python", "tools"), ("lookup", "lookup")):
        path = evalsets / f"{name}.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            asked = [Trial(str(line["id"]), family, str(line["question"]), str(line["answer"]), calls=(right(line),))
                     for line in lines if line.get("family", family) == family]
            found = [trial for trial in asked if not passes(trial, trial.question)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StageError(f"{path} cannot be read ({type(error).__name__} {error}): make it again with "
                             "dvc repro") from None
        if len(found) < counts[family] and family == "arithmetic" or counts[family] and not found:
            raise StageError(f"{path} has {len(found)} tasks of {family}, {counts[family]} are asked: lower agents."
                             f"{family} or make more")
        trials += sorted(found, key=lambda trial: hashlib.sha256(trial.id.encode()).digest())[:counts[family]]
    return trials


def right(line: dict[str, Any]) -> tuple[str, str]:
    """The call that an item of an evaluation set asks for."""
    asked = "tool" in line
    given = line["arguments"] if asked else {"query": str(line["query"])[:60]}
    return str(line["tool"]) if asked else "search", json.dumps(given, ensure_ascii=False)


def passes(trial: Trial, answer: str | None) -> bool:
    """Whether an answer is right.

    A number must be said as a whole number of the answer (a conversion's within half a percent); anything else must be
    contained, case and spacing aside, or, where it is long, most of its words that the question does not already hold.
    """
    if not answer:
        return False
    if "&" in trial.expected:
        return all(passes(replace(trial, expected=part), answer) for part in trial.expected.split("&"))
    numbers = {number.replace(",", "").rstrip(".") for number in NUMBER.findall(answer)}
    if NUMBER.fullmatch(trial.expected):
        wanted = float(trial.expected)
        return trial.expected in numbers or trial.family == "conversion" and any(
            abs(float(number) - wanted) <= 0.005 * abs(wanted) for number in numbers)
    said = " ".join(answer.lower().split())
    if any(" ".join(one.lower().split()) in said for one in trial.expected.split("|")):
        return True
    own = set(WORD.findall(trial.expected.lower())) - set(WORD.findall(trial.question.lower()))
    return trial.family in ("lookup", "multi_hop") and len(own) >= 4 and \
        len(own & set(WORD.findall(said))) >= RECALLED * len(own)
