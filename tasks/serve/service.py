"""A model being served: HTTP bodies become engine requests, and the engine's deltas reach the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request as HttpRequest

from tasks.serve.engine import backend as backends
from tasks.serve.engine.engine import Busy, Engine
from tasks.serve.engine.grammar import GrammarError, schema_grammar, tool_grammar
from tasks.serve.engine.request import Delta, Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.text import Vocabulary
from tasks.serve.errors import ApiError
from tasks.serve.metrics import Metrics
from tasks.serve.schemas import ChatBody, CompletionBody, Generation, NamedTool, TokenizeBody
from tasks.serve.template import ChatTemplate

QUEUE_FOR_EACH_SLOT = 16  # requests that may wait for each that runs, before clients are told to come back


class Service:
    """The engine over one model directory, and the names and limits the endpoints need."""

    def __init__(self, directory: Path, *, threads: int, slots: int, queue: int | None = None) -> None:
        files = backends.read_files(directory)
        self.vocabulary, self.template = Vocabulary(directory), ChatTemplate(directory)
        self.name = "/".join(directory.resolve().parts[-2:])
        backend = backends.load(files, threads=threads, slots=slots)
        self.context, self.size = backend.context, backend.vocabulary
        self.metrics = Metrics()
        queue = slots * QUEUE_FOR_EACH_SLOT if queue is None else queue
        self.engine = Engine(backend, self.vocabulary, files.stop_ids, slots=slots, queue=queue,
                             metrics=self.metrics)

    def check_model(self, name: str | None) -> None:
        """Raise 404 for a model that is not this one."""
        if name not in (None, "", "default", self.name):
            raise ApiError(404, f"no model {name!r} here; this server has {self.name!r}", param="model",
                           code="model_not_found")

    def room(self, prompt: list[int], wanted: int | None, field: str) -> int:
        """How many tokens may be generated after `prompt`: `wanted`, or what the context leaves. Raises 400."""
        if not prompt:
            raise ApiError(400, "the prompt has no token", param=field)
        if any(token >= self.size for token in prompt):
            raise ApiError(400, f"a token id is outside the vocabulary of {self.size}", param=field)
        left = self.context - len(prompt)
        if left < (1 if wanted is None else wanted):
            raise ApiError(400, f"the prompt's {len(prompt)} tokens and {wanted or 1} to generate exceed the context "
                                f"of {self.context} tokens", param=field, code="context_length_exceeded")
        return left if wanted is None else wanted

    def encode(self, text: str, field: str, *, special: bool) -> list[int]:
        """Token ids of a client's text; 400 where it is not Unicode."""
        try:
            return self.vocabulary.encode(text, special=special)
        except (UnicodeEncodeError, TypeError):
            raise ApiError(400, "the text holds half a surrogate pair: not Unicode", param=field) from None

    def completion_requests(self, body: CompletionBody) -> list[Request]:
        """The engine's requests of a completion: every prompt, `n` times."""
        prompts = body.prompt if isinstance(body.prompt, list) and not isinstance(body.prompt[0], int) \
            else [body.prompt]
        out = []
        for prompt in prompts:
            tokens = self.encode(prompt, "prompt", special=True) if isinstance(prompt, str) else list(prompt)
            limit = self.room(tokens, 16 if body.max_tokens is None else body.max_tokens, "prompt")
            if limit == 0 and not body.echo:
                raise ApiError(400, "max_tokens 0 asks for nothing without echo", param="max_tokens")
            out += self.copies(body, tokens, limit, None, body.logprobs,
                               bool(body.echo) and body.logprobs is not None)
        return out

    def chat_requests(self, body: ChatBody) -> list[Request]:
        """The engine's requests of a chat turn, its grammar included."""
        tokens = self.encode(self.chat_prompt(body), "messages", special=False)
        limit = self.room(tokens, body.max_completion_tokens or body.max_tokens, "messages")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return self.copies(body, tokens, limit, self.chat_grammar(body), logprobs, False)

    def chat_prompt(self, body: ChatBody | TokenizeBody) -> str:
        """The rendered chat; 400 where the template refuses it."""
        offered = body.tools if getattr(body, "tool_choice", None) != "none" else None
        tools = [{"type": "function", "function": tool.function.model_dump()} for tool in offered or []]
        try:
            return self.template.render([message.rendered() for message in body.messages or []], tools or None)
        except (jinja2.TemplateError, TypeError, RecursionError) as error:
            raise ApiError(400, f"the chat template refuses this: {error}", param="messages") from None

    def chat_grammar(self, body: ChatBody) -> str | None:
        """The grammar that tools or response_format ask for."""
        try:
            if body.tools and body.tool_choice != "none":
                schemas = {tool.function.name: tool.function.parameters for tool in body.tools}
                if isinstance(body.tool_choice, NamedTool):
                    schemas = {body.tool_choice.function.name: schemas[body.tool_choice.function.name]}
                return tool_grammar(schemas, required=body.tool_choice not in (None, "auto"),
                                    several=bool(body.parallel_tool_calls))
            form = body.response_format
            if form is None or form.type == "text":
                return None
            return schema_grammar(form.json_schema.schema_ if form.json_schema else {"type": "object"})
        except (RecursionError, TypeError, ValueError) as error:
            raise ApiError(400, f"the schema cannot be read: {error}", param=schema_field(body)) from None

    def copies(self, body: Generation, prompt: list[int], limit: int, grammar: str | None, logprobs: int | None,
               prompt_logprobs: bool) -> list[Request]:
        """`n` requests of one prompt; copy i draws with seed + i."""
        given = {key: value for key in ("temperature", "top_p", "top_k", "logit_bias", "presence_penalty",
                                        "frequency_penalty") if (value := getattr(body, key)) is not None}
        if any(not 0 <= token < self.size for token in given.get("logit_bias", ())):
            raise ApiError(400, f"a token id is outside the vocabulary of {self.size}", param="logit_bias")
        return [Request(tuple(prompt), limit,
                        Sampling(**given, seed=None if body.seed is None else body.seed + copy),
                        body.stops, body.ignore_eos, logprobs, prompt_logprobs, grammar)
                for copy in range(body.n or 1)]

    async def start(self, requests: list[Request], body: Generation) -> Flight:
        """Send requests to the engine. Raises 400 for a schema it cannot decode under, 429 when its queue is full."""
        grammar = requests[0].grammar
        if grammar is not None:
            try:
                await asyncio.to_thread(self.engine.grammars.compiled, grammar)
            except GrammarError as error:
                raise ApiError(400, f"the schema cannot be decoded under: {error}",
                               param=schema_field(body)) from None
        if len(requests) > self.engine.queue + self.engine.slots:
            raise ApiError(400, f"{len(requests)} prompts in one request; at most "
                                f"{self.engine.queue + self.engine.slots}", param="prompt")
        try:
            return Flight(self.engine, requests)
        except Busy as busy:
            raise ApiError(429, "the queue is full", code="rate_limit_exceeded",
                           retry_after=busy.retry_after) from None


