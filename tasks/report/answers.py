"""Every item that was asked, with every model's answer to it, as a page of its own; and the differences between models.

The page holds all of data/answers: filter by task, by model, by right and wrong, by words; put a second model beside
the first and see the items that only one of them has right, with the paired difference and its interval. It runs without a
network; texts are set as text, so what a model wrote cannot act.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2

from tasks.evaluate import statistics
from tasks.evaluate.paired import asked, difference, paired
from tasks.report.gather import SCORES, Table
from tasks.stage import StageError

PAGE = Path("report/answers.html")
SHORT = {"right": "r", "answer": "a", "scores": "s", "overlap": "o", "min_k": "k"}     # of an answer, on the page
Answers = Mapping[str, list[dict[str, Any]]]


def read(folder: Path, models: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """model -> its answers, in the order of `models`; those without a file are left out. Raises StageError where a
    line is torn, naming it."""
    found = {}
    for name in models:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            found[name] = []
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    item = json.loads(line)
                    found[name].append({"task": item["task"], "id": item["id"]} | item)
                except (ValueError, KeyError, TypeError):
                    raise StageError(f"{path}:{number} is no answer: run evaluate@{name} again") from None
    return found


def tasks(answers: Answers) -> list[str]:
    """The tasks of all models in the order in which they were asked."""
    return list(dict.fromkeys(item["task"] for of in answers.values() for item in of))


def compared(one: list[dict[str, Any]], other: list[dict[str, Any]], task: str) -> dict[str, float | int | None] | None:
    """`other` - `one` on the items that both answered: difference, error, 95 % interval, the smallest difference that
    so many items show with 80 % power (from this error). None where they share no scored item."""
    pairs = [pair for pair in paired(one, other, task) if all("bytes" in item or "right" in item for item in pair)]
    if not pairs:
        return None
    found = difference(pairs)
    bounded = {name: value if math.isfinite(value) else None for name, value in found.as_dict().items()}
    return bounded | {"detectable": round(statistics.detectable(found.stderr), 6)}


def neighbours(models: Mapping[str, str], answers: Answers) -> list[tuple[str, str]]:
    """(one, other) for each model and the one before it of its track (the folder its directory lies in), and for the
    last of a track and the last of the track before."""
    tracks: dict[str, list[str]] = {}
    for name, path in models.items():
        if name in answers:
            tracks.setdefault(str(Path(path).parent), []).append(name)
    last = [names[-1] for names in tracks.values()]
    return [pair for names in tracks.values() for pair in zip(names, names[1:])] + list(zip(last, last[1:]))


def differences(models: Mapping[str, str], answers: Answers) -> Table:
    """One row a score and pair of neighbours: the paired difference, its interval and what could have been shown."""
    rows = []
    for task in tasks(answers):
        label = next((label for (name, _), label in reversed(SCORES.items()) if name == task), task.replace("_", " "))
        for one, other in neighbours(models, answers):
            found = compared(answers[one], answers[other], task)
            if found:
                low, high = (f"{found[key]:+.3f}" if found[key] is not None else "unknown" for key in ("low", "high"))
                verdict = ("cannot tell" if None in (found["low"], found["high"]) or found["low"] <= 0 <= found["high"]
                           else "better" if found["low"] > 0 else "worse")
                saved = ", bits per byte saved" if task == "held_out" else ""
                rows.append([label.removesuffix(" ↓") + saved, f"{one} → {other}", f"{found['value']:+.3f}",
                             f"{low} to {high}", verdict, f"{found['detectable']:.3f}", str(found["n"])])
    return {"head": ["score", "models", "paired difference", "95 %", "", "shown with 80 % power from", "items"],
            "rows": rows, "from": [""] * len(rows)}


def gathered(answers: Answers) -> dict[str, Any]:
    """What the page's script draws: models, the items of each task with each model's answer, differences of all pairs.
    A prompt that all models share is kept once, one that a template wrapped is kept for each."""
    items: dict[str, dict[tuple[str, str], dict[str, Any]]] = {task: {} for task in tasks(answers)}
    for model, of in answers.items():
        for line in of:
            item = items[line["task"]].setdefault((line["id"], asked(line)), {
                "id": line["id"], "p": {}, "m": {}, **{key: line[key] for key in (
                    "document", "language", "choices", "target", "bytes") if key in line}})
            item["p"][model] = line.get("prompt", "")
            item["m"][model] = {short: line[key] for key, short in SHORT.items() if line.get(key) is not None}
    for of in items.values():
        for item in of.values():
            if len(set(item["p"].values())) == 1:
                item["p"] = next(iter(item["p"].values()))
    return {"models": list(answers), "tasks": {task: list(of.values()) for task, of in items.items()},
            "differences": {task: {f"{one}|{other}": found for one, other in combinations(answers, 2)
                                   if (found := compared(answers[one], answers[other], task))}
                            for task in items}}


def write(answers: Answers, environment: jinja2.Environment) -> None:
    """Write report/answers.html."""
    script = (Path(__file__).parent / "answers.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # within <script> only "<" could end the block; a lone surrogate, which no page can hold, stays escaped
    data = json.dumps(gathered(answers), ensure_ascii=True, sort_keys=True).replace("<", "\\u003c")
    page = environment.get_template("answers.html.j2").render(data=data, script=script, digest=digest)
    partial = PAGE.with_suffix(".partial")
    partial.parent.mkdir(exist_ok=True)
    partial.write_text(page, encoding="utf-8")
    partial.replace(PAGE)
