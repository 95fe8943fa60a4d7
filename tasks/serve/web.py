"""The chat page, beside the API on the same port: static files of tasks/serve/web/, no build, nothing from elsewhere.

The page holds no secret, so it is served without the API key, for which it asks itself; its headers let it load its own
files and talk to this server, and nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response

FOLDER = Path(__file__).parent / "web"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                               "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # kept by the browser, but asked for again: a new server has a new page
}


class Page:
    """ASGI middleware that answers GET and HEAD of the page's own paths and passes on everything else."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.files = {("/" if path.name == "index.html" else f"/web/{path.name}"):
                      (path.read_bytes(), KINDS[path.suffix]) for path in FOLDER.iterdir() if path.suffix in KINDS}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        found = self.files.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        content, kind = found
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = HEADERS | {"etag": tag}
        if Headers(scope=scope).get("if-none-match") == tag:
            response = Response(status_code=304, headers=headers)
        else:
            response = Response(content, media_type=kind, headers=headers)
        await response(scope, receive, send)


def add(app: FastAPI) -> None:
    """Serve the page at `/`, ahead of every check that `app` has so far."""
    app.add_middleware(Page)
