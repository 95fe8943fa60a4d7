"""The engine's deltas as OpenAI's JSON: completions, chats, their log-probabilities and tool calls."""

from __future__ import annotations

import secrets
import time
from typing import Any

from tasks.serve.engine.request import Delta, Request
from tasks.serve.engine.sampler import TokenLogprob
from tasks.serve.engine.text import Vocabulary
from tasks.serve.reader import Part, TurnReader


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The head that all answers and chunks of one call share."""
    return {"id": identity(f"{prefix}-"), "object": kind, "created": int(time.time()), "model": model}


def identity(prefix: str) -> str:
    """`prefix` and what no other answer has."""
    return f"{prefix}{secrets.token_hex(12)}"


def completion_choice(index: int, request: Request, delta: Delta, words: Vocabulary, echo: str | None,
                      offset: int = 0) -> tuple[dict[str, Any], int]:
    """A choice of /v1/completions, and the text offset after it. `echo`: the prompt's text when this delta opens an
    echoed answer; `offset`: where in the whole text its first token stands."""
    logprobs = None
    if request.logprobs is not None:
        told = ([None, *delta.prompt_logprobs] if echo is not None else []) + delta.logprobs
        tokens = [request.prompt[0] if entry is None else entry.token for entry in told]
        names = [words.name(token) for token in tokens]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += begun(words.pieces.get(token, b""))
        logprobs = {"tokens": names, "token_logprobs": [entry and entry.logprob for entry in told],
                    "top_logprobs": [entry and legacy_top(entry, words) for entry in told], "text_offset": offsets}
    return {"index": index, "text": (echo or "") + delta.text, "logprobs": logprobs,
            "finish_reason": delta.finish}, offset


def begun(piece: bytes) -> int:
    """How many characters begin in a token's bytes: of one spread over tokens, as Chinese ones are, the first counts."""
    return sum(byte & 0xC0 != 0x80 for byte in piece)


def echoed(words: Vocabulary, prompt: tuple[int, ...]) -> str:
    """A prompt's text, special tokens included."""
    return b"".join(words.pieces.get(token, b"") for token in prompt).decode(errors="replace")


def legacy_top(entry: TokenLogprob, words: Vocabulary) -> dict[str, float]:
    """The best tokens of a position, the chosen one among them."""
    return {words.name(token): value for token, value in entry.top} | {words.name(entry.token): entry.logprob}


def chat_logprobs(request: Request, delta: Delta, words: Vocabulary) -> dict[str, Any] | None:
    """`logprobs` of a chat choice."""
    if request.logprobs is None:
        return None

    def one(token: int, value: float) -> dict[str, Any]:
        return {"token": words.name(token), "logprob": value, "bytes": list(words.pieces.get(token, b""))}

    return {"content": [one(entry.token, entry.logprob)
                        | {"top_logprobs": [one(token, value) for token, value in entry.top]}
                        for entry in delta.logprobs], "refusal": None}


class Said:
    """A whole turn: its reasoning, content and calls (OpenAI's tool_calls). A call that was cut off is content."""

    def __init__(self, text: str, tools: bool, thinking: bool) -> None:
        reader = TurnReader(tools, thinking)
        parts = reader.feed(text) + reader.finish()
        self.calls = called(parts)[:reader.calls]
        self.reasoning = "".join(part.text for part in parts if part.kind == "reasoning")
        self.content = "".join(part.text for part in parts if part.kind == "content")
        if reader.cut is not None:
            self.content += text[reader.cut:]


def called(parts: list[Part]) -> list[dict[str, Any]]:
    """The tool calls among `parts`, as OpenAI's messages hold them."""
    calls: list[dict[str, Any]] = []
    for part in parts:
        if part.kind == "call":
            calls.append({"id": identity("call_"), "type": "function", "function": {"name": part.text,
                                                                                   "arguments": ""}})
        elif part.kind == "arguments":
            calls[part.index]["function"]["arguments"] += part.text
    return calls


def chat_choice(index: int, request: Request, delta: Delta, words: Vocabulary, tools: bool,
                thinking: bool) -> dict[str, Any]:
    """A choice of /v1/chat/completions. `reasoning_content` (vLLM's, DeepSeek's) is there where the model reasoned."""
    said = Said(delta.text, tools, thinking)
    message: dict[str, Any] = {"role": "assistant", "content": said.content if said.content or not said.calls else None,
                               "refusal": None}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = said.calls
    return {"index": index, "message": message, "logprobs": chat_logprobs(request, delta, words),
            "finish_reason": "tool_calls" if said.calls and delta.finish == "stop" else delta.finish}
