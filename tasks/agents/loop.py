"""The agent's loop: ask the model, make the calls it asks for, show it what came of them, until it answers or a
budget ends. It speaks OpenAI tool calling to any server. It always ends, and says why.

What a tool returns is data: it is shown to the model with every template's marks broken, so that no text from outside
can open a turn, and a call that policy.py refuses is never made, whoever asks for it. A tool with effects is called
only with a person's word (`approve`) once text from outside has been read: what the model then wants may be what that
text told it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from openai import OpenAI, OpenAIError

from tasks.agents import memory, policy
from tasks.agents.marks import escape, quote
from tasks.agents.tools import ARGUMENTS, Action, ActionError, Picture
from tasks.chat import CALL_START

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
    """What one run may use: model turns, tokens (prompt and completion together), wall seconds, tokens a turn, and
    tokens of the conversation that a turn is shown (memory.py; None: all of it)."""

    steps: int
    tokens: int
    seconds: float
    turn: int
    memory: int | None = None


@dataclass
class Run:
    """What a run came to: the answer (None without one), why it ended, every event in order, tokens used.

    `saved()` at any event, read back and given to `run`, lets the task go on where it stood. `plan` is what a strategy
    of several parts keeps for that. `end("stopped")` from another thread ends it before the next call.
    """

    answer: str | None = None
    reason: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    messages: list[Message] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    said: str = ""                                      # the user's own words
    outputs: list[str] = field(default_factory=list)    # text from outside and what was made of it since (policy.py)
    rate: float = memory.RATE
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
        """Close the run with its reason; the first one stands."""
        if not self.reason:
            self.reason, self.answer = reason, answer
            self.log("end", reason=reason, answer=answer)
        return self

    def count(self, tool: str, arguments: str) -> int:
        """How often this call has been asked for."""
        return sum(event["event"] == "call" and (event["tool"], event["arguments"]) == (tool, arguments)
                   for event in self.events)

    def spent(self, budget: Budget, deadline: float) -> bool:
        """Whether the time or the tokens are used up; ends the run where they are."""
        if time.monotonic() >= deadline or self.tokens >= budget.tokens:
            self.end("out of time" if time.monotonic() >= deadline else "out of tokens")
        return bool(self.reason)


def run(client: OpenAI, model: str, question: str, actions: Sequence[Action], strategy: Strategy, budget: Budget,
        seed: int = 0, *, state: Run | None = None, approve: Approve | None = None) -> Run:
    """Answer `question` with the tools in `actions`, the allow-list. Never raises for what a model or server does.

    `state` is a run to go on with (its question stands); its `listen` hears each event as it happens. `approve` is
    asked before a call with effects; without it such calls are made only until text from outside has been read.
    """
    state, allowed = state or Run(), {action.name: action for action in actions}
    if not state.messages:
        state.messages, state.said = strategy.opening(question), state.said or question
        state.log("question", text=question)
    deadline = time.monotonic() + budget.seconds
    while not state.reason:
        if not pending(state.messages) and not state.spent(budget, deadline):
            ask(client, model, allowed, strategy, budget, seed, state, deadline)
        act(allowed, state, approve)
    return state


def ask(client: OpenAI, model: str, allowed: dict[str, Action], strategy: Strategy, budget: Budget, seed: int,
        state: Run, deadline: float) -> None:
    """One turn of the model: an answer ends the run, calls wait in the messages to be made."""
    if state.steps >= budget.steps:
        state.end("out of steps")
        return
    offer = {"tools": [action.schema for action in allowed.values()],
             "tool_choice": strategy.choice(state.steps, state.steps == budget.steps - 1),
             "parallel_tool_calls": False} if allowed else {}
    messages = memory.shown(state.messages, budget.memory, state.rate)
    state.steps += 1
    try:
        reply = client.with_options(timeout=max(0.1, deadline - time.monotonic())).chat.completions.create(
            model=model, messages=messages, temperature=0, seed=seed, max_tokens=budget.turn, **offer)
        text, calls = heard(reply.choices[0].message)
        state.tokens += reply.usage.total_tokens if reply.usage else budget.turn
        if reply.usage and reply.usage.prompt_tokens:
            state.rate = max(1.0, memory.size(messages) / reply.usage.prompt_tokens)
    except (OpenAIError, AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
        state.end("out of context" if getattr(error, "code", None) == "context_length_exceeded" else
                  f"the server failed: {type(error).__name__}")
        return
    if calls or CALL_START in text:
        state.messages.append({"role": "assistant", "content": quote(text)} | ({"tool_calls": calls} if calls else {}))
    else:
        state.log("answer", text=text)
        state.end("answered" if text.strip() else "empty answer", text.strip() or None)
    if not calls and not state.reason:
        state.log("error", text="a tool call that is no JSON")
        state.messages.append({"role": "user", "content": "That was not a whole tool call. Call a tool, or answer."})


def act(allowed: dict[str, Action], state: Run, approve: Approve | None) -> None:
    """Make the calls that wait, and show the model what came of each."""
    for call in pending(state.messages):
        if state.reason:
            return
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        state.log("call", tool=name, arguments=arguments)
        done, told = make(allowed, name, arguments, state, approve)
        state.messages.append({"role": "tool", "tool_call_id": call["id"], "content": quote(told["text"])})
        state.log("result" if done else "error", **told)    # last: a run saved here does not make the call again
        if state.count(name, arguments) > REPEATS:
            state.end("going in circles")


def heard(turn: Any) -> tuple[str, list[dict[str, Any]]]:
    """(text, calls) of a model's turn, no longer than is kept, well-formed Unicode, without a template's mark."""
    calls = [{"id": whole(str(call.id), 64), "type": "function", "function": {
        "name": quote(whole(call.function.name, 64)),
        "arguments": escape(whole(call.function.arguments, ARGUMENTS, TOO_LONG))}}
        for call in (turn.tool_calls or [])[:CALLS]]
    return whole(turn.content or "", CONTENT), calls


def pending(messages: list[Message]) -> list[dict[str, Any]]:
    """The calls of the last assistant turn that have no result yet."""
    answered = 0
    for message in reversed(messages):
        if message["role"] != "tool":
            return message.get("tool_calls", [])[answered:] if message["role"] == "assistant" else []
        answered += 1
    return []


def make(allowed: dict[str, Action], name: str, arguments: str, state: Run,
         approve: Approve | None) -> tuple[bool, dict[str, str]]:
    """(done, {text: what came of it, picture: the name of a PNG file, where it drew one}) of one call: refused by the
    policy or a person, or made."""
    why = refused(allowed, name, arguments, state, approve)
    done, result = (False, f"error: {why}") if why else perform(allowed, name, arguments)
    text = whole(result, len(result))
    if not why and name in allowed and (allowed[name].outside or state.outputs):
        state.outputs.append(text)
    return done, {"text": text} | ({"picture": result.path.name} if isinstance(result, Picture) else {})


def perform(allowed: dict[str, Action], name: str, arguments: str) -> tuple[bool, str]:
    """(done, what the model is shown) of one call; a fault is a line it can act on, whatever the tool raises."""
    if name not in allowed:
        return False, f"error: there is no tool {name[:64]!r}; there are: {', '.join(sorted(allowed)) or 'none'}"
    if arguments == TOO_LONG:
        return False, f"error: {name}: the arguments are too long, at most {ARGUMENTS} are read"
    try:
        return True, allowed[name].call(arguments)
    except ActionError as error:
        return False, f"error: {error}"
    except Exception as error:   # a tool that breaks is told to the model, and does not take the run with it
        return False, f"error: {name} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def refused(allowed: dict[str, Action], name: str, arguments: str, state: Run, approve: Approve | None) -> str | None:
    """Why a call is not made: the policy's reason, or a person's no. One with effects needs a person's word, or that
    no text from outside has been read. A tool that is not there is left to `perform`, which names those that are."""
    if name not in allowed:
        return None
    action = allowed[name]
    why = policy.refusal(policy.Call(name, arguments, action.scope), frozenset(allowed), state.outputs, state.said)
    if why or not action.effects:
        return why
    if approve is None:
        return f"{name} was not allowed: text from outside has been read, and nobody is here to be asked" \
            if state.outputs else None
    return None if approve(name, arguments) else f"{name} was not allowed"


def whole(text: str, limit: int, instead: str | None = None) -> str:
    """`text` as well-formed Unicode, or `instead` (else its beginning) where it is longer than `limit` characters."""
    if len(text) > limit:
        text = text[:limit] if instead is None else instead
    return text.encode("utf-8", errors="replace").decode()
