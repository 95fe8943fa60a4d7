"""A chat turn to be generated, whatever API it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.serve.copied import Copied
from tasks.serve.engine.grammar import Stepwise, form_grammar, tool_grammar
from tasks.serve.errors import ApiError
from tasks.serve.schemas import ChatBody, Function, NamedTool, TokenizeBody


@dataclass(frozen=True)
class Turn:
    """messages, as the template takes them; tools offered; `choice` none, auto, required, or the name of a tool.

    copied: arguments of calls are bounded to what the user and the tools said (narrow.py), and optional ones kept where
    the call is likelier with them (optional.py). relevance: nats by which a tool must make the user's last message
    likelier for `auto` to mean its call (relevance.py).
    form is (field, kind, value) of OpenaiGeneration.form. names: what the API calls `messages` and `tools`.
    """

    messages: list[dict[str, Any]]
    limit: int | None = None
    tools: tuple[Function, ...] = ()
    choice: str = "auto"
    parallel: bool = False
    form: tuple[str, str, Any] | None = None
    logprobs: int | None = None
    names: Mapping[str, str] = field(default_factory=lambda: {"messages": "messages", "tools": "tools"})
    copied: bool = False
    relevance: float | None = None

    @property
    def offered(self) -> tuple[Function, ...]:
        """The tools that the template lists."""
        return () if self.choice == "none" else self.tools

    @property
    def sparing(self) -> bool:
        """Whether the optional arguments of its call are weighed; not of several calls, nor where tokens are told."""
        return self.copied and bool(self.offered) and not self.parallel and self.logprobs is None

    @property
    def small(self) -> bool:
        """Whether rendering and encoding it takes less time than handing it to a thread."""
        return not (self.tools or self.form) and sum(len(message["content"]) for message in self.messages) < 8192

    @property
    def said(self) -> str:
        """What arguments are copied from: what the user and the tools said."""
        return "\n".join(message["content"] for message in self.messages if message["role"] in ("user", "tool"))

    def grammar(self) -> tuple[str, str | Stepwise] | None:
        """(field, grammar) that tools or a form ask for. Raises ApiError where they cannot be read."""
        place = self.names["tools"] if self.offered else self.form[0] if self.form else None
        try:
            if self.offered:
                schemas = {tool.name: tool.parameters for tool in self.offered}
                named = self.choice not in ("auto", "required")
                if named:
                    schemas = {self.choice: schemas[self.choice]}
                how = {"required": self.choice != "auto", "several": self.parallel}
                return place, Copied(schemas, self.said, **how) if self.copied else tool_grammar(schemas, **how)
            return (place, form_grammar(*self.form[1:])) if self.form else None
        except (RecursionError, TypeError, ValueError) as error:
            raise ApiError(400, f"{place}: the schema cannot be read: {' '.join(str(error).split())[:300]}",
                           param=place) from None


def chat_turn(body: ChatBody) -> Turn:
    """The turn that /v1/chat/completions asks for."""
    choice = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else body.tool_choice or "auto"
    return Turn([message.rendered() for message in body.messages], body.max_completion_tokens or body.max_tokens,
                tuple(tool.function for tool in body.tools or ()), choice, bool(body.parallel_tool_calls), body.form,
                (body.top_logprobs or 0) if body.logprobs else None, copied=body.copied_arguments,
                relevance=body.relevance)


def tokenize_turn(body: TokenizeBody) -> Turn:
    """The chat that /tokenize is asked about."""
    return Turn([message.rendered() for message in body.messages or ()],
                tools=tuple(tool.function for tool in body.tools or ()))
