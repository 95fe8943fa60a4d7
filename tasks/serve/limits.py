"""What every request passes before an endpoint sees it: the API key, and a bound on its size. Plain ASGI."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.exceptions import HTTPException

from tasks.serve.errors import ApiError

OPEN = ("/health",)      # what is answered without the key
LARGEST_BODY = 2 ** 21  # bytes; a context of token ids is a hundredth of it


class Guard:
    """ASGI middleware: 401 without the key, 413 beyond LARGEST_BODY, whether announced or streamed."""

    def __init__(self, app: Any, api_key: str | None) -> None:
        self.app, self.api_key = app, api_key

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.api_key is not None and scope["path"] not in OPEN:
            key = self.api_key.encode()
            bearer = hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + key)
            if not (bearer or hmac.compare_digest(headers.get(b"x-api-key", b""), key)):  # Anthropic's clients
                error = ApiError(401, "the API key is missing or wrong: send Authorization: Bearer KEY",
                                 code="invalid_api_key")
                await error.response(scope["path"], {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            await too_large().response(scope["path"])(scope, receive, send)
            return
        read = 0

        async def counted() -> dict[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                raise HTTPException(413, too_large().message)
            return message

        await self.app(scope, counted, send)


def too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {LARGEST_BODY} bytes", code="request_too_large")
