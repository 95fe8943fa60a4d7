"""The same prompt without constrained decoding: what a model makes of its tools when no grammar holds its hand.

The tools are put into the system turn as the chat template would put them, calls and results stand in the conversation
as it renders them, so the prompt has the bytes that it has with tools; what the model writes is then read, not guided.
"""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

from openai import OpenAI

from tasks.chat import CALL_END, CALL_START, START
from tasks.agents.loop import Message

CALL = re.compile(rf"{re.escape(CALL_START)}\s*(.*?)\s*(?:{re.escape(CALL_END)}|$)", re.S)


class FreeClient:
    """Looks to the loop like an OpenAI client of tool calling; asks the real one for text."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client
        self.chat = SimpleNamespace(completions=self)

    def with_options(self, **options: Any) -> FreeClient:
        """The same over a client of other options (the loop's timeout)."""
        return FreeClient(self.client.with_options(**options))

    def create(self, *, messages: list[Message], tools: list[dict[str, Any]] | None = None,
               tool_choice: str = "none", parallel_tool_calls: bool = False, **rest: Any) -> Any:
        """One turn; a whole call in the text becomes a tool call, a broken one stays text, which the loop tells."""
        offered = tools if tools and tool_choice != "none" else []
        reply = self.client.chat.completions.create(messages=as_text(messages, offered), **rest)
        turn = reply.choices[0].message
        found = CALL.search(turn.content or "") if offered else None
        if found:
            try:
                call = json.loads(found[1])
                name, arguments = call["name"], json.dumps(call["arguments"], ensure_ascii=False)
            except (ValueError, KeyError, TypeError, RecursionError):
                return reply
            if isinstance(name, str):
                turn.content = turn.content[:found.start()]
                turn.tool_calls = [SimpleNamespace(id=f"call-{len(messages)}", function=SimpleNamespace(
                    name=name, arguments=arguments))]
        return reply


def as_text(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """The conversation with its tools and calls as plain text, as the chat template renders them."""
    turns: list[Message] = []
    for message in messages:
        role, text = message["role"], message.get("content") or ""
        for call in message.get("tool_calls", []):
            function = call["function"]
            text += (f'{CALL_START}{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": '
                     f'{function["arguments"]}}}{CALL_END}')
        turns.append({key: value for key, value in message.items() if key != "tool_calls"} | {"content": text})
        if role == "system" and tools and len(turns) == 1:
            turns[0]["content"] = "\n".join(filter(None, [text, "Tools:", *map(signature, tools)]))
    return turns


def signature(tool: dict[str, Any]) -> str:
    """A tool's line as the template's macro writes it."""
    import jinja2

    from tasks.chat import TEMPLATE

    plain = re.sub(r"{%- (end)?generation -%}", "", TEMPLATE)
    rendered = jinja2.Environment().from_string(plain).render(messages=[], tools=[tool])
    return rendered.removeprefix(f"{START}system\nTools:\n").removesuffix("<|im_end|>\n")
