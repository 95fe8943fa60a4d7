"""The body of /v1/responses (OpenAI's Responses API), and the chat turn that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from tasks.serve.schemas import Body, Call, CalledFunction, Function, Generation, Name
from tasks.serve.turn import Turn

NAMES = {"messages": "input", "tools": "tools"}


class Text(Body):
    """A piece of text; the other fields are what clients echo back from our answers."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class Echo(Body):
    """What a client sends back of our answers: fields that its library has added as null are dropped."""

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, value: Any) -> Any:
        return {key: part for key, part in value.items() if part is not None} if isinstance(value, dict) else value


class InputMessage(Echo):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Text]
    id: str | None = None
    status: str | None = None


class FunctionCall(Echo):
    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutput(Echo):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Text]
    id: str | None = None
    status: str | None = None


class ReasoningItem(Echo):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Text] = []
    content: list[Text] | None = None
    encrypted_content: None = None
    status: str | None = None


class FunctionTool(Body):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def function(self) -> Function:
        return Function(name=self.name, description=self.description, parameters=self.parameters)

    @model_validator(mode="after")
    def readable(self) -> Self:
        """Raise where the parameters are no schema of an object."""
        Function.an_object(self.parameters)
        return self


class ChosenTool(Body):
    type: Literal["function"]
    name: str


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("type json_schema and the field schema go together")
        return self


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    """Accepted; how much a model reasons is its own."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


def kind(item: Any) -> str:
    """Which of Item's forms an item claims to be; a message need not say so."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")


Item = Annotated[Annotated[InputMessage, Tag("message")] | Annotated[FunctionCall, Tag("function_call")]
                 | Annotated[FunctionOutput, Tag("function_call_output")]
                 | Annotated[ReasoningItem, Tag("reasoning")], Discriminator(kind)]


class ResponseBody(Generation):
    """Answers are not stored, so `previous_response_id` must be null: send the whole conversation as `input`."""

    input: Annotated[str, Field(min_length=1)] | Annotated[list[Item], Field(min_length=1, max_length=1024)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2 ** 31)
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    truncation: Literal["disabled"] | None = None
    store: bool | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        names = [tool.name for tool in self.tools or ()]
        if len(set(names)) != len(names):
            raise ValueError("tools must have different names")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.name!r}, which is not among the tools")
        if self.tools and self.form is not None:
            raise ValueError("text and tools exclude each other where text asks for a form")
        return self

    @property
    def form(self) -> tuple[str, str, Any] | None:
        """As OpenaiGeneration.form."""
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        return "text", "json", wanted.schema_ or {"type": "object"}

    def turn(self) -> Turn:
        """The chat turn that is asked for. Raises ValueError where a call's arguments are no JSON object."""
        choice = self.tool_choice.name if isinstance(self.tool_choice, ChosenTool) else self.tool_choice or "auto"
        return Turn(list(self.messages()), self.max_output_tokens, tuple(tool.function for tool in self.tools or ()),
                    choice, bool(self.parallel_tool_calls), self.form, None, NAMES)

    def messages(self) -> list[dict[str, Any]]:
        """The input as the chat template takes it; a turn's text, reasoning and calls are one message."""
        out: list[dict[str, Any]] = []
        if self.instructions:
            out.append({"role": "system", "content": self.instructions})
        items = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, FunctionOutput):
                out.append({"role": "tool", "content": joined(item.output)})
            elif isinstance(item, InputMessage) and item.role != "assistant":
                role = "system" if item.role == "developer" else item.role
                out.append({"role": role, "content": joined(item.content)})
            else:
                add_spoken(out, item)
        return out


def add_spoken(out: list[dict[str, Any]], item: InputMessage | FunctionCall | ReasoningItem) -> None:
    """Add what the assistant said to its message, which is begun where there is none."""
    if not out or out[-1]["role"] != "assistant":
        out.append({"role": "assistant", "content": ""})
    if isinstance(item, FunctionCall):
        function = CalledFunction(name=item.name, arguments=item.arguments)
        call = Call(id=item.call_id, function=function)
        out[-1].setdefault("tool_calls", []).append({"type": "function", "function": call.function.model_dump()})
    elif isinstance(item, InputMessage):
        out[-1]["content"] += joined(item.content)
    else:
        out[-1]["reasoning_content"] = joined(item.content or [])


def joined(content: str | list[Text]) -> str:
    """The text of a content, whole."""
    return content if isinstance(content, str) else "".join(part.text for part in content)
