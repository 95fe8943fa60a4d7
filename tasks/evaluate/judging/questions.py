"""What the judge is asked about: pairs of answers whose better one is known, and open questions with a person's answer.

questions.jsonl holds {"id", "set": "calibration" | "asked", "language", "question", "answer"} a line. A calibration
pair is made from it by construction: the right answer against a garbled one, against the answer to another question,
right against wrong arithmetic; and, apart, an answer against itself said twice, which tells the taste for length.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tasks.stage import StageError

FILE = Path(__file__).with_name("questions.jsonl")
LANGUAGES = ("en", "zh")
REPEATED = "said twice"     # the kind that probes the taste for length; it is no part of kappa
SUMS = {"en": ("What is {a} + {b}?", "{a} + {b} = {c}."), "zh": ("{a} 加 {b} 等于多少？", "{a} 加 {b} 等于 {c}。")}


@dataclass(frozen=True)
class Question:
    """An open question with a person's answer."""

    id: str
    language: str
    question: str
    answer: str


@dataclass(frozen=True)
class Pair:
    """Two answers to one question. `truth`: `left` or `right` where the better one is known, None where it is not."""

    id: str
    language: str
    kind: str
    question: str
    left: str
    right: str
    truth: str | None = None

    @property
    def longer(self) -> str:
        """The side with the longer text, in characters; `tie` where they are equal."""
        if len(self.left) == len(self.right):
            return "tie"
        return "left" if len(self.left) > len(self.right) else "right"


def read(which: str, path: Path = FILE) -> list[Question]:
    """The questions of a set, in the file's order. Raises StageError naming the line that is none."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            question = Question(*(str(row[key]) for key in ("id", "language", "question", "answer")))
            if question.language not in LANGUAGES:
                raise ValueError(f"language {question.language!r} is none of {', '.join(LANGUAGES)}")
            if row["set"] == which:
                found.append(question)
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(f"{path}:{number} is no question ({type(error).__name__} {error})") from None
    return found


def garbled(text: str, rng: random.Random) -> str:
    """The characters of a text in another order."""
    characters = list(text)
    while len(set(characters)) > 1 and "".join(characters) == text:
        rng.shuffle(characters)
    return "".join(characters)


def calibration(questions: list[Question], seed: int) -> list[Pair]:
    """The known-answer pairs: of each question one of each kind, and as many sums. Sides by draw, balanced over all."""
    made = []
    for language in LANGUAGES:
        own = [question for question in questions if question.language == language]
        rng = random.Random(f"{seed} {language}")
        for at, one in enumerate(own):
            other = own[(at + 1 + rng.randrange(len(own) - 1)) % len(own)]
            a, b = rng.randint(2, 9), rng.randint(2, 9)
            asked, said = SUMS[language]
            right, wrong = (said.format(a=a, b=b, c=c) for c in (a + b, a + b + rng.choice((-3, -2, -1, 1, 2, 3))))
            made += [(one.id, language, "garbled", one.question, one.answer, garbled(one.answer, rng)),
                     (one.id, language, "off topic", one.question, one.answer, other.answer),
                     (one.id, language, "arithmetic", asked.format(a=a, b=b), right, wrong),
                     (one.id, language, REPEATED, one.question, one.answer, twice(one.answer, language))]
    pairs = []
    for number, (name, language, kind, question, good, bad) in enumerate(made):
        # four kinds a question, so halves of the number give each kind both sides
        left = (number // 4 + number) % 2 == 0
        pairs.append(Pair(f"{name} {kind}", language, kind, question, *((good, bad) if left else (bad, good)),
                          "left" if left else "right"))
    return pairs


def twice(text: str, language: str) -> str:
    """A text said two times over."""
    return text + (" " if language == "en" else "") + text
