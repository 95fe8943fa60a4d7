"""The ASGI application over the models of a registry: every endpoint, and one shape for all that is refused."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tasks.serve import documents, messages, openai_api, responses, trace, web
from tasks.serve.engine.directory import ModelError
from tasks.serve.errors import ApiError
from tasks.serve.limits import Guard
from tasks.serve.registry import Registry
from tasks.serve.schemas import TokenizeBody
from tasks.serve.service import offload
from tasks.serve.turn import tokenize_turn

# pydantic names the branch of a union after its field: only fields and indices are of use to the client
BRANCHES = re.compile(r"str|int|float|bool|none|[A-Z]\w+|.*[\[(-].*")


class SwapBody(BaseModel):
    model: str


def application(registry: Registry, api_key: str | None = None, tracer: trace.Tracer | None = None) -> FastAPI:
    """The ASGI application over `registry`; with `api_key`, only for those who send it; with `tracer`, answers are
    traced to training documents."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(registry.watch())
        yield
        watching.cancel()
        registry.close()

    app = FastAPI(title="Catena", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.agent = False  # what tells the page of an agent: set by who adds its endpoints
    app.add_middleware(Guard, api_key=api_key)
    for kind, handler in ((ApiError, refused), (RequestValidationError, invalid), (HTTPException, http_error),
                          (Exception, failed)):
        app.add_exception_handler(kind, handler)

    @app.get("/health", **documents.told(documents.Health, 503))
    def health() -> JSONResponse:
        alive = registry.alive()
        return JSONResponse({"status": "ok" if alive else "an engine has stopped"}, 200 if alive else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}},
                                                            401: {"model": documents.Refusal}})
    def metrics() -> Response:
        return Response(registry.exposition.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", **documents.told(documents.Cards, 401))
    def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [target.card() for target in registry.targets()],
                             "trace": tracer is not None, "agent": app.state.agent})

    @app.get("/v1/models/{name:path}", **documents.told(documents.Card, 401, 404))
    def model(name: str) -> JSONResponse:
        target = registry.find(name)
        return JSONResponse(target.card(), headers=openai_api.headers(target))

    @app.post("/tokenize", **documents.told(documents.Tokens, 400, 401, 404, 413))
    async def tokenize(body: TokenizeBody) -> Response:
        target = registry.find(body.model)
        service = target.service
        if body.messages is not None:
            tokens, _ = await offload(False, service.encode_turn, tokenize_turn(body))
        else:
            tokens = await offload(False, lambda: service.encode(body.prompt or "", "prompt",
                                                                 special=body.add_special_tokens))
        return openai_api.reply(target, {"tokens": tokens, "count": len(tokens), "max_model_len": service.context})

    @app.post("/admin/swap", **documents.told(documents.Swap, 400, 401, 403, 404, 409, 413))
    async def swap(body: SwapBody) -> JSONResponse:
        """Load what the model's path holds now, and serve it if it is good."""
        if api_key is None:
            raise ApiError(403, "models are swapped only where the server has an API key")
        try:
            return JSONResponse(await registry.swap(registry.find(body.model).service.name))
        except ModelError as error:
            raise ApiError(409, f"the new model is refused, the old one still serves: {error}", param="model",
                           code="model_refused") from None

    for part in (openai_api, responses, messages):
        part.routes(app, registry)
    trace.routes(app, tracer)
    web.add(app)
    app.openapi = lambda: described(app, FastAPI.openapi(app), api_key)
    return app


def described(app: FastAPI, document: dict[str, Any], api_key: str | None) -> dict[str, Any]:
    """The OpenAPI document without FastAPI's own 422, which is never sent, and with the key where one is asked for."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if api_key is not None and path != "/health":
                operation["security"] = [{"key": []}]
    schemas = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if api_key is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def refused(http: HttpRequest, error: Exception) -> Response:
    return error.response(http.url.path)


def invalid(http: HttpRequest, error: Exception) -> Response:
    """400 for a body that does not validate, naming the first field at fault, as deep as it is known."""
    faults = error.errors()
    fault = max((one for one in faults if one["loc"][:2] == faults[0]["loc"][:2]), key=lambda one: len(one["loc"]))
    parts = [] if fault["type"] == "json_invalid" else fault["loc"][1:]
    field = ".".join(str(part) for part in parts if not BRANCHES.fullmatch(str(part)))
    said = fault["msg"].removeprefix("Value error, ")
    first = said.split(" ", 1)[0]
    if not field and isinstance(fault.get("input"), dict) and first in fault["input"]:
        field = first
    return ApiError(400, f"{field or 'body'}: {said}", param=field or None, code=fault["type"]).response(http.url.path)


def http_error(http: HttpRequest, error: Exception) -> Response:
    return ApiError(error.status_code, str(error.detail)).response(http.url.path, error.headers)


def failed(http: HttpRequest, error: Exception) -> Response:
    return ApiError(500, f"{type(error).__name__} in the server; its log has the traceback").response(http.url.path)
