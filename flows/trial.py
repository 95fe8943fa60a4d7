"""Asks a served model the items of a task set, over HTTP at temperature 0, with tools or without, and scores it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

from flows.taskset import Item, TaskSet
from tasks import params, progress
from tasks.agents import loop
from tasks.agents.actions import python, units
from tasks.agents.actions.calculator import calculator
from tasks.agents.react import Plain, ReAct
from tasks.sandbox import Sandbox
from tasks.agents.tools import Action
from tasks.serve import client

SLOTS = 8        # questions asked at once
BUDGET = loop.Budget(steps=3, tokens=20_000, seconds=300, turn=96)


class TrialError(RuntimeError):
    """A model could not be asked; one line."""


@dataclass(frozen=True)
class Outcome:
    """Of one item: whether it passed, what was said, and the conversation."""

    passed: bool
    answer: str
    messages: list[dict[str, Any]]


def ask(model: Path, given: TaskSet, items: Sequence[Item], tools: bool, what: str) -> list[Outcome]:
    """The outcome of each of `items` on `model`, served on loopback for as long. Raises TrialError."""
    try:
        with ExitStack() as held:
            actions = allowed(given, held) if tools else []
            url = held.enter_context(client.running(model, threads=params.runtime().threads, slots=SLOTS))
            server = OpenAI(base_url=url, api_key="none", max_retries=2, timeout=600)
            pool = held.enter_context(ThreadPoolExecutor(SLOTS))
            jobs = pool.map(lambda item: one(server, given, item, tools, actions), items)
            return list(progress.track(jobs, total=len(items), what=what, unit="item"))
    except (client.ServerError, OpenAIError) as error:
        raise TrialError(f"{model} cannot be asked: {' '.join(str(error).split())[:300]}") from None


def allowed(given: TaskSet, held: ExitStack) -> list[Action]:
    """The actions that a task set names."""
    makers = {"calculator": lambda: Action.of(calculator), "convert": lambda: Action.of(units.convert),
              "python": lambda: Action.of(python.action(held.enter_context(Sandbox())))}
    return [makers[name]() for name in given.tools if isinstance(name, str)]


def one(server: OpenAI, given: TaskSet, item: Item, tools: bool, actions: list[Action]) -> Outcome:
    """One item: a single turn that may call for metric call, else a run of the agent's loop."""
    if given.metric == "call":
        opening = [{"role": "system", "content": given.system}] if given.system else []
        messages = [*opening, {"role": "user", "content": item.question}]
        offer = {"tools": given.tools, "tool_choice": "required", "parallel_tool_calls": False} if tools else {}
        turn = server.chat.completions.create(model="default", messages=messages, temperature=0, seed=0,
                                              max_tokens=BUDGET.turn, **offer).choices[0].message
        calls = [(call.function.name, call.function.arguments) for call in turn.tool_calls or []]
        said = f"{calls[0][0]}({calls[0][1]})" if calls else turn.content or ""
        return Outcome(given.passes(item, turn.content, calls), said, messages)
    how = ReAct(given.system or "Answer the question with a tool.", False, "required") if actions else opened(given)
    run = loop.run(server, "default", item.question, actions, how, BUDGET)
    if run.reason.startswith(("the server", "out of time")):
        raise TrialError(f"{item.question[:60]!r} got no answer: {run.reason}; run again on a machine less busy")
    messages = [*run.messages, {"role": "assistant", "content": run.answer or ""}]
    return Outcome(given.passes(item, run.answer, []), run.answer or "", messages)


@dataclass(frozen=True)
class Bare:
    """The strategy of a task set without a system turn."""

    def opening(self, question: str) -> list[dict[str, Any]]:
        """The question alone."""
        return [{"role": "user", "content": question}]

    def choice(self, step: int, last: bool) -> str:
        """Never a call."""
        return "none"


def opened(given: TaskSet) -> loop.Strategy:
    """How a question without tools begins."""
    return Plain(given.system) if given.system else Bare()
