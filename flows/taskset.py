"""A task set: the YAML in which a user says what a model should do, how it is scored, and what may be spent on it.

    name: shop                      # letters, digits, - and _; results lie in .adapt/NAME
    system: Answer the customer.    # system turn; may be empty
    metric: contains                # exact, contains, number, regex (of `expected`), call (of `call`)
    target: 0.8                     # pass rate that the held-out part must reach
    budget: {memory_gib: 4, minutes: 20}
    candidates: [scratch, models/smollm2/chat]
    tools: [calculator]             # actions of this project, or OpenAI function schemas where metric is call
    patience: 3                     # optional: held-out points without gain that end a tuning; 0: none
    training: shop.jsonl            # optional, beside this file; a line {"messages": [...], "tools": [...]} or an item
    items:
      - {question: Where is my parcel?, expected: shipping}
      - {question: Cancel order 12., call: {name: cancel, arguments: {order: 12}}}

Half of the items, by a hash of the question, is held out for the trial; the other half chooses among the candidates
and, where no training data is given, is what is learned.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from tasks import params
from tasks.data import words
from tasks.evaluate.scoring import NUMBER

ACTIONS = ("calculator", "convert", "python")
NEAR = 0.8       # share of equal words above which two questions are the same (Jaccard)
FEWEST = 8       # items: fewer tell nothing apart


class TaskSetError(ValueError):
    """A task set that cannot be used; one line with file, key and remedy."""


class Call(params.Section):
    """A tool call, as it must be made."""

    name: str = Field(min_length=1)
    arguments: dict[str, Any]


class Item(params.Section):
    """A question and what is right: an answer (text or pattern), or a call."""

    question: str = Field(min_length=1)
    expected: str | None = Field(default=None, min_length=1)
    call: Call | None = None

    @property
    def held_out(self) -> bool:
        """Whether the trial asks it; a hash of the question decides, so that an item never changes sides."""
        return hashlib.sha256(self.question.encode()).digest()[0] % 2 == 0


class Budget(params.Section):
    """What tuning may use here."""

    memory_gib: float = Field(gt=0, le=100_000, description="largest resident memory of the tuning process")
    minutes: float = Field(gt=0, le=100_000, description="predicted time of one tuning")


class TaskSet(params.Section):
    """What stands in the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")
    system: str = ""
    metric: Literal["exact", "contains", "number", "regex", "call"]
    target: float = Field(gt=0, le=1)
    budget: Budget
    candidates: list[str] = Field(min_length=1)
    tools: list[str | dict[str, Any]] = []
    training: str | None = None
    patience: int = Field(default=0, ge=0, description="of sft.training: held-out points without gain that end tuning")
    items: list[Item] = Field(min_length=FEWEST)

    @field_validator("target", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value

    @model_validator(mode="after")
    def _agree(self) -> TaskSet:
        seen: set[str] = set()
        for number, item in enumerate(self.items, 1):
            lacking = "call" if self.metric == "call" else "expected"
            if getattr(item, lacking) is None:
                raise ValueError(f"item {number} ({item.question[:40]!r}) has no `{lacking}`, which metric "
                                 f"{self.metric} compares with")
            if folded(item.question) in seen:
                raise ValueError(f"item {number} ({item.question[:40]!r}) asks what an earlier one asks")
            seen.add(folded(item.question))
            if self.metric == "regex":
                try:
                    re.compile(item.expected or "")
                except re.error as error:
                    raise ValueError(f"item {number}: {item.expected!r} is no pattern ({error})") from None
        for tool in self.tools:
            if isinstance(tool, str) and tool not in ACTIONS:
                raise ValueError(f"no action {tool!r}: there are {', '.join(ACTIONS)}")
            if isinstance(tool, dict) and not ("parameters" in tool.get("function", {})
                                               and "name" in tool["function"]):
                raise ValueError("a tool of your own is {type: function, function: {name, description, parameters}}"
                                 f", not {str(tool)[:60]}")
        if self.metric == "call":
            known = {tool["function"]["name"] for tool in self.tools if isinstance(tool, dict)}
            for number, item in enumerate(self.items, 1):
                if item.call and item.call.name not in known:
                    raise ValueError(f"item {number} calls {item.call.name!r}, which is not among `tools`")
        elif any(isinstance(tool, dict) for tool in self.tools):
            raise ValueError("tools of your own cannot be run here: they go with metric call; name actions otherwise")
        if not self.part(True) or not self.part(False):
            raise ValueError("all items fall on one side of the split: give more")
        return self

    def part(self, held_out: bool) -> list[Item]:
        """The items of the trial, or those that choose."""
        return [item for item in self.items if item.held_out == held_out]

    def passes(self, item: Item, answer: str | None, calls: list[tuple[str, str]]) -> bool:
        """Whether an answer, or for metric call the first of `calls` (name, arguments as JSON), is right."""
        if self.metric == "call":
            try:
                return bool(calls) and item.call == Call(name=calls[0][0], arguments=json.loads(calls[0][1]))
            except (ValueError, ValidationError):
                return False
        said, wanted = " ".join((answer or "").split()), item.expected or ""
        if self.metric == "exact":
            return said.strip(" .").casefold() == wanted.strip(" .").casefold()
        if self.metric == "contains":
            return re.search(rf"(?<!\w){re.escape(wanted.casefold())}(?!\w)", said.casefold()) is not None
        if self.metric == "number":
            return wanted in {number.replace(",", "").rstrip(".") for number in NUMBER.findall(said)}
        return re.search(wanted, said) is not None


def read(file: Path) -> TaskSet:
    """The task set in `file`. Raises TaskSetError in one line."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=params.LOADER)
    except UnicodeDecodeError as error:
        raise TaskSetError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise TaskSetError(f"{file} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise TaskSetError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise TaskSetError(f"{file} must be a mapping (name, metric, target, ...), not {type(values).__name__}")
    try:
        return TaskSet.model_validate(values)
    except ValidationError as error:
        raise TaskSetError(f"{file}: {explained(error)}") from None


def explained(error: ValidationError) -> str:
    """The first fault in one line, with its key."""
    return params.explain(error, "").replace("; .", "; ").removeprefix(".").split("; ")[0] \
        if error.errors()[0]["loc"] else error.errors()[0]["msg"].removeprefix("Value error, ")


def training(file: Path, given: TaskSet) -> list[dict[str, Any]]:
    """What is learned: the conversations of `training`, or those that the choosing half makes.

    Raises TaskSetError: unreadable, a broken line, or a question of the trial among them, exactly or nearly.
    """
    if given.training is None:
        return [conversation(given, item) for item in given.part(False)]
    path = file.parent / given.training
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise TaskSetError(f"training: {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise TaskSetError(f"training: {path} cannot be read: {error.strerror}") from None
    made = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            if "messages" not in values:
                made.append(conversation(given, answered(given, values)))
                continue
            messages = values["messages"]
            if not messages or any(m["role"] not in ("system", "user", "assistant", "tool") for m in messages):
                raise ValueError("a role is not system, user, assistant or tool")
            if not any(m["role"] == "assistant" for m in messages):
                raise ValueError("no assistant's turn: nothing to learn")
            made.append({"messages": messages, "tools": values.get("tools") or []})
        except ValidationError as error:
            raise TaskSetError(f"training: {path}:{number} is neither a conversation nor an item: {explained(error)}"
                               ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TaskSetError(f"training: {path}:{number} is no conversation ({type(error).__name__}: {error})"
                               ) from None
    if not made:
        raise TaskSetError(f"training: {path} is empty: give conversations, or leave `training` out")
    if found := contaminated(made, given.part(True)):
        line, item, alike = found
        raise TaskSetError(f"training: {path}:{line} asks {'what' if alike == 1 else 'nearly what'} the trial asks "
                           f"({item.question[:80]!r}, {alike:.0%} of the words): take it out of one of them")
    return made


def contaminated(conversations: list[dict[str, Any]], items: list[Item]) -> tuple[int, Item, float] | None:
    """(line, item, likeness) of the first user's turn that is like a question of `items`: equal words, or NEAR of
    them; numbers count as words, so `order 12` and `order 13` of a long question are near."""
    asked = [(item, set(words.normal_words(item.question)), folded(item.question)) for item in items]
    for number, conversation_ in enumerate(conversations, 1):
        for message in conversation_["messages"]:
            if message["role"] != "user" or not isinstance(message.get("content"), str):
                continue
            own, whole = set(words.normal_words(message["content"])), folded(message["content"])
            for item, theirs, text in asked:
                alike = 1.0 if text == whole else len(own & theirs) / max(1, len(own | theirs))
                differing = {word for word in own ^ theirs if any(c.isdigit() for c in word)}
                if alike == 1.0 or (alike >= NEAR and not differing):
                    return number, item, alike
    return None


def folded(text: str) -> str:
    """`text` without case, spacing and marks."""
    return " ".join(words.normal_words(text))


def answered(given: TaskSet, values: dict[str, Any]) -> Item:
    """An item that can be learned. Raises ValidationError, or ValueError where what the metric compares is missing."""
    item = Item.model_validate(values)
    lacking = "call" if given.metric == "call" else "expected"
    if getattr(item, lacking) is None:
        raise ValueError(f"no `{lacking}`, which metric {given.metric} compares with")
    return item


def conversation(given: TaskSet, item: Item) -> dict[str, Any]:
    """An item of the choosing half as a conversation to learn."""
    opening = [{"role": "system", "content": given.system}] if given.system else []
    turn: dict[str, Any] = {"role": "assistant", "content": item.expected or ""}
    if item.call:
        turn["tool_calls"] = [{"type": "function", "function": item.call.model_dump()}]
    return {"messages": [*opening, {"role": "user", "content": item.question}, turn],
            "tools": [tool for tool in given.tools if isinstance(tool, dict)]}
