"""OpenAI's endpoints: completions, chats, embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from tasks.serve import answers, documents
from tasks.serve.engine.request import Delta
from tasks.serve.errors import ApiError
from tasks.serve.flight import Flight
from tasks.serve.registry import Registry, Target
from tasks.serve.schemas import ChatBody, CompletionBody, EmbeddingBody
from tasks.serve.service import usage
from tasks.serve.streams import ChatChunks, CompletionChunks, EventStream, hung_up, openai_events
from tasks.serve.turn import chat_turn


def routes(app: FastAPI, registry: Registry) -> None:
    """Add the endpoints to `app`."""

    @app.post("/v1/completions", **documents.told(documents.Completion, *documents.GENERATING, streamed=True))
    async def completions(body: CompletionBody, http: HttpRequest) -> Response:
        target = registry.find(body.model)
        words = target.service.vocabulary
        flight = await target.service.complete(body, target.adapter)
        head = answers.envelope("text_completion", "cmpl", target.name)
        if body.stream:
            return EventStream(flight, openai_events(flight, body, head, CompletionChunks(flight, body, head, words)),
                               headers(target))
        whole = await answered(flight, http)
        choices = [answers.completion_choice(i, request, delta, words,
                                             answers.echoed(words, request.prompt) if body.echo else None)[0]
                   for i, (request, delta) in enumerate(zip(flight.requests, whole))]
        return reply(target, head | {"choices": choices, "usage": usage(flight, generated(whole))})

    @app.post("/v1/chat/completions",
              **documents.told(documents.ChatCompletion, *documents.GENERATING, streamed=True))
    async def chat(body: ChatBody, http: HttpRequest) -> Response:
        target = registry.find(body.model)
        words, turn = target.service.vocabulary, chat_turn(body)
        flight = await target.service.chat(turn, body, target.adapter)
        tools = bool(turn.offered)
        if body.stream:
            head = answers.envelope("chat.completion.chunk", "chatcmpl", target.name)
            chunks = ChatChunks(flight, body, head, words, tools)
            return EventStream(flight, openai_events(flight, body, head, chunks, chunks.opening), headers(target))
        whole = await answered(flight, http)
        choices = [answers.chat_choice(i, request, delta, words, tools, flight.thinking)
                   for i, (request, delta) in enumerate(zip(flight.requests, whole))]
        return reply(target, answers.envelope("chat.completion", "chatcmpl", target.name)
                     | {"choices": choices, "usage": usage(flight, generated(whole))})

    @app.post("/v1/embeddings", **documents.told(documents.Embeddings, *documents.GENERATING))
    async def embeddings(body: EmbeddingBody, http: HttpRequest) -> Response:
        target = registry.find(body.model)
        flight = await target.service.embed(body, target.adapter)
        vectors = [shortened(delta.embedding, body.dimensions) for delta in await answered(flight, http)]
        data = [{"object": "embedding", "index": i, "embedding": base64.b64encode(vector.tobytes()).decode()
                 if body.encoding_format == "base64" else vector.tolist()} for i, vector in enumerate(vectors)]
        count = sum(len(request.prompt) for request in flight.requests)
        return reply(target, {"object": "list", "data": data, "model": target.name,
                              "usage": {"prompt_tokens": count, "total_tokens": count}})


def shortened(vector: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first `dimensions` components of a vector float32 [hidden size], scaled to length 1. Raises 400."""
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise ApiError(400, f"dimensions: this model's vectors have {len(vector)}", param="dimensions")
    part = vector[:dimensions]
    return part / max(float(np.linalg.norm(part)), float(np.finfo(np.float32).tiny))


async def answered(flight: Flight, http: HttpRequest) -> list[Delta]:
    """The whole answers of a flight, which is cancelled when the client hangs up first."""
    gone = asyncio.ensure_future(hung_up(http.receive))
    gone.add_done_callback(lambda _: flight.cancel())
    try:
        return await flight.whole()
    finally:
        gone.cancel()


def generated(whole: list[Delta]) -> int:
    """How many tokens were generated in all."""
    return sum(len(delta.tokens) for delta in whole)


def headers(target: Target) -> dict[str, str]:
    """What every answer of a model carries."""
    return {"X-Model-Digest": target.digest}


def reply(target: Target, value: dict[str, Any]) -> JSONResponse:
    """A whole answer of a model."""
    return JSONResponse(value, headers=headers(target))