def schema_field(body: Generation) -> str:
    """The field that a chat's schema came in."""
    return "tools" if getattr(body, "tools", None) else "response_format"


class Flight:
    """The engine's sequences of one HTTP request: their deltas as they come, or nothing more once cancelled."""

    def __init__(self, engine: Engine, requests: list[Request]) -> None:
        self.engine, self.open = engine, len(requests)
        self.requests = requests
        self.loop, self.arrived = asyncio.get_running_loop(), asyncio.Queue()
        self.sequences = engine.submit(requests, [functools.partial(self.hand_over, i) for i in range(len(requests))])

    def hand_over(self, index: int, delta: Delta) -> None:
        """Called on the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.arrived.put_nowait, (index, delta))

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(index of the request, delta) until all have ended; leaving early frees the engine's memory at once."""
        try:
            while self.open:
                index, delta = await self.arrived.get()
                self.open -= delta.finish is not None
                if delta.finish == "error":
                    raise ApiError(500, f"the engine failed: {delta.error}")
                if delta.finish == "abort":
                    raise ApiError(503, "the server is shutting down", retry_after=5)
                yield index, delta
        finally:
            if self.open:
                self.engine.cancel(self.sequences)

    async def whole(self, http: HttpRequest) -> list[Delta]:
        """Each request's deltas joined into one; cancelled when the client hangs up first."""
        joined = [Delta() for _ in self.requests]

        async def collect() -> None:
            async for index, delta in self.deltas():
                into = joined[index]
                into.text += delta.text
                into.tokens += delta.tokens
                into.logprobs += delta.logprobs
                into.prompt_logprobs += delta.prompt_logprobs
                into.finish = delta.finish

        work, gone = asyncio.create_task(collect()), asyncio.create_task(hung_up(http))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            raise ApiError(499, "the client closed the request")
        work.result()
        return joined


async def hung_up(http: HttpRequest) -> None:
    """Return when the client has closed its connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def usage(flight: Flight, generated: int) -> dict[str, Any]:
    """Token counts of a call; a prompt sampled `n` times counts once for each."""
    prompt = sum(len(request.prompt) for request in flight.requests)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
