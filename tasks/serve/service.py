"""A model being served: HTTP bodies become engine requests, under its limits."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from tasks.serve import heap, optional, relevance
from tasks.serve.copied import Copied
from tasks.serve.digest import digest
from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.engine import Busy
from tasks.serve.engine.grammar import GrammarError, Stepwise, form_grammar
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.start import Options, start
from tasks.serve.engine.text import Vocabulary
from tasks.serve.errors import ApiError
from tasks.serve.flight import Flight, HandOver
from tasks.serve.metrics import Exposition, Metrics
from tasks.serve.reader import THINK_START
from tasks.serve.schemas import CompletionBody, EmbeddingBody, Generation
from tasks.serve.template import ChatTemplate
from tasks.serve.turn import Turn

QUEUE_FOR_EACH_SLOT = 16  # requests that may wait for each that runs, before clients are told to come back
SHORT = 8192              # characters that are encoded faster than a thread is woken
PROBE, PROBE_TOKENS, PROBE_SECONDS = "Say hello.", 4, 60

T = TypeVar("T")


class Service:
    """The engine over one model directory, and the names and limits the endpoints need.

    `users` counts calls that are being prepared or answered; once `retire`d, the engine closes when there are none.
    """

    def __init__(self, name: str, directory: Path, *, threads: int, slots: int, adapters: dict[str, Path] | None = None,
                 exposition: Exposition | None = None, options: Options = Options()) -> None:
        self.name, self.directory = name, directory.resolve()
        files = backends.read_files(self.directory)
        self.digest = digest(self.directory)
        self.vocabulary, self.template = Vocabulary(self.directory), ChatTemplate(self.directory)
        self.longest = max(map(len, self.vocabulary.pieces.values()))
        self.engine = start(files, self.vocabulary, Metrics(name, exposition), options, threads=threads, slots=slots,
                            queue=slots * QUEUE_FOR_EACH_SLOT)
        self.context, self.size = self.engine.backend.context, self.engine.backend.vocabulary
        self.adapters: dict[str, str] = {}  # name -> digest
        try:
            for adapter, place in (adapters or {}).items():
                self.engine.add_adapter(adapter, place)
                self.adapters[adapter] = digest(place)
        except ModelError:
            self.engine.close()
            raise
        heap.give_back()
        self.users, self.retired = 0, False
        self.hand_over: HandOver | None = None

    def release(self) -> None:
        """A call has been answered."""
        self.users -= 1
        if self.retired and not self.users:
            threading.Thread(target=self.engine.close, name="retire").start()

    def retire(self) -> None:
        """Take the model out of service: its engine closes when the last call is answered."""
        self.users += 1
        self.retired = True
        self.release()

    async def probe(self) -> None:
        """Have the engine answer once. Raises ModelError where it does not, or with numbers that are none."""
        turn = Turn([{"role": "user", "content": PROBE}], PROBE_TOKENS, logprobs=0)
        try:
            flight = await self.chat(turn, Generation(temperature=0))
            (answer,) = await asyncio.wait_for(flight.whole(), PROBE_SECONDS)
        except ApiError as error:
            raise ModelError(f"{self.directory}: the probe was refused: {error.message}") from None
        except TimeoutError:
            raise ModelError(f"{self.directory}: no answer to the probe within {PROBE_SECONDS} s") from None
        if not answer.tokens or not all(math.isfinite(entry.logprob) for entry in answer.logprobs):
            raise ModelError(f"{self.directory}: the probe was answered by {answer.tokens} with log-probabilities "
                             f"that are not finite")

    def room(self, prompt: list[int], wanted: int | None, field: str) -> int:
        """How many tokens may be generated after `prompt`: `wanted`, or what the context leaves. Raises 400."""
        if not prompt:
            raise ApiError(400, f"{field}: the prompt has no token", param=field)
        if max(prompt) >= self.size:
            raise ApiError(400, f"{field}: a token id is outside the vocabulary of {self.size}", param=field)
        left = self.context - len(prompt)
        if left < (1 if wanted is None else wanted):
            raise ApiError(400, f"{field}: {len(prompt)} tokens and {wanted or 1} to generate exceed the context of "
                                f"{self.context} tokens", param=field, code="context_length_exceeded")
        return left if wanted is None else wanted

    def encode(self, text: str, field: str, *, special: bool) -> list[int]:
        """Token ids of a client's text; 400 where it is not Unicode, or certainly longer than the context."""
        if len(text) > self.context * self.longest:
            raise ApiError(400, f"{field}: {len(text)} characters exceed the context of {self.context} tokens",
                           param=field, code="context_length_exceeded")
        try:
            return self.vocabulary.encode(text, special=special)
        except (UnicodeEncodeError, TypeError):
            raise ApiError(400, f"{field}: the text holds half a surrogate pair: not Unicode", param=field) from None

    def encode_all(self, prompts: list[str | list[int]], field: str) -> list[list[int]]:
        """Token ids of each prompt, text or ids."""
        return [self.encode(prompt, field, special=True) if isinstance(prompt, str) else list(prompt)
                for prompt in prompts]

    def prompt(self, turn: Turn) -> str:
        """The rendered chat; 400 where the template refuses it."""
        try:
            return self.template.render(turn.messages, [tool.rendered() for tool in turn.offered] or None)
        except (jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
            field = turn.names["messages"]
            raise ApiError(400, f"{field}: the chat template refuses this: {error}", param=field) from None

    def encode_turn(self, turn: Turn) -> tuple[list[int], bool]:
        """Token ids of the rendered chat, and whether its end opens the reasoning."""
        text = self.prompt(turn)
        return self.encode(text, turn.names["messages"], special=False), text.rstrip().endswith(THINK_START)

    async def complete(self, body: CompletionBody, adapter: str | None = None) -> Flight:
        """Send a completion's prompts to the engine, each `n` times."""
        prompts = body.prompts
        self.check_count(len(prompts) * (body.n or 1), "prompt")
        with Call(self) as call:
            tokens = await offload(sum(map(len, prompts)) < SHORT, self.encode_all, prompts, "prompt")
            wanted = 16 if body.max_tokens is None else body.max_tokens
            limits = [self.room(prompt, wanted, "prompt") for prompt in tokens]
            if wanted == 0 and not body.echo:
                raise ApiError(400, "max_tokens: 0 asks for nothing without echo", param="max_tokens")
            grammar = await self.form(body.form)
            return call.depart([request for prompt, limit in zip(tokens, limits) for request in self.copies(
                body, prompt, limit, grammar, body.logprobs, bool(body.echo) and body.logprobs is not None, adapter)])

    async def chat(self, turn: Turn, body: Generation, adapter: str | None = None) -> Flight:
        """Send a chat turn to the engine, its grammar included."""
        if turn.relevance is not None and turn.messages[-1]["role"] == "user":
            turn = await self.chosen(turn, adapter)
        with Call(self) as call:
            tokens, thinking = await offload(turn.small, self.encode_turn, turn)
            limit = self.room(tokens, turn.limit, turn.names["messages"])
            grammar = await offload(turn.small, turn.grammar)
            if grammar is not None:
                await self.compile(*grammar)
            flight = call.depart(self.copies(body, tokens, limit, grammar and grammar[1], turn.logprobs, False,
                                             adapter))
            flight.thinking = thinking
        if turn.sparing and len(flight.requests) == 1 and flight.requests[0].sampling.temperature == 0:
            await self.spare(flight, turn, adapter)
        return flight

    async def spare(self, flight: Flight, turn: Turn, adapter: str | None) -> None:
        """Have a call read without the optional arguments that it is likelier without (optional.py)."""
        (answer,) = await flight.whole()
        tools = {tool.name: tool.parameters for tool in turn.offered}
        grammar = Copied(tools, turn.said, required=True, several=False)
        encode = functools.partial(self.vocabulary.encode, special=False)
        forms = await asyncio.to_thread(optional.forms, answer.text, tools, turn.said,
                                        functools.partial(self.engine.grammars.matcher, grammar), encode)
        at, written = 0, [encode(form) for form in forms]
        if forms[1:]:
            prompt = flight.requests[0].prompt
            with Call(self) as call:
                read = await call.depart([Request((*prompt, *tokens), 0, logprobs=0, prompt_logprobs=True,
                                                  **adapted(adapter)) for tokens in written]).whole()
            at = optional.likeliest([[entry.logprob for entry in delta.prompt_logprobs[len(prompt) - 1:]]
                                     for delta in read])
        if forms[at] != answer.text:
            answer.text, answer.tokens = forms[at], written[at]
        flight.replay([answer])

    async def chosen(self, turn: Turn, adapter: str | None) -> Turn:
        """The turn with its tool chosen by what it gains (relevance.py), or none; all stay for parallel calls."""
        gains = await self.gains(turn, adapter)
        stated = [not turn.copied or relevance.stated(tool.parameters, turn.said) for tool in turn.tools]
        at = relevance.best(gains, stated)
        if turn.choice == "auto" and not (stated[at] and gains[at] >= turn.relevance):
            return dataclasses.replace(turn, choice="none")
        return dataclasses.replace(turn, choice="required", tools=turn.tools if turn.parallel else (turn.tools[at],))

    async def gains(self, turn: Turn, adapter: str | None) -> list[float]:
        """Nats by which each tool alone makes the turn's last message likelier."""
        place, requests, heads = turn.names["messages"], [], []
        for tools in [*((tool,) for tool in turn.tools), ()]:
            text = await offload(turn.small, self.prompt, dataclasses.replace(turn, tools=tools))
            try:
                before, question = relevance.parted(text, turn.messages[-1]["content"])
            except ValueError:
                raise ApiError(400, "relevance: this chat template changes the message whose likelihood decides",
                               param="relevance") from None
            encode = functools.partial(self.encode, field=place, special=False)
            head, tokens = await offload(turn.small, encode, before), await offload(turn.small, encode, question)
            self.room(head + tokens, 0, place)
            heads.append(max(len(head), 1))
            requests.append(Request((*head, *tokens), 0, logprobs=0, prompt_logprobs=True, **adapted(adapter)))
        self.check_count(len(requests), place)
        with Call(self) as call:
            read = await call.depart(requests).whole()
        *offered, bare = ([entry.logprob for entry in delta.prompt_logprobs[head - 1:]]
                          for delta, head in zip(read, heads))
        return [relevance.gain(each, bare) for each in offered]

    async def embed(self, body: EmbeddingBody, adapter: str | None = None) -> Flight:
        """Send texts to be embedded to the engine."""
        prompts = body.prompts
        self.check_count(len(prompts), "input")
        with Call(self) as call:
            tokens = await offload(sum(map(len, prompts)) < SHORT, self.encode_all, prompts, "input")
            for prompt in tokens:
                self.room(prompt, 0, "input")
            return call.depart([Request(tuple(prompt), 0, embed=True, **adapted(adapter)) for prompt in tokens])

    def check_count(self, count: int, field: str) -> None:
        """Raise 400 for more prompts in one call than the engine ever takes."""
        most = self.engine.queue + self.engine.slots
        if count > most:
            raise ApiError(400, f"{field}: {count} prompts in one request; at most {most}", param=field)

    async def form(self, form: tuple[str, str, Any] | None) -> str | None:
        """The compiled grammar of a form; None where there is none."""
        if form is None:
            return None
        place, kind, value = form
        try:
            grammar = await asyncio.to_thread(form_grammar, kind, value)
        except (RecursionError, TypeError, ValueError) as error:
            raise ApiError(400, f"{place}: cannot be read: {' '.join(str(error).split())[:300]}",
                           param=place) from None
        await self.compile(place, grammar)
        return grammar

    async def compile(self, place: str, grammar: str | Stepwise) -> None:
        """Compile a grammar on a thread. Raises 400 for one that cannot be decoded under."""
        try:
            await asyncio.to_thread(self.engine.grammars.matcher, grammar)
        except GrammarError as error:
            raise ApiError(400, f"{place}: cannot be decoded under: {error}", param=place) from None

    def copies(self, body: Generation, prompt: list[int], limit: int, grammar: str | Stepwise | None,
               logprobs: int | None, prompt_logprobs: bool, adapter: str | None) -> list[Request]:
        """`n` requests of one prompt; copy i draws with seed + i."""
        biases, seed = getattr(body, "biases", {}), getattr(body, "seed", None)
        if biases and max(biases) >= self.size:
            raise ApiError(400, f"logit_bias: a token id is outside the vocabulary of {self.size}",
                           param="logit_bias")
        return [Request(tuple(prompt), limit, Sampling(**body.sampling, logit_bias=biases,
                                                       seed=None if seed is None else seed + copy),
                        body.stops, getattr(body, "ignore_eos", False), logprobs, prompt_logprobs, grammar,
                        **adapted(adapter))
                for copy in range(getattr(body, "n", None) or 1)]


class Call:
    """One call of a service from its first line to the flight that answers it: `with` it the model is in use."""

    def __init__(self, service: Service) -> None:
        self.service, self.departed = service, False

    def __enter__(self) -> Call:
        self.service.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        if not self.departed:
            self.service.release()

    def depart(self, requests: list[Request]) -> Flight:
        """Send requests to the engine; the flight releases the model. Raises 429 when the queue is full."""
        service, loop = self.service, asyncio.get_running_loop()
        if service.hand_over is None or service.hand_over.loop is not loop:
            service.hand_over = HandOver(loop)
        try:
            flight = Flight(service.engine, requests, service.hand_over, service.release)
        except Busy as busy:
            raise ApiError(429, "the queue is full", code="rate_limit_exceeded",
                           retry_after=busy.retry_after) from None
        self.departed = True
        return flight


def adapted(adapter: str | None) -> dict[str, str]:
    """The Request's adapter, where there is one."""
    return {} if adapter is None else {"adapter": adapter}


async def offload(small: bool, work: Callable[..., T], *given: Any) -> T:
    """`work(*given)`: here where it is small, else on a thread, so that other answers go on."""
    return work(*given) if small else await asyncio.to_thread(functools.partial(work, *given))


def usage(flight: Flight, generated: int) -> dict[str, Any]:
    """Token counts of a call; a prompt sampled `n` times counts once for each."""
    prompt = sum(len(request.prompt) for request in flight.requests)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
