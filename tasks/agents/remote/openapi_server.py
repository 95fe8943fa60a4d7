"""Our actions as an HTTP service with an OpenAPI document: POST /tools/NAME with the arguments as JSON.

A call is checked and bounded as in our own loop. 200 is `{"result": text}`, and `picture`, a PNG in base64, where it
drew one; 422 is `{"detail": line}`, a call that was refused or failed; 429 says that too many run at once.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tasks.agents.remote.mcp_server import PICTURE, TOGETHER
from tasks.agents.tools import ARGUMENTS, Action, ActionError, Picture

DEFINITIONS = "#/components/schemas/"


def application(actions: Sequence[Action], keyed: bool = False) -> FastAPI:
    """The ASGI application; `keyed`: its document says that a bearer token is asked for (by tasks/serve/limits.py)."""
    app = FastAPI(title="Tools of Catena", version="1", description="What an agent can do, each a POST.",
                  docs_url=None, redoc_url=None)
    turns = asyncio.Semaphore(TOGETHER)

    for action in actions:
        app.post(f"/tools/{action.name}", operation_id=action.name, summary=action.schema["function"]["description"],
                 responses=ANSWERS, openapi_extra=asked(action))(endpoint(action, turns))
    app.openapi = lambda: described(app, FastAPI.openapi(app), actions, keyed)
    return app


def endpoint(action: Action, turns: asyncio.Semaphore) -> Callable[[Request], Awaitable[Response]]:
    """What answers a POST of one action."""
    async def answer(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > 4 * ARGUMENTS:
                return JSONResponse({"detail": f"{action.name}: a body of more than {4 * ARGUMENTS} bytes"}, 413)
        if turns.locked():
            return JSONResponse({"detail": f"{TOGETHER} calls run already: try again"}, 429, {"Retry-After": "1"})
        try:
            async with turns:
                result = await asyncio.to_thread(action.call, body.decode("utf-8"))
        except UnicodeDecodeError:
            return JSONResponse({"detail": f"{action.name}: the body is no UTF-8"}, 422)
        except ActionError as error:
            return JSONResponse({"detail": str(error)}, 422)
        drawn = isinstance(result, Picture) and result.path.stat().st_size <= PICTURE
        return JSONResponse({"result": str(result)} | (
            {"picture": base64.b64encode(result.path.read_bytes()).decode()} if drawn else {}))
    return answer


def asked(action: Action) -> dict[str, Any]:
    """The operation's body: the action's own schema, its definitions moved to where OpenAPI keeps them."""
    parameters = {key: value for key, value in action.schema["function"]["parameters"].items() if key != "$defs"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": moved(parameters)}}}}


def moved(schema: Any) -> Any:
    """A schema whose references lead to the document's components."""
    if isinstance(schema, list):
        return [moved(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: DEFINITIONS + value.removeprefix("#/$defs/") if key == "$ref" else moved(value)
            for key, value in schema.items()}


def described(app: FastAPI, document: dict[str, Any], actions: Sequence[Action], keyed: bool) -> dict[str, Any]:
    """The document with the definitions of every action, and the key where one is asked for."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for action in actions:
        schemas |= moved(action.schema["function"]["parameters"].get("$defs", {}))
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def told(description: str, **properties: Any) -> dict[str, Any]:
    """One answer of the document: an object of these properties, the first of them required."""
    schema = {"type": "object", "properties": properties, "required": [next(iter(properties))]}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


TEXT = {"type": "string"}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: told("the result", result=TEXT, picture={"type": "string", "contentEncoding": "base64"}),
    401: told("no key, where one is asked for", error={"type": "object"}), 413: told("too large", detail=TEXT),
    422: told("refused, or failed", detail=TEXT), 429: told("too many at once", detail=TEXT)}
