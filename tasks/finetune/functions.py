"""Conversations that call functions never seen before: a signature, a question that holds the values, the call.

Four hundred functions (functions.yaml) in many forms: other names, parameters with and without descriptions, optional
ones that the question mentions or leaves out, values said otherwise than they are called with (values.py). Offered
alone, among others, called several times for one question, or fitting no question: then the answer says so. Every
tenth function is kept from training: `split="held_out"` asks those.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import yaml

from tasks.finetune import values
from tasks.stage import StageError

Topic = dict[str, Any]
FILE = Path(__file__).with_suffix(".yaml")
HELD_OUT = 10
KINDS = {"function": 8, "choice": 4, "parallel": 1, "unfit": 6}    # shares of a training set
OFFERED = (66, 16, 10, 8)       # how often one, two, three, four functions are offered
NEAR = 0.4                      # how often what is offered beside a function, or does not fit a question, is like it
GIVEN = 0.3                    # how often a question asks for a parameter that may be left out
UNFIT = ("None of the functions can do that.", "There is no function for this.",
         "I cannot do that with the functions I have.", "None of these functions fits the question.")
POLITE = ("Please {}", "Can you help me? {}", "{} Thanks!", "Hi, {}", "{} Please.")


@functools.cache
def topics(split: str) -> tuple[Topic, ...]:
    """The functions of a split: those of "held_out" are in no training conversation."""
    known = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(topic for at, topic in enumerate(known) if (at % HELD_OUT == HELD_OUT - 1) == (split == "held_out"))


def functions(n: int, split: str, seed: int, kinds: dict[str, int] | None = None, asked: int = 1
              ) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """`n` times (kind, messages, tools), every kind as often as its share says, in an order fixed by `seed`; `asked`
    conversations have the same tools.

    Raises StageError for a split that is none.
    """
    if split not in ("train", "held_out"):
        raise StageError(f"split is train or held_out, not {split!r}")
    draw = random.Random(f"functions {split} {seed}")
    shares, known = kinds or KINDS, topics(split)
    order = [kind for kind, share in shares.items() for _ in range(share)]
    made: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = []
    for at in range(-(-n // asked)):
        first = order[at % len(order)]
        topic = known[at % len(known)] if at % 2 else draw.choice(known)
        shown = offered(known, topic, first, draw)
        tools = [each.tool for each in shown]
        draw.shuffle(tools)
        for kind in (first, *draw.choices(order, k=asked - 1)):
            if kind in ("function", "choice"):
                kind = "function" if len(shown) == 1 else "choice"
            made.append((kind, messages(kind, shown, known, draw), tools))
    made = made[:n]
    draw.shuffle(made)
    return made


def offered(known: tuple[Topic, ...], topic: Topic, kind: str, draw: random.Random) -> list[Signature]:
    """`topic` and, where `kind` is not of one function alone, others beside it."""
    sizes = {"function": (1, 0, 0, 0), "choice": (0, *OFFERED[1:])}.get(kind, OFFERED)
    chosen = [topic]
    for _ in range(draw.choices(range(len(sizes)), sizes)[0]):
        chosen.append(another(known, chosen, draw))
    plain = draw.random() < 0.1
    return [Signature(each, draw, plain) for each in chosen]


def another(known: tuple[Topic, ...], chosen: list[Topic], draw: random.Random) -> Topic:
    """A topic that is not among `chosen`: often one that stands near the first in the file, and so is like it."""
    at, near = known.index(chosen[0]), draw.random() < NEAR
    left = [place for place in range(len(known)) if known[place] not in chosen]
    return known[draw.choice(sorted(left, key=lambda place: (abs(place - at), place))[:2] if near else left)]


def messages(kind: str, shown: list[Signature], known: tuple[Topic, ...], draw: random.Random) -> list[dict[str, Any]]:
    """A question and its answer: calls of one of the functions shown, or that none of them fits."""
    signature = draw.choice(shown)
    if kind == "unfit":
        question, _ = Signature(another(known, [each.topic for each in shown], draw), draw, False).asked(draw)
        answer: dict[str, Any] = {"role": "assistant", "content": draw.choice(UNFIT)}
    else:
        question, calls = several(signature, draw) if kind == "parallel" else signature.asked(draw)
        answer = {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": signature.name, "arguments": each}} for each in calls]}
    if draw.random() < 0.12:
        question = draw.choice(POLITE).format(question)
    return [{"role": "user", "content": question}, answer]


class Signature:
    """A topic in one of its forms; `fields` holds for each parameter how a value is drawn and how it is asked for."""

    def __init__(self, topic: Topic, draw: random.Random, plain: bool) -> None:
        self.topic = topic
        self.questions = topic["q"]
        self.name = renamed(draw.choice(topic["f"]), draw)
        self.fields: dict[str, tuple[str, str, bool]] = {}
        properties, required = {}, []
        notes: dict[str, str] = {}      # nobody writes two dates of one function in two forms
        entries = list(topic["a"].items())
        if draw.random() < 0.2:
            draw.shuffle(entries)
        for key, text in entries:
            specification, says, asks = ([part.strip() for part in text.split("|")] + [""])[:3]
            name, optional = key.rstrip("?"), key.endswith("?")
            if specification.split()[0] in ("flag", "enum"):
                asks = "{}"
            self.fields[name] = (specification, asks, optional)
            value, schema, note = form(specification, draw, plain, notes.get(specification))
            notes[specification] = note
            told = {} if plain else {"description": described(says, note, value, optional, draw)}
            properties[name] = schema | told
            properties[name]["note"] = note
            required += [] if optional else [name]
        self.properties, self.required = properties, required
        self.tool = {"type": "function", "function": {
            "name": self.name, "description": topic["d"] if draw.random() < 0.9 else topic["d"].rstrip("."),
            "parameters": {"type": "object", "required": required, "properties": {
                name: {key: part for key, part in schema.items() if key != "note"}
                for name, schema in properties.items()}}}}

    def value(self, name: str, draw: random.Random) -> tuple[Any, str]:
        """A value that fits the parameter as it is described, and its words."""
        for _ in range(400):
            value, said, schema = values.drawn(draw, self.fields[name][0])
            if schema.pop("note", "") == self.properties[name]["note"] and all(
                    self.properties[name].get(key) == part for key, part in schema.items()):
                return value, said
        raise StageError(f"functions.yaml: {self.name}: {name} draws no value of the form that it describes")

    def asked(self, draw: random.Random, question: str | None = None, fixed: dict[str, tuple[Any, str]] | None = None
              ) -> tuple[str, list[dict[str, Any]]]:
        """A question and the arguments of its call."""
        question = question or draw.choice(self.questions)
        drawn = {name: self.value(name, draw) for name in self.fields} | (fixed or {})
        inside = {name for name in self.fields if f"{{{name}}}" in question}
        extra = [name for name, (_, asks, optional) in self.fields.items()
                 if optional and asks and name not in inside and draw.random() < GIVEN]
        draw.shuffle(extra)
        phrases = [self.fields[name][1].replace("{}", drawn[name][1]) for name in extra]
        text = question.format(**{name: said for name, (_, said) in drawn.items()})
        if phrases:
            body, end = text[:-1], text[-1]
            if len(phrases) == 1 and draw.random() < 0.12:
                text = f"{phrases[0][0].upper()}{phrases[0][1:]}, {body[0].lower()}{body[1:]}{end}"
            else:
                text = body + "".join((" " if draw.random() < 0.7 else ", ") + phrase for phrase in phrases) + end
        chosen = {name: drawn[name][0] for name in self.properties if name in inside or name in extra}
        return text.replace(" ,", ","), [chosen]


def several(shown: Signature, draw: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """One question that needs two or three calls: several values in one place of it, or one question after another."""
    count = draw.choice((2, 2, 3))
    question = draw.choice(shown.questions)
    inside = [name for name in shown.fields if f"{{{name}}}" in question]
    if draw.random() < 0.5:
        varied = draw.choice(inside)
        many: dict[str, Any] = {}
        for _ in range(60):
            value, said = shown.value(varied, draw)
            if len(many) < count and value not in many.values():
                many[said] = value
        if len(many) > 1 and not any(isinstance(value, list) for value in many.values()):
            listed = ", ".join([*many][:-1]) + " and " + [*many][-1]
            text, [arguments] = shown.asked(draw, question, {varied: (None, listed)})
            return text, [arguments | {varied: value} for value in many.values()]
    asked = [shown.asked(draw) for _ in range(count)]
    links = draw.choice((" ", " Also, ", " And then: "))
    return links.join(text for text, _ in asked), [arguments for _, [arguments] in asked]


def form(specification: str, draw: random.Random, plain: bool, same: str | None) -> tuple[Any, dict[str, Any], str]:
    """A value, the schema without its note, and the note: the form that a description names, which all values of the
    parameter then have; `same` if that is given. `plain` parameters have no description and so no note."""
    for _ in range(400):
        value, _, schema = values.drawn(draw, specification)
        note = schema.pop("note", "")
        if not (plain and note) and same in (None, note):
            return value, schema, note
    raise StageError(f"functions.yaml: {specification!r} always needs a description")


def renamed(name: str, draw: random.Random) -> str:
    """The function's name, sometimes without its module or in camel case."""
    if "." in name and draw.random() < 0.2:
        name = name.replace(".", "_")
    if draw.random() < 0.08:
        head, *rest = name.split("_")
        name = head + "".join(word.capitalize() for word in rest)
    return name


def described(says: str, note: str, value: Any, optional: bool, draw: random.Random) -> str:
    """A parameter's description: what it is, its form, and what stands where it is left out."""
    text = says + note if note or draw.random() < 0.8 else says.rstrip(".")
    if not optional or "efault" in text or draw.random() < 0.3:
        return text
    default = "false" if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else f"{value}"
    return text.rstrip(".") + draw.choice((". Optional.", " (optional).", f". Default is {default}.",
                                           f". Default: {default}."))
