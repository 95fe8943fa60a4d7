"""The two ways to an MCP server, each bounded in what one message may weigh: a command's pipes, and streamable HTTP.

The SDK's own transports read a line of a command, or a JSON answer, of any length. A command gets the environment
that the SDK calls safe (PATH, HOME, ...) and what its configuration adds, not this process's secrets.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import anyio
import httpx2
import mcp_types
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

MESSAGE = 4_000_000     # bytes of one message
LEAVE = 1.0             # seconds that a command has to leave by itself when its input ends
GONE = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, OSError)


@asynccontextmanager
async def pipes(command: Sequence[str], env: Mapping[str, str], cwd: Path | None, errors: IO[bytes],
                ) -> AsyncIterator[tuple[Any, Any]]:
    """Streams of messages from and to a command; it and its children are killed at the end. stderr goes to `errors`.

    A line longer than MESSAGE closes the stream of answers. Raises OSError where the command cannot be started.
    """
    process = await anyio.open_process(command, env={**get_default_environment(), **env}, cwd=cwd, stderr=errors,
                                       start_new_session=True)
    answers, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, asked = anyio.create_memory_object_stream[SessionMessage](0)

    async def receive() -> None:
        line = bytearray()
        async with answers:
            with suppress(*GONE):
                async for chunk in process.stdout:
                    *whole, rest = chunk.split(b"\n")
                    for part in whole:
                        await answers.send(parsed(bytes(line) + part))
                        line.clear()
                    line += rest
                    if len(line) > MESSAGE:
                        errors.write(f"\na line of more than {MESSAGE} bytes".encode())
                        return

    async def send() -> None:
        async with asked:
            with suppress(*GONE):
                async for message in asked:
                    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await process.stdin.send(text.encode() + b"\n")

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(send)
            try:
                yield read, write
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await ended(process)


def parsed(line: bytes) -> SessionMessage | Exception:
    """The message of a line, or what is wrong with it, as the session takes both."""
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def ended(process: anyio.abc.Process) -> None:
    """Close a command's input, wait a little, kill its whole session."""
    with suppress(*GONE):
        await process.stdin.aclose()
    with anyio.move_on_after(LEAVE):
        while process.returncode is None:
            await anyio.sleep(0.01)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(LEAVE), suppress(*GONE):
        while True:     # what is left in the pipe keeps asyncio's side of it open
            await process.stdout.receive()
    with anyio.move_on_after(LEAVE):
        await process.wait()
    with suppress(*GONE):
        await process.stdout.aclose()


@asynccontextmanager
async def http(url: str, headers: Mapping[str, str], seconds: float, errors: IO[bytes],
               ) -> AsyncIterator[tuple[Any, Any]]:
    """Streams of messages from and to a streamable HTTP endpoint, `headers` with every request.

    An answer longer than MESSAGE, or compressed, is taken for a failure of the server; why goes to `errors`.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx2.AsyncClient(
            headers={**headers, "Accept-Encoding": "identity"}, timeout=httpx2.Timeout(seconds, read=None),
            transport=Bounded(httpx2.AsyncHTTPTransport(), errors)))
        yield await stack.enter_async_context(
            streamable_http_client(url, http_client=client, max_sse_event_size=MESSAGE))


class Bounded(httpx2.AsyncBaseTransport):
    """A transport whose answers are short enough and uncompressed, or else the status 502.

    Streams of events go through; the SDK bounds each event.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, errors: IO[bytes]) -> None:
        self.inner, self.errors = inner, errors

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer of the inner transport, read up to MESSAGE bytes."""
        response = await self.inner.handle_async_request(request)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                return self.failed(request, "a compressed answer, which was not asked for")
            body = bytearray()
            async for part in response.stream:
                body += part
                if len(body) > MESSAGE:
                    return self.failed(request, f"an answer of more than {MESSAGE} bytes")
        finally:
            await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body), request=request)

    def failed(self, request: httpx2.Request, why: str) -> httpx2.Response:
        """The status 502 in place of an answer, and why."""
        self.errors.write(f"\n{why}".encode())
        return httpx2.Response(502, request=request)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()
