"""The engine's deltas as OpenAI's JSON: completions, chats, their streamed chunks, log-probabilities, tool calls."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from tasks import chat
from tasks.serve.engine.request import Delta, Request
from tasks.serve.engine.sampler import TokenLogprob
from tasks.serve.engine.text import Vocabulary, held_back


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The head that all answers and chunks of one call share."""
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def event(value: dict[str, Any] | str) -> str:
    """A server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n"


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
            offset += len(words.pieces.get(token, b"").decode(errors="ignore"))
        logprobs = {"tokens": names, "token_logprobs": [entry and entry.logprob for entry in told],
                    "top_logprobs": [entry and legacy_top(entry, words) for entry in told], "text_offset": offsets}
    return {"index": index, "text": (echo or "") + delta.text, "logprobs": logprobs,
            "finish_reason": delta.finish}, offset


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


class CallReader:
    """Splits an assistant's text into content, passed on at once, and tool calls, read when the turn is whole."""

    def __init__(self) -> None:
        self.pending, self.calling = "", False

    def feed(self, text: str) -> str:
        """Content that is certain to be no call."""
        self.pending += text
        if self.calling:
            return ""
        at = self.pending.find(chat.CALL_START)
        self.calling = at >= 0
        cut = at if self.calling else len(self.pending) - held_back(self.pending, (chat.CALL_START,))
        content, self.pending = self.pending[:cut], self.pending[cut:]
        return content

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """(content still held back, calls). A call cut off by the token limit is content."""
        parsed = list(chat.calls(self.pending))
        if not parsed or None in parsed:
            return self.pending, []
        return "", [{"id": f"call_{secrets.token_hex(12)}", "type": "function",
                     "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}
                    for name, arguments in parsed]


def chat_choice(index: int, request: Request, delta: Delta, words: Vocabulary, tools: bool) -> dict[str, Any]:
    """A choice of /v1/chat/completions."""
    content, calls = delta.text, []
    if tools:
        reader = CallReader()
        content = reader.feed(delta.text)
        rest, calls = reader.finish()
        content += rest
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None,
                               "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "logprobs": chat_logprobs(request, delta, words),
            "finish_reason": "tool_calls" if calls else delta.finish}


def chat_chunks(index: int, request: Request, delta: Delta, words: Vocabulary,
                reader: CallReader | None) -> list[dict[str, Any]]:
    """The streamed choices of one delta; the turn's calls come whole, in its last ones."""
    content, calls = (reader.feed(delta.text) if reader else delta.text), []
    if reader and delta.finish:
        rest, calls = reader.finish()
        content += rest
    chunks = []
    if content or delta.logprobs:
        chunks.append({"index": index, "delta": {"content": content}, "finish_reason": None,
                       "logprobs": chat_logprobs(request, delta, words)})
    if calls:
        chunks.append({"index": index, "delta": {"tool_calls": [{"index": i} | call for i, call in enumerate(calls)]},
                       "finish_reason": None, "logprobs": None})
    if delta.finish:
        chunks.append({"index": index, "delta": {}, "finish_reason": "tool_calls" if calls else delta.finish,
                       "logprobs": None})
    return chunks
