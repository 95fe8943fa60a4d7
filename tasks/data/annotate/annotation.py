"""One task under annotation: its frozen items, everyone's answers, the adjudications; all in `annotations/<task>/`."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.data.annotate import agreement
from tasks.data.annotate.items import Item
from tasks.data.annotate.labels import ADJUDICATED, PIPELINE, Task
from tasks.data.annotate.store import Answer, AnswerLog
from tasks.stage import StageError

NAME = re.compile(r"\w[\w-]{0,39}")
TAKEN = ("items", ADJUDICATED, PIPELINE)  # file names of ours


def folder(task: Task) -> Path:
    """Where a task's items and answers lie."""
    return Path("annotations") / task.name


def checked_name(name: str) -> str:
    """`name`, fit to be an annotator's and a file's. Raises StageError."""
    if not NAME.fullmatch(name) or name in TAKEN:
        raise StageError(f"--annotator {name!r}: up to 40 letters, digits, _ and -, and none of {', '.join(TAKEN)}")
    return name


@dataclass
class Annotation:
    """The task's state, read from disk whenever it is asked: other pages and processes write it too."""

    task: Task
    items: list[Item]
    place: Path
    seed: int
    logs: dict[str, AnswerLog] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.by_id = {item["id"]: item for item in self.items}

    def log(self, name: str) -> AnswerLog:
        """The answers of an annotator, or the adjudications."""
        with self.guard:
            if name not in self.logs:
                self.logs[name] = AnswerLog(self.place / f"{name}.jsonl", self.task.names)
            return self.logs[name]

    def annotators(self) -> list[str]:
        """Everyone who has answered here, by name."""
        return sorted(path.stem for path in self.place.glob("*.jsonl")
                      if NAME.fullmatch(path.stem) and path.stem not in TAKEN)

    def answers(self, name: str) -> dict[str, Answer]:
        """Item -> answer of `name`; the pipeline's are its suggestions. Answers to items that are no more are left
        out. Raises KeyError for a stranger."""
        if name == PIPELINE:
            return {item["id"]: Answer(item["id"], item["suggestion"]["label"]) for item in self.items}
        if name not in (ADJUDICATED, *self.annotators()):
            raise KeyError(name)
        return {item: answer for item, answer in self.log(name).answers().items() if item in self.by_id}

    def labels(self, name: str) -> dict[str, str]:
        """Item -> label of `name`, skipped items left out."""
        return {item: answer.label for item, answer in self.answers(name).items() if answer.label is not None}

    def agreement(self, first: str, second: str) -> dict[str, Any]:
        """tasks.data.annotate.agreement of two annotators, with their names and how many answers of each were given
        with the pipeline's label on show."""
        found = agreement.agreement(self.labels(first), self.labels(second), self.task.names, self.seed)
        shown = {name: sum(answer.suggested for answer in self.answers(name).values() if answer.label is not None)
                 for name in (first, second) if name != PIPELINE}
        return {"first": first, "second": second, "suggested": shown} | found

    def disagreements(self, first: str, second: str) -> list[dict[str, Any]]:
        """The items on which two annotators differ: both answers, and the adjudication where there is one."""
        one, other, settled = self.answers(first), self.answers(second), self.answers(ADJUDICATED)
        differing = agreement.disagreements(self.labels(first), self.labels(second), [i["id"] for i in self.items])
        return [{"id": item, "first": view(one[item]), "second": view(other[item]),
                 "adjudicated": view(settled[item]) if item in settled else None} for item in differing]


def view(answer: Answer) -> dict[str, Any]:
    """An answer as the page shows it."""
    return {"label": answer.label, "comment": answer.comment, "by": answer.by}
