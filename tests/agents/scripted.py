"""A loopback HTTP server that answers chat completions from a script: what the loop's tests talk to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import OpenAI


def call(name: str, arguments: str) -> dict[str, Any]:
    """An assistant message with one tool call."""
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call-1", "type": "function", "function": {"name": name, "arguments": arguments}}]}


def says(text: str | None) -> dict[str, Any]:
    """An assistant message of plain text."""
    return {"role": "assistant", "content": text}


@contextmanager
def endpoint(script: Sequence[dict[str, Any] | str | int] | Callable[[dict[str, Any]], Any],
             ) -> Iterator[tuple[OpenAI, list[dict[str, Any]]]]:
    """A client of a server that gives the script's replies in turn (the last one for ever), and the requests it got.

    A dict is an assistant message, a str a raw body, an int an HTTP error. A function is asked for each reply.
    """
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            at = len(requests) - 1
            reply = script(requests[at]) if callable(script) else script[min(at, len(script) - 1)]
            status = reply if isinstance(reply, int) else 200
            failed = {"error": {"message": "no"}}
            body = reply if isinstance(reply, str) else json.dumps(failed if status != 200 else {
                "id": "x", "object": "chat.completion", "created": 0, "model": "scripted",
                "choices": [{"index": 0, "finish_reason": "stop", "message": reply}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0), requests
    finally:
        server.shutdown()
        server.server_close()
