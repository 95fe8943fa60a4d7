"""Answers as training reads them: one jsonl, the items in the order of their ids.

quality and safety, for the classifiers:
    {"text", "label", "id", "language", "annotators": [NAME, ...], "adjudicated": true | false}
preference, for preference training (trl's conversational form; `tools` is JSON text, there where tools were offered):
    {"prompt": [{"role", "content"}, ...], "chosen": [{"role": "assistant", "content"}], "rejected": [...],
     "id", "annotators", "adjudicated"}

An item's label is its adjudication, else what more than half of its annotators said. Items that were only skipped,
that are disputed and not adjudicated, and pairs called a tie are left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.data.annotate import store
from tasks.data.annotate.items import Item
from tasks.data.annotate.labels import PREFERENCE, Task
from tasks.data.annotate.store import Answer

Answers = Mapping[str, Mapping[str, Answer]]  # annotator -> item -> answer


def export(task: Task, items: list[Item], answers: Answers,
           adjudicated: Mapping[str, Answer]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """(rows, counts): what is exported, and how many items were `exported`, `disputed`, `tie` or `unanswered`."""
    made, counts = [], Counter({"exported": 0, "disputed": 0, "tie": 0, "unanswered": 0})
    for item in sorted(items, key=lambda item: item["id"]):
        said = {name: found[item["id"]].label for name, found in sorted(answers.items())
                if item["id"] in found and found[item["id"]].label is not None}
        decision = adjudicated.get(item["id"])
        settled = decision is not None and decision.label is not None
        if not said and not settled:
            counts["unanswered"] += 1
            continue
        label = decision.label if settled else majority(said.values())
        if label is None:
            counts["disputed"] += 1
        elif task is PREFERENCE and label == "tie":
            counts["tie"] += 1
        else:
            counts["exported"] += 1
            made.append(row(task, item, label) | {"id": item["id"], "annotators": list(said), "adjudicated": settled})
    return made, counts


def majority(said: Any) -> str | None:
    """The label that more than half gave, or None."""
    (label, times), = Counter(said).most_common(1)
    return label if 2 * times > len(said) else None


def row(task: Task, item: Item, label: str) -> dict[str, Any]:
    """The part of a row that training reads."""
    if task is not PREFERENCE:
        return {"text": item["text"], "label": label, "language": item["metadata"].get("language")}
    better, worse = (item["left"], item["right"]) if label == "left" else (item["right"], item["left"])
    tools = {"tools": json.dumps(item["tools"], ensure_ascii=False)} if item.get("tools") else {}
    return {"prompt": item["prompt"], "chosen": [{"role": "assistant", "content": better}],
            "rejected": [{"role": "assistant", "content": worse}]} | tools


def lines(rows: list[dict[str, Any]]) -> str:
    """Rows as jsonl."""
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows to `path`, whole or not at all."""
    store.write_whole(path, lines(rows))
