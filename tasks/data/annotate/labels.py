"""What is asked of an annotator: the tasks, their labels, and how the pipeline's own decision reads as one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

PIPELINE = "pipeline"        # the suggestions, shown as one more annotator
ADJUDICATED = "adjudicated"  # the file of decisions on disagreements


@dataclass(frozen=True)
class Label:
    """One answer: its name in the files, and what it means; its key is its place in the task, from 1."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Task:
    """A question asked of every item. `reasons` read a reject's reason as a label: the first pattern found in it."""

    name: str
    question: str
    labels: tuple[Label, ...]
    kept: str | None = None
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in their order."""
        return tuple(label.name for label in self.labels)

    def suggested(self, reason: str | None) -> str | None:
        """The label that the pipeline's decision stands for: kept where `reason` is None; None where none fits."""
        if reason is None:
            return self.kept
        return next((label for pattern, label in self.reasons if re.search(pattern, reason)), None)


QUALITY = Task(
    "quality", "Is this text worth training on?",
    (Label("good", "fluent and informative"), Label("ads", "sells or promotes"),
     Label("thin", "little said: lists, repetition"), Label("broken", "garbled, cut, or no language")),
    kept="good",
    reasons=((r"(^|_)ads?(_|$)|advert|promot", "ads"),
             (r"encoding|alphabetic|stop_words|fluen|language|symbol|(long|short)_words|gibberish", "broken"),
             (r"too_|lines|gram|sentences|newlines|densit|placeholder|educat|repe|duplicate|bullet", "thin")),
)
SAFETY = Task(
    "safety", "Is anything in this text unfit to learn from?",
    (Label("safe", "nothing unfit"), Label("adult", "sexual content"), Label("toxic", "hate, insult, threat"),
     Label("private", "a person's data left unmasked")),
    kept="safe",
    reasons=((r"adult|porn|sex", "adult"), (r"toxic|hate|insult|abuse|violen", "toxic"),
             (r"private|pii|personal|masked", "private")),
)
PREFERENCE = Task(
    "preference", "Which answer is better?",
    (Label("left", "the left (first) one"), Label("right", "the right (second) one"), Label("tie", "neither")),
)
TASKS = {task.name: task for task in (QUALITY, SAFETY, PREFERENCE)}
