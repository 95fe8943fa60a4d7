"""The agent's loop: ask the model, make the calls it asks for, show it what came of them, until it answers or a
budget ends. It speaks OpenAI tool calling to any server. It always ends, and says why.

What a tool returns is data: it is shown to the model with the template's own marks broken, so that no text from
outside can open a turn, and a tool outside the allow-list is never called, whoever asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openai import OpenAI, OpenAIError

from tasks.agents.tools import ARGUMENTS, Action, ActionError
from tasks.chat import CALL_END, CALL_START

CONTENT = 4_000     # characters of one model turn that are kept
CALLS = 4           # calls made of those in one turn
REPEATS = 2         # the same call with the same arguments this often ends the run

Message = dict[str, Any]


class Strategy(Protocol):
    """How a run begins and what the model may do at each step (react.py is one)."""

    def opening(self, question: str) -> list[Message]:
        """The messages before the first step."""

    def choice(self, step: int, last: bool) -> str:
        """The tool_choice of a step: "auto", "required" or "none"; `last` where the budget allows no further."""


@dataclass(frozen=True)
class Budget:
    """What one run may use: model turns, tokens (prompt and completion together), wall seconds, tokens a turn."""

    steps: int
    tokens: int
    seconds: float
    turn: int


@dataclass
class Run:
    """What a run came to: the answer (None without one), why it ended, every event in order, tokens used."""

    answer: str | None = None
    reason: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0

    def log(self, event: str, **values: Any) -> None:
        """Append an event; no time stands in it, so the same run writes the same transcript."""
        self.events.append({"event": event, **values})

    def end(self, reason: str, answer: str | None = None) -> Run:
        """Close the run with its reason."""
        self.reason, self.answer = reason, answer
        self.log("end", reason=reason, answer=answer)
        return self


def run(client: OpenAI, model: str, question: str, actions: Sequence[Action], strategy: Strategy, budget: Budget,
        seed: int = 0) -> Run:
    """Answer `question` with the tools in `actions`, the allow-list. Never raises for what a model or server does."""
    state, allowed, seen = Run(), {action.name: action for action in actions}, {}
    messages, deadline = strategy.opening(question), time.monotonic() + budget.seconds
    state.log("question", text=question)
    for step in range(budget.steps):
        left = deadline - time.monotonic()
        if left <= 0:
            return state.end("out of time")
        if state.tokens >= budget.tokens:
            return state.end("out of tokens")
        offer = {"tools": [action.schema for action in actions],
                 "tool_choice": strategy.choice(step, step == budget.steps - 1),
                 "parallel_tool_calls": False} if actions else {}
        try:
            reply = client.with_options(timeout=left).chat.completions.create(
                model=model, messages=messages, temperature=0, seed=seed, max_tokens=budget.turn, **offer)
            turn = reply.choices[0].message
            state.tokens += reply.usage.total_tokens if reply.usage else budget.turn
        except (OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
            return state.end(f"the server failed: {type(error).__name__}")
        text, calls = (turn.content or "")[:CONTENT], (turn.tool_calls or [])[:CALLS]
        if not calls and CALL_START not in text:
            state.log("answer", text=text)
            return state.end("answered" if text.strip() else "empty answer", text.strip() or None)
        messages.append({"role": "assistant", "content": text})
        if not calls:
            state.log("error", text="a tool call that is no JSON")
            messages.append({"role": "user", "content": "That was not a whole tool call. Call a tool, or answer."})
            continue
        messages[-1]["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": clip(call.function.name, 64),
             "arguments": clip(call.function.arguments, ARGUMENTS, "{}")}} for call in calls]
        for call in calls:
            name, arguments = call.function.name, call.function.arguments
            seen[name, arguments] = seen.get((name, arguments), 0) + 1
            state.log("call", tool=clip(name, 64), arguments=clip(arguments, ARGUMENTS, "(too long)"))
            ok, result = perform(allowed, name, arguments)
            state.log("result" if ok else "error", text=result)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": quote(result)})
        if max(seen.values()) > REPEATS:
            return state.end("going in circles")
    return state.end("out of steps")


def perform(allowed: dict[str, Action], name: str, arguments: str) -> tuple[bool, str]:
    """(done, what the model is shown) of one call; a refusal or fault is a line it can act on."""
    if name not in allowed:
        return False, f"error: there is no tool {clip(name, 64)!r}; there are: {', '.join(sorted(allowed)) or 'none'}"
    try:
        return True, allowed[name].call(arguments)
    except ActionError as error:
        return False, f"error: {error}"


def quote(text: str) -> str:
    """Text from outside with the template's marks broken: it can neither open a turn nor look like a call."""
    return text.replace("<|", "< |").replace(CALL_START, "< tool_call>").replace(CALL_END, "< /tool_call>")


def clip(text: str, limit: int, instead: str | None = None) -> str:
    """`text`, or `instead` (else its beginning) where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[:limit] if instead is None else instead
