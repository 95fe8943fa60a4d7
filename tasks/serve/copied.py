"""The grammar of calls whose arguments are copied from the question, made anew after every argument.

What an argument has taken from the question no later one takes again (narrow.py), so the rest of a call is bounded by
its beginning. A grammar is compiled in milliseconds; llguidance then reads what was written so far once more.
"""

from __future__ import annotations

import json
from typing import Any

from tasks.chat import CALL_START
from tasks.serve.engine.grammar import tool_grammar
from tasks.serve.narrow import narrowed

State = tuple[int, str, str, str | None]


class Copied:
    """Calls of `tools` (name -> parameters schema) with arguments from `question`; see grammar.tool_grammar."""

    def __init__(self, tools: dict[str, dict[str, Any]], question: str, *, required: bool, several: bool) -> None:
        self.tools, self.question, self.required, self.several = tools, question, required, several

    def state(self, text: str) -> State | None:
        """What the grammar depends on, given the answer so far: where the last call begins, its function, the
        arguments that are whole, and the name of one begun. None where no argument is whole or begun."""
        at = text.rfind(CALL_START)
        head, mark, rest = text[at + len(CALL_START):].partition(', "arguments": {')
        if at < 0 or not mark:
            return None
        try:
            name = json.loads(head + "}")["name"]
        except (ValueError, KeyError, TypeError):
            return None
        given, current = arguments(rest)
        return (at, name, json.dumps(given), current) if (given or current) and name in self.tools else None

    def grammar(self, text: str, state: State | None) -> str:
        """The grammar of the whole answer that begins with `text`, in `state`."""
        if state is None:
            return tool_grammar({name: narrowed(each, self.question, name) for name, each in self.tools.items()},
                                required=self.required, several=self.several)
        at, name, given, current = state
        schema = narrowed(self.tools[name], self.question, name, json.loads(given), current)
        others = {each: narrowed(self.tools[each], self.question, each) for each in self.tools if self.several}
        return tool_grammar({name: schema}, required=True, several=self.several, before=text[:at], after=others)


def arguments(text: str) -> tuple[dict[str, Any], str | None]:
    """(the arguments that are whole, the name of one begun) in the beginning of an object behind its brace. A value
    is whole once a mark follows it, for a number may go on."""
    decoder, given, at = json.JSONDecoder(), {}, 0
    while True:
        try:
            name, at = decoder.raw_decode(text, at)
        except ValueError:
            return given, None
        if not isinstance(name, str) or not text.startswith(": ", at):
            return given, None
        try:
            value, at = decoder.raw_decode(text, at + 2)
        except ValueError:
            return given, name
        if text[at:at + 1] not in (",", "}"):
            return given, name
        given[name] = value
        if not text.startswith(", ", at):
            return given, None
        at += 2
