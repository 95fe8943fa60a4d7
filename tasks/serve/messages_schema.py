"""The bodies of /v1/messages and its token count (Anthropic's Messages API), and the chat turn that they ask for."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.serve.schemas import Body, Function, Generation, Name, Stop
from tasks.serve.turn import Turn


class CacheControl(Body):
    """Accepted; the engine reuses every common beginning by itself."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[list[Any], Field(max_length=0)] | None = None


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: Name
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class MessageTurn(Body):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Field(min_length=1)]

    @model_validator(mode="after")
    def whole(self) -> Self:
        kinds = {block.type for block in self.content} if isinstance(self.content, list) else set()
        if "tool_result" in kinds and self.role != "user":
            raise ValueError("tool_result belongs in a user's message")
        if kinds & {"tool_use", "thinking"} and self.role != "assistant":
            raise ValueError("tool_use and thinking belong in an assistant's message")
        return self

    def rendered(self) -> list[dict[str, Any]]:
        """The messages that the chat template takes in its place: results of tools, then what is said."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        results = [{"role": "tool", "content": joined(block.content)} for block in self.content
                   if isinstance(block, ToolResultBlock)]
        texts = [block.text for block in self.content if isinstance(block, TextBlock)]
        calls = [{"type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input,
                                                                                               ensure_ascii=False)}}
                 for block in self.content if isinstance(block, ToolUseBlock)]
        thinking = [block.thinking for block in self.content if isinstance(block, ThinkingBlock)]
        if not (texts or calls or thinking):
            return results
        said: dict[str, Any] = {"role": self.role, "content": "".join(texts)}
        if calls:
            said["tool_calls"] = calls
        if thinking:
            said["reasoning_content"] = "".join(thinking)
        return [*results, said]


class MessageTool(Body):
    name: Name
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: CacheControl | None = None

    @model_validator(mode="after")
    def readable(self) -> Self:
        """Raise where the schema is none of an object."""
        Function.an_object(self.input_schema)
        return self

    @property
    def function(self) -> Function:
        return Function(name=self.name, description=self.description, parameters=self.input_schema)


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("type tool and the field name go together")
        return self


class Thinking(Body):
    """Accepted; how much a model reasons is its own."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: str | None = None


class Conversation(Body):
    """What an answer and a token count share."""

    model: str
    messages: Annotated[list[MessageTurn], Field(min_length=1, max_length=1024)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[MessageTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

    @model_validator(mode="after")
    def named(self) -> Self:
        names = [tool.name for tool in self.tools or ()]
        if len(set(names)) != len(names):
            raise ValueError("tools must have different names")
        if self.tool_choice is not None and self.tool_choice.type in ("any", "tool") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if self.tool_choice is not None and self.tool_choice.name not in (None, *names):
            raise ValueError(f"tool_choice names {self.tool_choice.name!r}, which is not among the tools")
        return self

    def turn(self, limit: int | None = None) -> Turn:
        """The chat turn that is asked for."""
        said = [message for turn in self.messages for message in turn.rendered()]
        if self.system:
            said.insert(0, {"role": "system", "content": joined(self.system)})
        wanted = self.tool_choice or ToolChoice(type="auto")
        choice = wanted.name or {"any": "required"}.get(wanted.type, wanted.type)
        # parallel use is the API's default; here it is what the client asks for in so many words
        return Turn(said, limit, tuple(tool.function for tool in self.tools or ()), choice,
                    wanted.disable_parallel_tool_use is False)


class MessageBody(Conversation, Generation):
    max_tokens: int = Field(ge=1, lt=2 ** 31)
    temperature: float | None = Field(None, ge=0, le=1)
    stop_sequences: Annotated[list[Stop], Field(max_length=8)] | None = None
    metadata: dict[str, str | None] | None = None
    service_tier: str | None = None
    cache_control: CacheControl | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop_sequences or ())


def joined(content: str | list[TextBlock]) -> str:
    """The text of a content, whole."""
    return content if isinstance(content, str) else "".join(block.text for block in content)
