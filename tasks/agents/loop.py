"""The agent's loop: ask the model, make the calls it asks for, show it what came of them, until it answers or a
budget ends. It speaks OpenAI tool calling to any server. It always ends, and says why.

What a tool returns is data: it is shown to the model with the template's own marks broken, so that no text from
outside can open a turn, and a tool outside the allow-list is never called, whoever asks for it. Once text from outside
has been read, a tool with effects is called only with a person's word (`approve`): what the model then wants may be
what that text told it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from openai import OpenAI, OpenAIError

from tasks.agents.tools import ARGUMENTS, Action, ActionError
from tasks.chat import CALL_END, CALL_START

CONTENT = 4_000     # characters of one model turn that are kept
CALLS = 4           # calls made of those in one turn
TOO_LONG = "(too long)"
REPEATS = 2         # the same call with the same arguments this often ends the run

Message = dict[str, Any]
Listener = Callable[[dict[str, Any]], None]     # hears each event as it happens
Approve = Callable[[str, str], bool]            # (tool, arguments) -> a person's word


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
    """What a run came to: the answer (None without one), why it ended, every event in order, tokens used.

    `saved()` at any event, read back and given to `run`, lets the task go on where it stood.
    """

    answer: str | None = None
    reason: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    messages: list[Message] = field(default_factory=list)
    listen: Listener | None = field(default=None, repr=False, compare=False)

    def log(self, event: str, **values: Any) -> None:
        """Append an event; no time stands in it, so the same run writes the same transcript."""
        self.events.append({"event": event, **values})
        if self.listen:
            self.listen(self.events[-1])

    def saved(self) -> dict[str, Any]:
        """Everything but the listener, as plain JSON data: the fields that `Run(**data)` takes."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "listen"}

    def end(self, reason: str, answer: str | None = None) -> Run:
        """Close the run with its reason."""
        self.reason, self.answer = reason, answer
        self.log("end", reason=reason, answer=answer)
        return self

    def count(self, tool: str, arguments: str) -> int:
        """How often this call has been asked for."""
        return sum(event["event"] == "call" and (event["tool"], event["arguments"]) == (tool, arguments)
                   for event in self.events)


def run(client: OpenAI, model: str, question: str, actions: Sequence[Action], strategy: Strategy, budget: Budget,
        seed: int = 0, *, state: Run | None = None, approve: Approve | None = None) -> Run:
    """Answer `question` with the tools in `actions`, the allow-list. Never raises for what a model or server does.

    `state` is a run to go on with (its question stands); its `listen` hears each event as it happens. `approve` is
    asked before a call with effects; without it such calls are made only until text from outside has been read.
    """
    state, allowed = state or Run(), {action.name: action for action in actions}
    if not state.messages:
        state.messages = strategy.opening(question)
        state.log("question", text=question)
    deadline = time.monotonic() + budget.seconds
    while not state.reason:
        step(client, model, allowed, strategy, budget, seed, state, deadline, approve)
    return state


def step(client: OpenAI, model: str, allowed: dict[str, Action], strategy: Strategy, budget: Budget, seed: int,
         state: Run, deadline: float, approve: Approve | None) -> None:
    """One turn of the model and the calls it asks for; ends the run where it answered or a budget is spent."""
    if not pending(state.messages):
        left = deadline - time.monotonic()
        spent = "time" if left <= 0 else "tokens" if state.tokens >= budget.tokens else \
            "steps" if state.steps >= budget.steps else None
        if spent:
            state.end(f"out of {spent}")
            return
        offer = {"tools": [action.schema for action in allowed.values()],
                 "tool_choice": strategy.choice(state.steps, state.steps == budget.steps - 1),
                 "parallel_tool_calls": False} if allowed else {}
        state.steps += 1
        try:
            reply = client.with_options(timeout=left).chat.completions.create(
                model=model, messages=state.messages, temperature=0, seed=seed, max_tokens=budget.turn, **offer)
            turn = reply.choices[0].message
            state.tokens += reply.usage.total_tokens if reply.usage else budget.turn
            text, calls = (turn.content or "")[:CONTENT], (turn.tool_calls or [])[:CALLS]
        except (OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
            state.end(f"the server failed: {type(error).__name__}")
            return
        if not calls and CALL_START not in text:
            state.log("answer", text=text)
            state.end("answered" if text.strip() else "empty answer", text.strip() or None)
            return
        state.messages.append({"role": "assistant", "content": text})
        if not calls:
            state.log("error", text="a tool call that is no JSON")
            state.messages.append({"role": "user",
                                   "content": "That was not a whole tool call. Call a tool, or answer."})
            return
        state.messages[-1]["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": clip(call.function.name, 64),
             "arguments": clip(call.function.arguments, ARGUMENTS, TOO_LONG)}} for call in calls]
    repeats = 0
    for call in pending(state.messages):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        state.log("call", tool=name, arguments=arguments)
        repeats = max(repeats, state.count(name, arguments))
        ok, result = perform(allowed, name, arguments) if granted(allowed, name, arguments, state, approve) \
            else (False, f"error: {name} was not allowed")
        state.log("result" if ok else "error", text=result)
        state.messages.append({"role": "tool", "tool_call_id": call["id"], "content": quote(result)})
    if repeats > REPEATS:
        state.end("going in circles")


def pending(messages: list[Message]) -> list[dict[str, Any]]:
    """The calls of the last assistant turn that have no result yet."""
    answered = 0
    for message in reversed(messages):
        if message["role"] != "tool":
            return message.get("tool_calls", [])[answered:] if message["role"] == "assistant" else []
        answered += 1
    return []


def perform(allowed: dict[str, Action], name: str, arguments: str) -> tuple[bool, str]:
    """(done, what the model is shown) of one call; a refusal or fault is a line it can act on."""
    if name not in allowed:
        return False, f"error: there is no tool {clip(name, 64)!r}; there are: {', '.join(sorted(allowed)) or 'none'}"
    if arguments == TOO_LONG:
        return False, f"error: {name}: the arguments are too long, at most {ARGUMENTS} are read"
    try:
        return True, allowed[name].call(arguments)
    except ActionError as error:
        return False, f"error: {error}"


def granted(allowed: dict[str, Action], name: str, arguments: str, state: Run, approve: Approve | None) -> bool:
    """Whether a call may be made: one with effects by a person's word, or, unasked, before outside text was read."""
    if name not in allowed or not allowed[name].effects:
        return True
    if approve:
        return approve(name, arguments)
    return not any(event["event"] == "result" and call.get("tool") in allowed and allowed[call["tool"]].outside
                   for call, event in zip(state.events, state.events[1:]))


def quote(text: str) -> str:
    """Text from outside with the template's marks broken: it can neither open a turn nor look like a call."""
    return text.replace("<|", "< |").replace(CALL_START, "< tool_call>").replace(CALL_END, "< /tool_call>")


def clip(text: str, limit: int, instead: str | None = None) -> str:
    """`text`, or `instead` (else its beginning) where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[:limit] if instead is None else instead
