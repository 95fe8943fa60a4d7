"""Rewards that a program can verify: is the call a call, of the right tool, with the right arguments, the number right?

Three kinds of outputs. A call earns FORMAT when the whole output is one call of an offered tool whose arguments fit its
schema, TOOL more when the tool is the right one, and RIGHT times the share of its arguments that are right. A call of
the calculator is judged by what its expression comes to, not by its text. An answer after a tool's result earns FORMAT
when it is a short closed turn of plain text, and the rest when it says the result. Right but in the wrong form earns
nothing beyond the form's parts: a server reads the form first.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tasks import chat, exercises
from tasks.exercises import Exercise

FORMAT, TOOL, RIGHT = 0.2, 0.2, 0.6
LONGEST = 400  # characters of an answer or a call; every right one is a third of it
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w])")
EXPRESSION = re.compile(exercises.TOOLS["calculator"]["function"]["parameters"]["properties"]["expression"]["pattern"])


@dataclass(frozen=True)
class Verdict:
    """What was verified: the form, the tool (for an answer: the result), the share of what should stand in it."""

    valid: bool
    tool: bool
    share: float

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return self.valid and self.tool and self.share == 1

    @property
    def reward(self) -> float:
        """0 to 1."""
        return FORMAT * self.valid + TOOL * self.tool + RIGHT * self.share


NOTHING = Verdict(False, False, 0.0)


def call(text: str, exercise: Exercise) -> Verdict:
    """Judge an output that should be one call. `text`: all of it, `<|im_end|>` included."""
    found = whole_call(text)
    if found is None or found[0] not in exercise.tools or not schema(found[0]).is_valid(found[1]):
        return NOTHING
    name, arguments = found
    if name != exercise.tool:
        return Verdict(True, False, 0.0)
    if name == "calculator":
        return Verdict(True, True, float(value_of(arguments["expression"]) == Fraction(exercise.answer)))
    right = sum(arguments.get(key) == value for key, value in exercise.arguments.items())
    return Verdict(True, True, right / len(exercise.arguments))


def answer(text: str, exercise: Exercise) -> Verdict:
    """Judge the turn after a tool's result. A number must be the last one said, other results must stand in it."""
    body = text.removesuffix(chat.END)
    if body == text or not body.strip() or len(body) > LONGEST or "<" in body or "{" in body:
        return NOTHING
    if exercise.answer.isdigit():
        numbers = NUMBER.findall(body)
        said = bool(numbers) and numbers[-1].replace(",", "") == exercise.answer
    else:
        said = exercise.answer in body
    return Verdict(True, said, float(said))


def whole_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """(name, arguments) where `text` is one call, exactly as it is rendered, and the turn's end; else None."""
    if not text.endswith(chat.CALL_END + chat.END) or len(text) > LONGEST:
        return None
    found = list(chat.calls(text.removesuffix(chat.END)))
    if len(found) != 1 or found[0] is None:
        return None
    # anything beside it, another spacing or a name said twice would not come back
    return found[0] if chat.call_text(*found[0]) + chat.END == text else None


def value_of(expression: str) -> Fraction | None:
    """What an expression of the calculator's schema comes to; None where it is none or divides by zero."""
    if not EXPRESSION.fullmatch(expression):
        return None
    first, *rest = expression.split(" ")
    terms = [Fraction(first)]
    for operator, number in zip(rest[::2], rest[1::2]):
        if operator in "+-":
            terms.append(Fraction(number if operator == "+" else f"-{number}"))
        elif operator == "/" and not int(number):
            return None
        else:
            terms[-1] = terms[-1] * int(number) if operator == "*" else terms[-1] / int(number)
    return sum(terms, Fraction(0))


@functools.cache
def schema(tool: str) -> Any:
    """The validator of a tool's arguments."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(exercises.TOOLS[tool]["function"]["parameters"])
