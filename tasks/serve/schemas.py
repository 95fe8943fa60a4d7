"""The bodies of requests, checked field by field: what is not understood is refused, never silently ignored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Seed = Annotated[int, Field(ge=0, lt=2 ** 63)]
Token = Annotated[int, Field(ge=0, lt=2 ** 31)]
TokenText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=65536)]
Choices = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]],
                    Field(min_length=1, max_length=1024)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Body(BaseModel):
    """Closed; numbers are finite; no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class StreamOptions(Body):
    include_usage: bool = False


class JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def whole(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and the field json_schema go together")
        return self


class StructuredOutputs(Body):
    """vLLM's name for guided decoding: exactly one form."""

    json_: dict[str, Any] | Pattern | None = Field(None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def whole(self) -> StructuredOutputs:
        given = [name for name in ("json_", "regex", "choice", "grammar", "json_object")
                 if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of json, regex, choice, grammar, json_object")
        return self


class Generation(Body):
    """What all ways to generate share. `user`, `store`, `metadata` and the like are accepted and change nothing."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2 ** 31, description="not OpenAI's: 0 keeps all")
    stream: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        return ()

    @property
    def sampling(self) -> dict[str, Any]:
        """The given fields of engine.sampler.Sampling."""
        names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
                 "repetition_penalty")
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}


class OpenaiGeneration(Generation):
    """What completions and chat share."""

    max_tokens: int | None = Field(None, ge=0, lt=2 ** 31)
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's: least share of the likeliest token's chance")
    seed: Seed | None = None
    n: int | None = Field(None, ge=1, le=16)
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[dict[TokenText, Annotated[float, Field(ge=-100, le=100)]],
                          Field(max_length=1024)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="vLLM's: 1 changes nothing")
    ignore_eos: bool = Field(False, description="not OpenAI's: go on to max_tokens")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | Pattern | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def biases(self) -> dict[int, float]:
        """logit_bias by token id."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}

    @property
    def form(self) -> tuple[str, str, Any] | None:
        """(field, kind, value) of the form that the answer is bound to; kind is one of grammar.form_grammar."""
        if self.response_format is not None and self.response_format.type != "text":
            schema = self.response_format.json_schema
            return "response_format", "json", schema.schema_ if schema else {"type": "object"}
        given = self.structured_outputs
        if given is not None:
            kinds = (("json", given.json_), ("regex", given.regex), ("choice", given.choice),
                     ("grammar", given.grammar), ("json", {"type": "object"}))
            kind, value = next((kind, value) for kind, value in kinds if value is not None)
            return "structured_outputs", kind, value
        return next(((f"guided_{kind}", kind, value) for kind in ("json", "regex", "choice", "grammar")
                     if (value := getattr(self, f"guided_{kind}")) is not None), None)

    @model_validator(mode="after")
    def one_form(self) -> Self:
        """Raise where two fields bind the answer's form."""
        free = self.response_format is None or self.response_format.type == "text"
        given = [name for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice",
                                   "guided_grammar") if getattr(self, name) is not None]
        if len(given) + (not free) > 1:
            raise ValueError(f"{given[0]} excludes every other field that binds the form of the answer")
        return self


class CompletionBody(OpenaiGeneration):
    prompt: (Annotated[str, Field(min_length=1)] | Annotated[list[Token], Field(min_length=1)]
             | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
             | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)])
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]


class EmbeddingBody(Body):
    model: str | None = None
    input: (Annotated[str, Field(min_length=1)] | Annotated[list[Token], Field(min_length=1)]
            | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
            | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=2048)])
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="the first components only, scaled to length 1")
    user: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each input by itself."""
        several = isinstance(self.input, list) and not isinstance(self.input[0], int)
        return self.input if several else [self.input]


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: Name
    arguments: str

    @field_validator("arguments")
    @classmethod
    def canonical(cls, value: str) -> str:
        """Arguments in the template's own separators, whatever the client wrote them with."""
        try:
            arguments = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON object as text") from None
        if not isinstance(arguments, dict):
            raise ValueError("must be a JSON object as text")
        return json.dumps(arguments, ensure_ascii=False)


class Call(Body):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """A turn. `refusal`, `audio`, `annotations` are what clients echo back from our answers: null or empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def whole(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"content is missing in a message of role {self.role}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        return self

    def rendered(self) -> dict[str, Any]:
        """The message as the chat template takes it."""
        text = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""
        out: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.reasoning_content is not None:
            out["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            out["tool_calls"] = [{"type": "function", "function": call.function.model_dump()}
                                 for call in self.tool_calls]
        return out


class Function(Body):
    name: Name
    description: str | None = ""
    parameters: dict[str, Any] | None = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def an_object(cls, value: dict[str, Any] | None) -> dict[str, Any]:
        """A schema the template can list: type object, properties a mapping of schemas."""
        value = {"type": "object", "properties": {}} | (value or {})
        if value["type"] != "object" or not isinstance(value["properties"], dict):
            raise ValueError("must be a JSON schema of type object with a mapping of properties")
        if not all(isinstance(schema, dict) for schema in value["properties"].values()):
            raise ValueError("every property must be a JSON schema")
        return value

    def rendered(self) -> dict[str, Any]:
        """The tool as the chat template lists it."""
        return {"type": "function", "function": {"name": self.name, "description": self.description or "",
                                                 "parameters": self.parameters}}


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class ChatBody(OpenaiGeneration):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=2 ** 31)
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    copied_arguments: bool = Field(False, description="not OpenAI's: arguments of calls are what the messages say")
    relevance: float | None = Field(None, ge=-1e3, le=1e3, description="not OpenAI's: the tool that makes the user's last "
                                    "message likeliest is called; under tool_choice auto none that gains fewer nats")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def whole(self) -> ChatBody:
        if self.max_tokens == 0:
            raise ValueError("max_tokens must be at least 1 in a chat")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if self.relevance is not None and (not self.tools or self.tool_choice not in (None, "auto", "required")):
            raise ValueError("relevance chooses among tools: give tools, and tool_choice auto or required")
        if self.tools and self.form is not None:
            raise ValueError(f"{self.form[0]} and tools exclude each other")
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) != len(names):
            raise ValueError("tools must have different names")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        return self


class TokenizeBody(Body):
    """Either a prompt or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def whole(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self
