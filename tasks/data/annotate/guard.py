"""What every request to the annotation page passes first: it must come from this machine's own page. Plain ASGI.

The server binds loopback, but any site open in the same browser can send requests there, and a name that an attacker
rebinds to 127.0.0.1 makes their page "same origin". So the Host must be ours, writes must be JSON of our own origin,
and bodies are small. The answer's headers let the page load nothing but its own three files.
"""

from __future__ import annotations

import json
from typing import Any

LARGEST_BODY = 2 ** 16  # bytes; a comment is the largest thing sent
NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request answered by an error: its status, a line for a person, and the field at fault."""

    def __init__(self, status: int, message: str, field: str | None = None):
        super().__init__(message)
        self.status, self.message, self.field = status, message, field

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "field": self.field}}


class Guard:
    """ASGI middleware: 421 for a foreign Host, 403 for a foreign origin, 415 for what is no JSON, 411 and 413 for a
    body without a length or beyond LARGEST_BODY; security headers on every answer."""

    def __init__(self, app: Any, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in NAMES} | ({*NAMES} if port == 80 else set())

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            self.check(scope)
        except Refused as refusal:
            body = json.dumps(refusal.body()).encode()
            await guarded({"type": "http.response.start", "status": refusal.status, "headers": [
                (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                (b"connection", b"close")]})
            await guarded({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, guarded)

    def check(self, scope: dict[str, Any]) -> None:
        """Raises Refused where the headers tell that the request is not our page's."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if host not in self.hosts:
            raise Refused(421, f"Host {host[:80]!r} is not this server: open the address it printed")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, f"requests of the page at {origin[:80]!r} are refused")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and scope["path"].startswith("/api/"):
            raise Refused(403, "requests of other sites' pages are refused")
        if scope["method"] in ("GET", "HEAD"):
            return
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send Content-Type: application/json")
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):  # a chunked body has no bound to check
            raise Refused(411, "send Content-Length")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            raise Refused(413, f"the body is larger than {LARGEST_BODY} bytes")
