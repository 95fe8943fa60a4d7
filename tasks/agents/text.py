"""ReAct (Yao et al., 2022, arXiv:2210.03629) as text, for a server or a model without tool calling.

The model writes `Action: NAME` and `Action Input: {JSON}`, reads `Observation: ...`, and ends with `Final Answer: ...`.
The translation stands around the client: the loop asks for chat completions and gets tool calls as from any server,
so budgets, the allow-list and the checks are the loop's own.
"""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

from openai import OpenAI

from tasks.agents.loop import Message

CALL = re.compile(r"Action:[ \t]*(?P<name>[\w.-]{1,64})[ \t]*\n+[ \t]*Action Input:[ \t]*(?P<arguments>\{.*\})", re.S)
STOP = ["\nObservation:"]
RULES = """To use a tool, write two lines and stop:
Action: the tool's name
Action Input: its arguments as a JSON object
You are then shown "Observation:" and the result. When you know the answer, write "Final Answer:" and the answer.
The tools:
"""


class TextClient:
    """Looks to the loop like an OpenAI client; asks the real one in the text protocol."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client
        self.chat = SimpleNamespace(completions=self)

    def with_options(self, **options: Any) -> TextClient:
        """The same protocol over a client of other options (the loop's timeout)."""
        return TextClient(self.client.with_options(**options))

    def create(self, *, messages: list[Message], tools: list[dict[str, Any]] | None = None,
               tool_choice: str = "none", parallel_tool_calls: bool = False, **rest: Any) -> Any:
        """One turn: messages and tools become text, an action in the answer becomes a tool call."""
        reply = self.client.chat.completions.create(messages=as_text(messages, tools or []), stop=STOP, **rest)
        turn = reply.choices[0].message
        text = turn.content or ""
        found = CALL.search(text) if tools and tool_choice != "none" else None
        if found:
            turn.content = text[:found.start()].strip()
            turn.tool_calls = [SimpleNamespace(id=f"call-{len(messages)}", function=SimpleNamespace(
                name=found["name"], arguments=first_object(found["arguments"])))]
        else:
            turn.content = text.rsplit("Final Answer:", 1)[-1].strip()
        return reply


def as_text(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """The conversation without a tool role: rules in the system turn, calls and results as lines."""
    told = [f"- {tool['function']['name']}: {tool['function']['description']}; arguments: "
            f"{json.dumps(tool['function']['parameters']['properties'], ensure_ascii=False)}" for tool in tools]
    rules = RULES + "\n".join(told) if tools else ""
    turns: list[Message] = []
    for message in messages:
        role, text = message["role"], message.get("content") or ""
        for call in message.get("tool_calls", []):
            function = call["function"]
            text = f"{text}\nAction: {function['name']}\nAction Input: {function['arguments']}".strip()
        if role == "system":
            text, rules = f"{text}\n{rules}".strip(), ""
        elif role == "tool":
            role, text = "user", f"Observation: {text}"
        if turns and turns[-1]["role"] == role == "user":     # templates want the roles to alternate
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return [{"role": "system", "content": rules}, *turns] if rules else turns


def first_object(text: str) -> str:
    """The first whole JSON object of `text`, or all of it where there is none (the loop then says what is wrong)."""
    try:
        return text[:json.JSONDecoder().raw_decode(text)[1]]
    except ValueError:
        return text
