"""An assistant's text read while it streams: reasoning, content, and tool calls with their arguments as they come.

Reasoning is what stands between <think> and </think> at the very beginning of a turn (or up to </think>, where the
chat template itself has opened it). Calls have the form of tasks/chat.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tasks.chat import CALL_END, CALL_START
from tasks.serve.engine.text import held_back

THINK_START, THINK_END = "<think>", "</think>"
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A piece of a turn. kind: reasoning, content, call (text is the tool's name), arguments (of call `index`)."""

    kind: str
    text: str
    index: int = 0


class TurnReader:
    """Text in, parts out; what could still become a mark waits until it is known.

    tools: whether calls are looked for. thinking: whether the prompt has opened the reasoning already.
    After `finish`: `calls` counts the whole calls, and `cut` is where in the text an unfinished one begins (or None).
    """

    def __init__(self, tools: bool, thinking: bool = False) -> None:
        self.tools = tools
        self.advance = self.think if thinking else self.start
        self.pending, self.fed = "", 0
        self.calls, self.cut = 0, None
        self.parts: list[Part] = []
        self.depth = 0
        self.quoted = self.escaped = False

    @property
    def passing(self) -> bool:
        """Whether all that follows is content, so that the reader need not see it."""
        return not self.tools and not self.pending and self.advance == self.content

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` makes certain."""
        self.pending += text
        self.fed += len(text)
        self.parts = []
        while self.pending and self.advance():
            pass
        return self.parts

    def finish(self) -> list[Part]:
        """What was held back, at the end of the turn. A call whose name never came is content."""
        self.parts, state = [], self.advance
        if state == self.think:
            self.emit("reasoning", self.take(len(self.pending)))
        elif state == self.head:
            self.emit("content", CALL_START + self.take(len(self.pending)))
        elif state in (self.start, self.content):
            self.emit("content", self.take(len(self.pending)))
        elif state == self.after:
            self.calls += 1
        if state != self.arguments:
            self.cut = None
        return self.parts

    def emit(self, kind: str, text: str) -> None:
        if text:
            self.parts.append(Part(kind, text, self.calls))

    def take(self, count: int) -> str:
        """The first `count` characters of what is pending, no longer pending."""
        text, self.pending = self.pending[:count], self.pending[count:]
        return text

    def start(self) -> bool:
        """At the beginning: is it reasoning?"""
        stripped = self.pending.lstrip()
        if stripped.startswith(THINK_START):
            self.pending, self.advance = stripped[len(THINK_START):], self.think
            return True
        if THINK_START.startswith(stripped):
            return False
        self.advance = self.content
        return True

    def think(self) -> bool:
        """In the reasoning."""
        at = self.pending.find(THINK_END)
        if at < 0:
            self.emit("reasoning", self.take(len(self.pending) - held_back(self.pending, (THINK_END,))))
            return False
        self.emit("reasoning", self.take(at))
        self.take(len(THINK_END))
        self.advance = self.gap
        return True

    def gap(self) -> bool:
        """Between the reasoning and the answer: blank lines belong to neither."""
        self.pending = self.pending.lstrip("\n")
        if self.pending:
            self.advance = self.content
        return bool(self.pending)

    def content(self) -> bool:
        """In the answer's text."""
        at = self.pending.find(CALL_START) if self.tools else -1
        if at < 0:
            keep = held_back(self.pending, (CALL_START,)) if self.tools else 0
            self.emit("content", self.take(len(self.pending) - keep))
            return False
        self.emit("content", self.take(at))
        self.cut = self.fed - len(self.pending)
        self.take(len(CALL_START))
        self.advance = self.head
        return True

    def head(self) -> bool:
        """In a call, before its arguments."""
        found = HEAD.match(self.pending)
        if found is None:
            return False
        try:
            name = json.loads(found[1])
        except ValueError:
            return False
        self.take(found.end())
        self.parts.append(Part("call", name, self.calls))
        self.depth = 0
        self.quoted = self.escaped = False
        self.advance = self.arguments
        return True

    def arguments(self) -> bool:
        """In a call's arguments: a JSON object, up to the brace that closes it."""
        for at, character in enumerate(self.pending):
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped, self.quoted = character == "\\", character != '"'
            elif character == '"':
                self.quoted = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if not self.depth:
                    self.emit("arguments", self.take(at + 1))
                    self.advance = self.after
                    return True
        self.emit("arguments", self.take(len(self.pending)))
        return False

    def after(self) -> bool:
        """Between a call's arguments and its end mark."""
        at = self.pending.find(CALL_END)
        if at < 0:
            return False
        self.take(at + len(CALL_END))
        self.calls += 1
        self.cut = None
        self.advance = self.content
        return True
