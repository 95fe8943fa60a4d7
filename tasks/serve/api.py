"""The server: OpenAI's API over one model directory.

    python -m tasks.serve.api models/smollm2/onnx [--port 8000] [--threads 2] [--slots 8]

Address, key, threads and slots come from params.yaml's `runtime`; an option overrides. It prints one line when it is
ready. SIGTERM ends it gracefully: no new connections, running answers are finished (for DRAIN seconds at most).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from tasks import params, stage
from tasks.serve import answers
from tasks.serve.engine.backend import ModelError
from tasks.serve.engine.request import Delta
from tasks.serve.errors import ApiError
from tasks.serve.limits import Guard
from tasks.serve.schemas import ChatBody, CompletionBody, TokenizeBody
from tasks.serve.service import Flight, Service, usage

DRAIN = 30


def application(service: Service, api_key: str | None = None) -> FastAPI:
    """The ASGI application over `service`."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.engine.close()

    app = FastAPI(title="Catena", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, api_key=api_key)
    for kind, handler in ((ApiError, refused), (RequestValidationError, invalid), (HTTPException, http_error),
                          (Exception, failed)):
        app.add_exception_handler(kind, handler)

    @app.get("/health")
    def health() -> JSONResponse:
        alive = service.engine.alive()
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(service)]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return card(service)

    @app.post("/tokenize")
    def tokenize(body: TokenizeBody) -> dict[str, Any]:
        service.check_model(body.model)
        if body.messages is not None:
            tokens = service.encode(service.chat_prompt(body), "messages", special=False)
        else:
            tokens = service.encode(body.prompt or "", "prompt", special=body.add_special_tokens)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": service.context}

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, http: HttpRequest) -> Any:
        service.check_model(body.model)
        flight = await service.start(service.completion_requests(body), body)
        head = answers.envelope("text_completion", "cmpl", service.name)
        if body.stream:
            return stream(completion_events(service, flight, body, head))
        whole = await flight.whole(http)
        choices = [answers.completion_choice(i, flight.requests[i], delta, service.vocabulary,
                                             echoed(service, flight, body, i))[0] for i, delta in enumerate(whole)]
        return head | {"choices": choices, "usage": usage(flight, sum(len(delta.tokens) for delta in whole))}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, http: HttpRequest) -> Any:
        service.check_model(body.model)
        flight = await service.start(service.chat_requests(body), body)
        tools = bool(body.tools) and body.tool_choice != "none"
        if body.stream:
            head = answers.envelope("chat.completion.chunk", "chatcmpl", service.name)
            return stream(chat_events(service, flight, body, head, tools))
        whole = await flight.whole(http)
        choices = [answers.chat_choice(i, flight.requests[i], delta, service.vocabulary, tools)
                   for i, delta in enumerate(whole)]
        return answers.envelope("chat.completion", "chatcmpl", service.name) | {
            "choices": choices, "usage": usage(flight, sum(len(delta.tokens) for delta in whole))}

    return app


def card(service: Service) -> dict[str, Any]:
    """The model as /v1/models shows it."""
    return {"id": service.name, "object": "model", "created": 0, "owned_by": "catena",
            "max_model_len": service.context}


def echoed(service: Service, flight: Flight, body: CompletionBody, index: int) -> str | None:
    """The prompt's text where it was asked back."""
    if not body.echo:
        return None
    pieces = b"".join(service.vocabulary.pieces.get(token, b"") for token in flight.requests[index].prompt)
    return pieces.decode(errors="replace")


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def completion_events(service: Service, flight: Flight, body: CompletionBody,
                            head: dict[str, Any]) -> AsyncIterator[str]:
    """The chunks of a streamed completion."""
    echoes = [echoed(service, flight, body, index) for index in range(len(flight.requests))]
    told: list[list[Any]] = [[] for _ in flight.requests]  # of prompts, kept until the echo opens the answer
    offsets = [0] * len(flight.requests)

    async def chunks(index: int, delta: Delta) -> list[dict[str, Any]]:
        told[index] += delta.prompt_logprobs
        if not (delta.tokens or delta.finish):
            return []
        delta.prompt_logprobs, echo, echoes[index] = told[index], echoes[index], None
        choice, offsets[index] = answers.completion_choice(index, flight.requests[index], delta, service.vocabulary,
                                                           echo, offsets[index])
        return [choice]

    async for line in events(flight, head, chunks, body):
        yield line


