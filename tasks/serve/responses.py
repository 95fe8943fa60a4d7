"""OpenAI's Responses API: /v1/responses, whole and streamed, with function tools and reasoning items."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import ValidationError

from tasks.serve import answers, documents
from tasks.serve.errors import ApiError
from tasks.serve.flight import Flight
from tasks.serve.openai_api import answered, headers, reply
from tasks.serve.reader import Part, TurnReader
from tasks.serve.registry import Registry, Target
from tasks.serve.responses_schema import ResponseBody
from tasks.serve.streams import EventStream, event

KINDS = {"reasoning": ("rs_", "reasoning_text", "response.reasoning_text"),
         "content": ("msg_", "output_text", "response.output_text")}


def routes(app: FastAPI, registry: Registry) -> None:
    """Add the endpoint to `app`."""

    @app.post("/v1/responses", **documents.told(documents.ResponseObject, *documents.GENERATING, streamed=True))
    async def create(body: ResponseBody, http: HttpRequest) -> Response:
        target = registry.find(body.model)
        try:
            turn = body.turn()
        except ValidationError:
            raise ApiError(400, "input: the arguments of a function_call must be a JSON object as text",
                           param="input") from None
        flight = await target.service.chat(turn, body, target.adapter)
        output = Output(bool(turn.offered), flight.thinking)
        head = described(body, target)
        if body.stream:
            return EventStream(flight, streamed(flight, output, head), headers(target))
        (said,) = await answered(flight, http)
        for _ in output.feed(said.text, said.finish):
            pass
        return reply(target, finished(head, flight, output, len(said.tokens), said.finish))


def described(body: ResponseBody, target: Target) -> dict[str, Any]:
    """The response object before anything has been said."""
    asked = body.model_dump(by_alias=True)
    text = body.text.format.model_dump(by_alias=True, exclude_none=True) if body.text and body.text.format else None
    return {"id": answers.identity("resp_"), "object": "response", "created_at": int(time.time()),
            "status": "in_progress", "background": False, "error": None, "incomplete_details": None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "model": target.name,
            "output": [], "parallel_tool_calls": bool(body.parallel_tool_calls), "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None}, "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": text or {"type": "text"}}, "tool_choice": asked["tool_choice"] or "auto",
            "tools": asked["tools"] or [], "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled", "usage": None, "user": body.user, "metadata": body.metadata or {}}


def finished(head: dict[str, Any], flight: Flight, output: Output, generated: int,
             finish: str | None) -> dict[str, Any]:
    """The response object at the end."""
    prompt = len(flight.requests[0].prompt)
    cut = finish == "length"
    return head | {
        "status": "incomplete" if cut else "completed", "output": output.items,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": generated,
                  "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + generated}}


async def streamed(flight: Flight, output: Output, head: dict[str, Any]) -> AsyncIterator[str]:
    """The events of a response, each with its number."""
    count = generated = 0

    def told(events: Iterable[dict[str, Any]]) -> str:
        nonlocal count
        texts = []
        for told_event in events:
            texts.append(event(told_event | {"sequence_number": count}, told_event["type"]))
            count += 1
        return "".join(texts)

    yield told({"type": f"response.{state}", "response": head} for state in ("created", "in_progress"))
    finish = None
    try:
        async with contextlib.aclosing(flight.batches()) as batches:
            async for batch in batches:
                texts = []
                for _, delta in batch:
                    generated += len(delta.tokens)
                    finish = delta.finish
                    texts.append(told(output.feed(delta.text, finish)))
                yield "".join(texts)
    except ApiError as error:
        yield told([{"type": "response.failed", "response": head | {
            "status": "failed", "error": {"code": "server_error", "message": error.message}}}])
        return
    whole = finished(head, flight, output, generated, finish)
    yield told([{"type": f"response.{whole['status']}", "response": whole}])


class Output:
    """The items of a response as they grow, and the events that tell of it."""

    def __init__(self, tools: bool, thinking: bool) -> None:
        self.reader = TurnReader(tools, thinking)
        self.items: list[dict[str, Any]] = []
        self.kind: str | None = None  # of the item that is open, the last one

    def feed(self, text: str, finish: str | None) -> list[dict[str, Any]]:
        """The events that `text` brings, and at the end those that close what is open."""
        parts = self.reader.feed(text) + (self.reader.finish() if finish else [])
        events = [told for part in parts for told in self.add(part)]
        if finish:
            if not self.items:
                events += self.open("content")
            events += self.close("incomplete" if finish == "length" else "completed")
        return events

    def add(self, part: Part) -> list[dict[str, Any]]:
        """The events of a part."""
        events = []
        if part.kind == "arguments":
            item = self.items[-1]
            item["arguments"] += part.text
            return [self.at("response.function_call_arguments.delta", delta=part.text)]
        if part.kind == "call" or part.kind != self.kind:
            events += self.close("completed") + self.open(part.kind, part.text)
        if part.kind != "call":
            self.items[-1]["content"][0]["text"] += part.text
            logprobs = {"logprobs": []} if part.kind == "content" else {}
            events.append(self.at(f"{KINDS[part.kind][2]}.delta", content_index=0, delta=part.text, **logprobs))
        return events

    def at(self, kind: str, **more: Any) -> dict[str, Any]:
        """An event about the open item."""
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **more}

    def open(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        """Begin an item."""
        self.kind = kind
        if kind == "call":
            item: dict[str, Any] = {"id": answers.identity("fc_"), "type": "function_call",
                                    "call_id": answers.identity("call_"), "name": name, "arguments": ""}
        else:
            prefix, text, _ = KINDS[kind]
            item = {"id": answers.identity(prefix), "content": [text_part(text)]}
            item |= {"type": "message", "role": "assistant"} if kind == "content" else {"type": "reasoning",
                                                                                       "summary": []}
        self.items.append(item | {"status": "in_progress"})
        shown = self.items[-1] | ({} if kind == "call" else {"content": []})
        events = [{"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": shown}]
        if kind != "call":
            events.append(self.at("response.content_part.added", content_index=0, part=text_part(KINDS[kind][1])))
        return events

    def close(self, status: str) -> list[dict[str, Any]]:
        """End the open item."""
        if self.kind is None:
            return []
        item = self.items[-1]
        item["status"] = status
        if self.kind == "call":
            events = [self.at("response.function_call_arguments.done", arguments=item["arguments"],
                              name=item["name"])]
        else:
            (part,) = item["content"]
            logprobs = {"logprobs": []} if self.kind == "content" else {}
            events = [self.at(f"{KINDS[self.kind][2]}.done", content_index=0, text=part["text"], **logprobs),
                      self.at("response.content_part.done", content_index=0, part=dict(part))]
        self.kind = None
        return [*events, {"type": "response.output_item.done", "output_index": len(self.items) - 1,
                          "item": dict(item)}]


def text_part(kind: str) -> dict[str, Any]:
    """An empty piece of text of an item."""
    return {"type": kind, "text": ""} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})
