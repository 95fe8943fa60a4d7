"""Pairs to prefer by: an exercise's right call against a call with one fault in it.

Four faults, in turn: a wrong argument (another valid value), a wrong tool (another one offered, with its own valid
arguments), a malformed call (its end is missing), no call at all (an answer out of thin air).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks import chat, exercises
from tasks.exercises import Exercise
from tasks.stage import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAULTS = ("argument", "tool", "malformed", "silent")
SILENT = ("I do not know.", "Done.", "The answer is {guess}.", "It is {guess}.", "OK.")


@dataclass(frozen=True)
class Pair:
    """Rendered prompt (up to where the assistant begins) and two endings, each closed by `<|im_end|>`."""

    fault: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Choice:
    """Messages, the schemas of the tools offered, and two calls to choose between; the wrong one has `fault`."""

    fault: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    right: str
    wrong: str


def choices(n: int, split: exercises.Split, seed: int, systems: list[str]) -> Iterator[Choice]:
    """`n` choices on arguments of `split`, half of them arithmetic's share of one in six, the faults in turn. Raises
    StageError where the closed world of the exercises holds fewer."""
    draw = random.Random(f"pairs {split} {seed}")
    try:
        asked = exercises.tool_calls(n - n // 6, split, seed) + exercises.arithmetic(n // 6, split, seed)
    except ValueError as error:
        raise StageError(f"preference.pairs: {error}") from None
    draw.shuffle(asked)
    for number, exercise in enumerate(asked):
        fault = FAULTS[number % len(FAULTS)]
        system = draw.choice(systems)
        opening = [{"role": "system", "content": system}] if system else []
        yield Choice(fault, [*opening, {"role": "user", "content": exercise.question}],
                     exercises.schemas(exercise.tools), chat.call_text(exercise.tool, exercise.arguments),
                     spoiled(exercise, fault, draw))


def pairs(n: int, split: exercises.Split, seed: int, systems: list[str],
          tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """`choices`, rendered by the tokenizer's chat template."""
    return [Pair(choice.fault, tokenizer.apply_chat_template(choice.messages, tools=choice.tools, tokenize=False,
                                                             add_generation_prompt=True),
                 choice.right + chat.END, choice.wrong + chat.END)
            for choice in choices(n, split, seed, systems)]


def spoiled(exercise: Exercise, fault: str, draw: random.Random) -> str:
    """The exercise's call with `fault` in it; never the right call."""
    if fault == "argument":
        name = draw.choice(sorted(exercise.arguments))
        properties = exercises.TOOLS[exercise.tool]["function"]["parameters"]["properties"]
        other = another(exercise.arguments[name], properties[name], draw)
        return chat.call_text(exercise.tool, exercise.arguments | {name: other})
    if fault == "tool":
        name = draw.choice([name for name in exercise.tools if name != exercise.tool])
        properties = exercises.TOOLS[name]["function"]["parameters"]["properties"]
        return chat.call_text(name, {key: another(None, spec, draw) for key, spec in properties.items()})
    if fault == "malformed":
        return chat.call_text(exercise.tool, exercise.arguments)[:-draw.randint(len(chat.CALL_END) + 1, 24)]
    return draw.choice(SILENT).format(guess=draw.randint(2, 999))


def another(value: Any, specification: dict[str, Any], draw: random.Random) -> Any:
    """A value of a JSON schema other than `value`. Free text is changed in one digit, or where it has none, a word."""
    if "enum" in specification:
        return draw.choice([choice for choice in specification["enum"] if choice != value])
    if specification["type"] == "integer":
        return draw.choice([n for n in range(specification["minimum"], specification["maximum"] + 1) if n != value])
    if not value:
        return draw.choice(exercises.WORDS)
    digits = [at for at, letter in enumerate(value) if letter.isdigit()]
    if digits:
        at = draw.choice(digits)
        return value[:at] + draw.choice([d for d in "123456789" if d != value[at]]) + value[at + 1:]
    return " ".join([draw.choice([word for word in exercises.WORDS if word not in value]), *value.split()[1:]])