async def chat_events(service: Service, flight: Flight, body: ChatBody, head: dict[str, Any],
                      tools: bool) -> AsyncIterator[str]:
    """The chunks of a streamed chat turn."""
    readers = [answers.CallReader() if tools else None for _ in flight.requests]
    for index in range(len(flight.requests)):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None,
                 "logprobs": None}
        yield answers.event(head | {"choices": [first]})

    async def chunks(index: int, delta: Delta) -> list[dict[str, Any]]:
        return answers.chat_chunks(index, flight.requests[index], delta, service.vocabulary, readers[index])

    async for line in events(flight, head, chunks, body):
        yield line


async def events(flight: Flight, head: dict[str, Any], chunks: Any,
                 body: CompletionBody | ChatBody) -> AsyncIterator[str]:
    """Server-sent events of a flight: `chunks(index, delta)` makes a delta's choices; usage at the end if wanted."""
    generated = 0
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    async with contextlib.aclosing(flight.deltas()) as deltas:
        try:
            async for index, delta in deltas:
                generated += len(delta.tokens)
                for choice in await chunks(index, delta):
                    yield answers.event(head | {"choices": [choice]} | ({"usage": None} if with_usage else {}))
        except ApiError as error:
            yield answers.event(error.body())
            return
    if with_usage:
        yield answers.event(head | {"choices": [], "usage": usage(flight, generated)})
    yield answers.event("[DONE]")


def refused(_: HttpRequest, error: Exception) -> Response:
    return error.response()


def invalid(_: HttpRequest, error: Exception) -> Response:
    """400 for a body that does not validate, naming the first field at fault."""
    fault = error.errors()[0]
    # pydantic names the branch of a union after its field: only fields and indices are of use to the client
    branches = re.compile(r"str|NamedTool|.*[\[(-].*")
    field = ".".join(str(part) for part in fault["loc"][1:] if not branches.fullmatch(str(part))) or None
    return ApiError(400, f"{field or 'body'}: {fault['msg']}", param=field, code=fault["type"]).response()


def http_error(_: HttpRequest, error: Exception) -> Response:
    return ApiError(error.status_code, str(error.detail)).response()


def failed(_: HttpRequest, error: Exception) -> Response:
    return ApiError(500, f"{type(error).__name__} in the server; its log has the traceback").response()


class Server(uvicorn.Server):
    """uvicorn that says in one line when it is ready, and where."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.line, flush=True)


def serve(model: Path, runtime: params.Runtime, port: int, threads: int, slots: int) -> None:
    """Load `model` and serve it until SIGTERM or Ctrl-C. Raises ModelError, or OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in runtime.host else socket.AF_INET
    with socket.create_server((runtime.host, port), family=family) as listening:
        service = Service(model, threads=threads, slots=slots)
        address = f"http://{f'[{runtime.host}]' if family == socket.AF_INET6 else runtime.host}"
        url = f"{address}:{listening.getsockname()[1]}/v1"
        config = uvicorn.Config(application(service, runtime.api_key), log_level="warning", access_log=False,
                                timeout_graceful_shutdown=DRAIN)
        Server(config, f"ready: {url} serves {service.name} ({service.context} tokens of context, {slots} slots)"
               ).run(sockets=[listening])


def main() -> None:
    """The command line. Exit codes: 0 ended on request, 1 could not serve, 2 bad params or arguments."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serve.api", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory of an exported (or from_pretrained) model")
    parser.add_argument("--port", type=int, help="0 takes a free one")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--slots", type=int, help="sequences decoded together")
    parser.add_argument("--private", action="store_true",
                        help="for the process that starts it alone: loopback, no key, ends when that process ends")
    given = parser.parse_args()
    if given.private:
        stage.die_with_parent()
    try:
        runtime = params.runtime()
    except params.ParamsError as error:
        sys.exit(stage.fail(2, str(error)))
    if given.private:
        runtime = runtime.model_copy(update={"host": "127.0.0.1", "api_key": None})
    threads, slots = given.threads or runtime.threads, given.slots or runtime.slots
    port = runtime.port if given.port is None else given.port
    params.limit_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn drains, then raises the signal again
    try:
        serve(given.model, runtime, port, threads, slots)
    except ModelError as error:
        sys.exit(stage.fail(1, str(error)))
    except OSError as error:
        sys.exit(stage.fail(1, f"cannot listen on {runtime.host}:{port}: {error.strerror}: choose another --port"))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
