"""What the OpenAPI document says of answers: their shapes and the refusals. Bodies are described by their schemas."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from tasks.data.trace import Span


class Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """OpenAI's error object; `param` names the field at fault."""

    error: Fault


class MessageFault(BaseModel):
    type: str
    message: str


class MessageRefusal(BaseModel):
    """Anthropic's error object; the message begins with the field at fault."""

    type: Literal["error"]
    error: MessageFault


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Card(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    digest: str
    parent: str | None


class Cards(BaseModel):
    """`trace`, `agent`: whether POST /v1/trace and /v1/agent answer here."""

    object: Literal["list"]
    data: list[Card]
    trace: bool
    agent: bool


class Health(BaseModel):
    status: str


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = []


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Swap(BaseModel):
    status: Literal["swapped", "unchanged"]
    model: str
    previous: str
    digest: str


class ResponseObject(BaseModel):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]


class MessageObject(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: dict[str, Any]


class TokenCount(BaseModel):
    input_tokens: int


class TraceObject(BaseModel):
    object: Literal["trace"]
    documents: int
    spans: list[Span]
    longest: list[int] | None


REASONS = {400: "a field is wrong", 401: "the API key is missing or wrong", 403: "not allowed here",
           404: "no such model, or no index", 405: "no such method", 409: "the new model was refused",
           413: "the body is too large", 429: "the queue is full", 500: "a fault of the server",
           503: "shutting down, not alive, or the index is gone"}
EVENT = {"type": "object", "required": ["data"],      # OpenAPI 3.1 describes each event of a stream by `schema`
         "properties": {"data": {"type": "string"}, "event": {"type": "string"}}}
GENERATING = (400, 401, 404, 413, 429, 500, 503)


def told(answer: type[BaseModel] | None, *codes: int, streamed: bool = False,
         refusal: type[BaseModel] = Refusal) -> dict[str, Any]:
    """Keyword arguments of a route: its 200 is an `answer` (or events), and it may refuse with `codes`."""
    good: dict[str, Any] = {} if answer is None else {"model": answer}
    good["description"] = "the answer, or its events where `stream` is true" if streamed else "the answer"
    if streamed:
        good["content"] = {"text/event-stream": {"schema": EVENT}}
    return {"responses": {200: good} | {code: {"model": refusal, "description": REASONS[code]} for code in codes},
            "response_model": None}
