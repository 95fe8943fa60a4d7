"""Anthropic's Messages API: /v1/messages, whole and streamed, with tools and thinking, and its token count."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from json.encoder import encode_basestring as quoted
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from tasks.serve import answers, documents
from tasks.serve.engine.request import Delta
from tasks.serve.errors import ApiError
from tasks.serve.flight import Flight
from tasks.serve.messages_schema import Conversation, MessageBody
from tasks.serve.openai_api import answered, headers, reply
from tasks.serve.reader import Part, TurnReader
from tasks.serve.registry import Registry
from tasks.serve.service import offload
from tasks.serve.streams import EventStream, event

DELTAS = {"content": ("text_delta", "text"), "reasoning": ("thinking_delta", "thinking"),
          "arguments": ("input_json_delta", "partial_json")}


def routes(app: FastAPI, registry: Registry) -> None:
    """Add the endpoints to `app`."""

    @app.post("/v1/messages", **documents.told(documents.MessageObject, *documents.GENERATING, streamed=True,
                                               refusal=documents.MessageRefusal))
    async def create(body: MessageBody, http: HttpRequest) -> Response:
        target = registry.find(body.model)
        turn = body.turn(body.max_tokens)
        flight = await target.service.chat(turn, body, target.adapter)
        head = {"id": answers.identity("msg_"), "type": "message", "role": "assistant", "model": target.name,
                "content": [], "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": len(flight.requests[0].prompt), "output_tokens": 0}}
        tools = bool(turn.offered)
        if body.stream:
            return EventStream(flight, streamed(flight, head, tools), headers(target))
        (delta,) = await answered(flight, http)
        said = answers.Said(delta.text, tools, flight.thinking)
        return reply(target, head | {"content": blocks(said)} | ending(flight, delta, bool(said.calls))
                     | {"usage": head["usage"] | {"output_tokens": len(delta.tokens)}})

    @app.post("/v1/messages/count_tokens", **documents.told(documents.TokenCount, 400, 401, 404, 413, 500,
                                                            refusal=documents.MessageRefusal))
    async def count(body: Conversation) -> Response:
        target = registry.find(body.model)
        tokens, _ = await offload(False, target.service.encode_turn, body.turn())
        return reply(target, {"input_tokens": len(tokens)})


def blocks(said: answers.Said) -> list[dict[str, Any]]:
    """The content of a whole answer."""
    out: list[dict[str, Any]] = []
    if said.reasoning:
        out.append({"type": "thinking", "thinking": said.reasoning, "signature": ""})
    if said.content or not said.calls:
        out.append({"type": "text", "text": said.content})
    return out + [{"type": "tool_use", "id": call["id"].replace("call_", "toolu_"), "name": call["function"]["name"],
                   "input": json.loads(call["function"]["arguments"])} for call in said.calls]


def ending(flight: Flight, delta: Delta, called: bool) -> dict[str, Any]:
    """Why an answer ended."""
    stop = flight.sequences[0].text.stop
    if delta.finish == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


async def streamed(flight: Flight, head: dict[str, Any], tools: bool) -> AsyncIterator[str]:
    """The events of an answer."""
    writer, generated, last = BlockWriter(tools, flight.thinking), 0, Delta()
    yield event({"type": "message_start", "message": head}, "message_start")
    try:
        async with contextlib.aclosing(flight.batches()) as batches:
            async for batch in batches:
                texts = []
                for _, last in batch:
                    generated += len(last.tokens)
                    texts.append(writer.feed(last))
                yield "".join(texts)
    except ApiError as error:
        yield event(error.messages_body(), "error")
        return
    yield event({"type": "message_delta", "delta": ending(flight, last, bool(writer.reader.calls)),
                 "usage": {"output_tokens": generated}}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


class BlockWriter:
    """A turn's parts as content blocks that open, grow and close."""

    def __init__(self, tools: bool, thinking: bool) -> None:
        self.reader, self.index, self.kind = TurnReader(tools, thinking), -1, None

    def feed(self, delta: Delta) -> str:
        """The events of a delta."""
        parts = self.reader.feed(delta.text) + (self.reader.finish() if delta.finish else [])
        text = "".join(map(self.written, parts))
        if delta.finish:
            text += ("" if self.index >= 0 else self.open({"type": "text", "text": ""}, "content")) + self.close()
        return text

    def written(self, part: Part) -> str:
        """The events of a part."""
        if part.kind == "call":
            return self.close() + self.open({"type": "tool_use", "id": answers.identity("toolu_"),
                                             "name": part.text, "input": {}}, "arguments")
        opening = ""
        if part.kind != self.kind:
            block = {"type": "thinking", "thinking": "", "signature": ""} if part.kind == "reasoning" else {
                "type": "text", "text": ""}
            opening = self.close() + self.open(block, part.kind)
        kind, field = DELTAS[part.kind]
        return (f'{opening}event: content_block_delta\ndata: {{"type": "content_block_delta", "index": {self.index}, '
                f'"delta": {{"type": "{kind}", "{field}": {quoted(part.text)}}}}}\n\n')

    def open(self, block: dict[str, Any], kind: str) -> str:
        """Begin a block."""
        self.index, self.kind = self.index + 1, kind
        return event({"type": "content_block_start", "index": self.index, "content_block": block},
                     "content_block_start")

    def close(self) -> str:
        """End the open block, where there is one."""
        if self.kind is None:
            return ""
        self.kind = None
        return event({"type": "content_block_stop", "index": self.index}, "content_block_stop")
