"""Conversations to learn from, made deterministically from the corpus and from the exercises' training split.

Six kinds, mixed: facts of the documents asked back, the same facts looked up through `search`, closed-grammar tool
calls (call, result, an answer that copies the result), arithmetic through the calculator, recall of a value among
keyed ones, and calls of functions that only their signature explains (functions.py). Behind them drills: bare
questions and their calls, a third as long, which training takes first, so that copying arguments is learned before
reading signatures (a curriculum: Bengio et al. 2009). Facts and arguments that evaluation asks are left out
(Fact.held_out, split="train").
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import exercises
from tasks.data import documents
from tasks.data.facts import Fact, facts
from tasks.finetune import functions
from tasks.finetune.settings import ConversationsParams
from tasks.stage import StageError

Message = dict[str, Any]
DRILL = "drill"
STATES = ("open", "shut", "new", "old", "hot", "cold", "full", "empty", "clean", "broken", "heavy", "light", "round",
          "sharp", "small", "quiet", "wet", "safe", "lost", "cheap")


@dataclass(frozen=True)
class Conversation:
    """OpenAI messages and the schemas of the tools offered (empty where none are); `kind` says which maker made it."""

    kind: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


def conversations(corpus: Path, amounts: ConversationsParams, seed: int) -> list[Conversation]:
    """All conversations, kinds mixed, in an order fixed by `seed`; the drills behind all others.

    Raises StageError where the closed world of the exercises holds fewer than asked.
    """
    known = corpus_facts(corpus, seed) if amounts.facts or amounts.lookups else []
    draw = random.Random(f"conversations {seed}")
    try:
        asked = exercises.tool_calls(amounts.calls, "train", seed)
        sums = exercises.arithmetic(amounts.arithmetic, "train", seed)
    except ValueError as error:
        raise StageError(f"sft.conversations: {error}") from None
    made = [asked_back(fact, draw) for fact, _ in known[:amounts.facts]]
    made += [looked_up(fact, source, draw) for fact, source in known[-amounts.lookups:]] if amounts.lookups else []
    made += [exercised(exercise) for exercise in [*asked, *sums]]
    made += list(recalled(amounts.recall, seed))
    draw.shuffle(made)
    mixed = [opened(conversation, draw.choice(amounts.systems)) for conversation in made]
    if amounts.functions:
        mixed += signed(amounts, seed)
        draw.shuffle(mixed)
    return mixed + [drilled(exercise) for exercise in exercises.drills(amounts.drills, seed)]


def signed(amounts: ConversationsParams, seed: int) -> Iterator[Conversation]:
    """Calls of functions, those of one signature behind one system turn."""
    draw = random.Random(f"systems {seed}")
    systems: dict[str, str] = {}
    for kind, messages, tools in functions.functions(amounts.functions, "train", seed, asked=amounts.asked):
        system = systems.setdefault(json.dumps(tools), draw.choice(amounts.systems))
        yield opened(Conversation(kind, messages, tools), system)


def corpus_facts(corpus: Path, seed: int) -> list[tuple[Fact, str]]:
    """Facts for training stated by the corpus and their documents' ids, one a question, in an order fixed by `seed`."""
    found: dict[str, tuple[Fact, str]] = {}
    for shard in documents.shards(corpus):
        for document in documents.read(shard):
            for fact in facts(document.text, document.metadata):
                if not fact.held_out:
                    found.setdefault(fact.question, (fact, document.id))
    ordered = [found[question] for question in sorted(found)]
    random.Random(f"facts {seed}").shuffle(ordered)
    return ordered


def asked_back(fact: Fact, draw: random.Random) -> Conversation:
    """A fact asked and answered; half the time beside tools that are of no use for it."""
    offered = draw.sample(exercises.CLOSED, exercises.OFFERED) if draw.random() < 0.5 else []
    turns = [{"role": "user", "content": fact.question}, {"role": "assistant", "content": fact.answer}]
    return Conversation("fact", turns, exercises.schemas(offered))


def looked_up(fact: Fact, source: str, draw: random.Random) -> Conversation:
    """A fact looked up in document `source`: the call names the subject, the answer is copied out of the result."""
    others = draw.sample([name for name in exercises.TOOLS if name != "search"], exercises.OFFERED - 1)
    turns = [{"role": "user", "content": fact.question}, call("search", {"query": fact.subject[:60]}),
             {"role": "tool", "content": f"{fact.statement} (from {source})"}, {"role": "assistant", "content": fact.answer}]
    return Conversation("lookup", turns, exercises.schemas(draw.sample(["search", *others], exercises.OFFERED)))


def exercised(exercise: exercises.Exercise) -> Conversation:
    """An exercise's question and call, and where the tool's result is known, the result and the reply."""
    turns = [{"role": "user", "content": exercise.question}, call(exercise.tool, exercise.arguments)]
    if exercise.result is not None:
        turns += [{"role": "tool", "content": exercise.result}, {"role": "assistant", "content": exercise.reply}]
    kind = "arithmetic" if exercise.family == "arithmetic" else "call"
    return Conversation(kind, turns, exercises.schemas(exercise.tools))


def drilled(exercise: exercises.Exercise) -> Conversation:
    """An exercise's question and call and nothing else."""
    return Conversation(DRILL, exercised(exercise).messages[:2])


def recalled(n: int, seed: int) -> Iterator[Conversation]:
    """`n` lists of things that are each something, one of them asked. Evaluation asks for colours: none is here."""
    draw = random.Random(f"recall {seed}")
    for _ in range(n):
        things = draw.sample(exercises.WORDS, draw.randint(2, 6))
        states = dict(zip(things, draw.sample(STATES, len(things)), strict=True))
        asked = draw.choice(things)
        stated = " ".join(f"The {thing} is {state}." for thing, state in states.items())
        yield Conversation("recall", [{"role": "user", "content": f"{stated} What is the {asked}?"},
                                      {"role": "assistant", "content": f"The {asked} is {states[asked]}."}])


def call(name: str, arguments: dict[str, Any]) -> Message:
    """An assistant's turn that calls one tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def opened(conversation: Conversation, system: str) -> Conversation:
    """The conversation behind a system turn, where there is one."""
    if not system:
        return conversation
    return Conversation(conversation.kind, [{"role": "system", "content": system}, *conversation.messages],
                        conversation.tools)
