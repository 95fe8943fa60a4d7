"""Errors as clients expect them: a status, and a body that names the field at fault, in the shape of the API asked."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "invalid_request_error",
         429: "rate_limit_error", 500: "server_error", 503: "server_error"}
MESSAGES_API = "/v1/messages"
MESSAGES_KINDS = {413: "request_too_large", 500: "api_error", 503: "overloaded_error"}


class ApiError(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
                 retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def kind(self) -> str:
        return KINDS.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def messages_body(self) -> dict[str, Any]:
        """Anthropic's error object."""
        return {"type": "error", "error": {"type": MESSAGES_KINDS.get(self.status, self.kind),
                                           "message": self.message}}

    def response(self, path: str, headers: dict[str, str] | None = None) -> JSONResponse:
        """The HTTP response to a request of `path`, with Retry-After where there is a time to wait."""
        headers = dict(headers or {})
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        body = self.messages_body() if path.startswith(MESSAGES_API) else self.body()
        return JSONResponse(body, self.status, headers)
