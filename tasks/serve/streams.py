"""Answers as server-sent events, at little cost a token: what all chunks of an answer share is encoded once, and
everything that has arrived is sent in one write."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from json.encoder import encode_basestring as quoted
from typing import Any

from starlette.responses import Response

from tasks.serve import answers
from tasks.serve.engine.request import Delta
from tasks.serve.engine.text import Vocabulary
from tasks.serve.errors import ApiError
from tasks.serve.flight import Flight
from tasks.serve.reader import Part, TurnReader
from tasks.serve.schemas import ChatBody, CompletionBody, OpenaiGeneration
from tasks.serve.service import usage

DONE = "data: [DONE]\n\n"


def event(value: dict[str, Any], name: str | None = None) -> str:
    """A server-sent event, with its name where the API has names."""
    data = f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
    return data if name is None else f"event: {name}\n{data}"


class EventStream(Response):
    """Sends the texts of `events`; a client that hangs up cancels the flight."""

    media_type = "text/event-stream"

    def __init__(self, flight: Flight, events: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache"} | headers)
        del self.headers["content-length"]
        self.flight, self.events = flight, events

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.ensure_future(hung_up(receive))
        gone.add_done_callback(lambda _: self.flight.cancel())
        try:
            async for text in self.events:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self.flight.cancel()


async def hung_up(receive: Any) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def openai_events(flight: Flight, body: OpenaiGeneration, head: dict[str, Any],
                        chunks: Callable[[int, Delta], str], opening: str = "") -> AsyncIterator[str]:
    """`opening`, a flight's chunks as `chunks(index, delta)` writes them, the usage if wanted, the end mark."""
    generated = 0
    if opening:
        yield opening
    try:
        async with contextlib.aclosing(flight.batches()) as batches:
            async for batch in batches:
                texts = []
                for index, delta in batch:
                    generated += len(delta.tokens)
                    texts.append(chunks(index, delta))
                yield "".join(texts)
    except ApiError as error:
        yield event(error.body())
        return
    if with_usage(body):
        yield event(head | {"choices": [], "usage": usage(flight, generated)})
    yield DONE


def with_usage(body: OpenaiGeneration) -> bool:
    """Whether the stream ends with the usage."""
    return body.stream_options is not None and body.stream_options.include_usage


class Frame:
    """The text around a choice in a chunk: `data: {head, "choices": [` ... `]}`."""

    def __init__(self, head: dict[str, Any], body: OpenaiGeneration) -> None:
        null = ', "usage": null' if with_usage(body) else ""
        self.before, self.after = f'data: {json.dumps(head, ensure_ascii=False)[:-1]}, "choices": [', f"]{null}}}\n\n"

    def of(self, choice: dict[str, Any]) -> str:
        """The chunk of a choice."""
        return f"{self.before}{json.dumps(choice, ensure_ascii=False)}{self.after}"


class CompletionChunks:
    """The chunks of a streamed completion; a prompt's log-probabilities wait until the echo opens the answer."""

    def __init__(self, flight: Flight, body: CompletionBody, head: dict[str, Any], words: Vocabulary) -> None:
        self.requests, self.words, self.frame = flight.requests, words, Frame(head, body)
        self.echoes = [answers.echoed(words, request.prompt) if body.echo else None for request in flight.requests]
        self.told: list[list[Any]] = [[] for _ in flight.requests]
        self.offsets = [0] * len(flight.requests)
        self.ends = f', "logprobs": null, "finish_reason": null}}{self.frame.after}'
        self.plain = [f'{self.frame.before}{{"index": {i}, "text": ' for i in range(len(flight.requests))]

    def __call__(self, index: int, delta: Delta) -> str:
        request = self.requests[index]
        if request.logprobs is None and self.echoes[index] is None and delta.finish is None:
            return f"{self.plain[index]}{quoted(delta.text)}{self.ends}" if delta.text else ""
        self.told[index] += delta.prompt_logprobs
        if not (delta.tokens or delta.finish):
            return ""
        delta.prompt_logprobs, echo, self.echoes[index] = self.told[index], self.echoes[index], None
        choice, self.offsets[index] = answers.completion_choice(index, request, delta, self.words, echo,
                                                                self.offsets[index])
        return self.frame.of(choice)


class ChatChunks:
    """The chunks of a streamed chat turn: reasoning, content, calls with their arguments as they are made."""

    def __init__(self, flight: Flight, body: ChatBody, head: dict[str, Any], words: Vocabulary, tools: bool) -> None:
        self.requests, self.words, self.frame = flight.requests, words, Frame(head, body)
        self.readers = [TurnReader(tools, flight.thinking) for _ in flight.requests]
        self.ends = f'}}, "finish_reason": null, "logprobs": null}}{self.frame.after}'
        self.plain = [f'{self.frame.before}{{"index": {i}, "delta": {{"content": ' for i in range(len(flight.requests))]
        self.opening = "".join(self.chunk(i, {"role": "assistant", "content": ""}) for i in range(len(self.plain)))

    def chunk(self, index: int, delta: dict[str, Any], finish: str | None = None,
              logprobs: dict[str, Any] | None = None) -> str:
        return self.frame.of({"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs})

    def __call__(self, index: int, delta: Delta) -> str:
        reader, request = self.readers[index], self.requests[index]
        if delta.finish is None and request.logprobs is None and reader.passing:
            return f"{self.plain[index]}{quoted(delta.text)}{self.ends}" if delta.text else ""
        parts = reader.feed(delta.text) + (reader.finish() if delta.finish else [])
        texts = []
        if request.logprobs is not None and delta.logprobs:
            content = "".join(part.text for part in parts if part.kind == "content")
            parts = [part for part in parts if part.kind != "content"]
            texts.append(self.chunk(index, {"content": content}, logprobs=answers.chat_logprobs(request, delta,
                                                                                               self.words)))
        texts += [self.chunk(index, self.spoken(part)) for part in parts]
        if delta.finish:
            called = reader.calls and delta.finish == "stop"
            texts.append(self.chunk(index, {}, "tool_calls" if called else delta.finish))
        return "".join(texts)

    def spoken(self, part: Part) -> dict[str, Any]:
        """The `delta` of a part."""
        if part.kind == "call":
            return {"tool_calls": [{"index": part.index, "id": answers.identity("call_"), "type": "function",
                                    "function": {"name": part.text, "arguments": ""}}]}
        if part.kind == "arguments":
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
        return {"reasoning_content" if part.kind == "reasoning" else "content": part.text}
