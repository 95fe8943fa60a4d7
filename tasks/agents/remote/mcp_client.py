"""Tools of any MCP server as actions of the agent (Model Context Protocol, modelcontextprotocol.io).

A server is a command on this machine or a streamable HTTP address, named on the command line or in the `mcpServers`
JSON that other clients read too. A server is not trusted: its tools count as writing and their answers as text from
outside, unless the user's configuration lists a tool under `alwaysAllow`. Whatever a server does, a call ends within
its time in an answer or in one ActionError.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio
import mcp_types
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.agents.remote import mcp_transport, schema
from tasks.agents.tools import Action, ActionError

CONNECT = 60.0      # seconds until a server has said which tools it has; npx and uvx may install it first
TOOLS = 64          # tools of one server
PAGES = 16          # pages of a listing
VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}")


class Server(BaseModel):
    """One entry of `mcpServers`; keys of other clients that say nothing here are passed over."""

    model_config = ConfigDict(extra="ignore")

    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: Path | None = None
    url: str | None = Field(default=None, pattern=r"^https?://")
    headers: dict[str, str] = {}
    disabled: bool = False
    timeout: float = Field(default=30, gt=0, le=600, description="seconds of one call")
    always: list[str] = Field(default=[], validation_alias=AliasChoices("alwaysAllow", "autoApprove"))

    @model_validator(mode="before")
    @classmethod
    def with_environment(cls, data: Any) -> Any:
        """`${NAME}` in any text stands for an environment variable, so that no key need be in the file."""
        return filled(data)

    @model_validator(mode="after")
    def one_way(self) -> Server:
        """A command or an address, not both."""
        if (self.command is None) == (self.url is None):
            raise ValueError("needs either command or url")
        return self


def filled(data: Any) -> Any:
    """JSON data with the environment's values in place of `${NAME}`. Raises ValueError naming one that is not set."""
    if isinstance(data, dict):
        return {key: filled(value) for key, value in data.items()}
    if isinstance(data, list):
        return [filled(value) for value in data]
    if not isinstance(data, str):
        return data
    missing = [name for name in VARIABLE.findall(data) if name not in os.environ]
    if missing:
        raise ValueError(f"the environment has no {missing[0]}")
    return VARIABLE.sub(lambda found: os.environ[found[1]], data)


def servers(given: str) -> dict[str, Server]:
    """What one `--mcp` names: a URL, a JSON file with `mcpServers`, or a command line. Raises ActionError."""
    try:
        if given.startswith(("http://", "https://")):
            return {"mcp": Server(url=given)}
        if given.endswith(".json"):
            listed = json.loads(Path(given).read_text(encoding="utf-8"))["mcpServers"]
            made = {name: Server.model_validate(entry) for name, entry in listed.items()}
            return {name: server for name, server in made.items() if not server.disabled}
        command, *args = shlex.split(given)
        return {Path(command).name: Server(command=command, args=args)}
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "an entry"
        raise ActionError(f"--mcp {given}: {where}: {fault['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ActionError(f"--mcp {given[:120]}: no address, no command, no file with mcpServers "
                          f"({type(error).__name__}: {' '.join(str(error).split())[:120]})") from None


@contextmanager
def connected(wanted: Mapping[str, Server], actions: list[Action],
              warn: Callable[[str], None]) -> Iterator[list[Action]]:
    """`actions` and the tools of every server, until the context ends; `warn` hears of each tool that is left out.

    Raises ActionError where a server cannot be reached.
    """
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        for name, server in wanted.items():
            session = stack.enter_context(Session(portal, name, server))
            offered = []
            for listed in session.tools[:TOOLS]:
                try:
                    offered.append(session.action(listed))
                except ActionError as error:
                    warn(f"MCP server {name}: left out: {error}")
            if len(session.tools) > TOOLS:
                warn(f"MCP server {name}: {len(session.tools)} tools, the first {TOOLS} are taken")
            actions = schema.told_apart(actions, offered, name)
        yield actions


class Session:
    """One server, spoken to from one task of the portal's event loop for as long as the context lasts."""

    def __init__(self, portal: BlockingPortal, name: str, server: Server) -> None:
        self.portal, self.name, self.server = portal, name, server
        self.errors: IO[bytes] = tempfile.TemporaryFile()     # noqa: SIM115 what a command writes to stderr
        self.leave = anyio.Event()

    def __enter__(self) -> Session:
        try:
            self.task, (self.client, self.tools) = self.portal.start_task(self.live)
        except BaseException as error:
            self.errors.close()
            if not isinstance(error, Exception):
                raise
            raise ActionError(f"MCP server {self.name}: {said(error)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.portal.call(self.leave.set)
        try:
            self.task.exception(timeout=10)     # how it leaves matters to nobody any more
        except (FutureTimeout, CancelledError):
            self.task.cancel()
        self.errors.close()

    async def live(self, *, task_status: anyio.abc.TaskStatus[Any]) -> None:
        """Connect, tell the tools, stay until told to leave."""
        with anyio.CancelScope(deadline=anyio.current_time() + CONNECT) as scope:
            server = self.server
            way = mcp_transport.pipes([server.command, *server.args], server.env, server.cwd, self.errors) \
                if server.command else mcp_transport.http(server.url or "", server.headers, CONNECT, self.errors)
            try:
                async with Client(way, read_timeout_seconds=CONNECT, cache=None) as client:
                    tools = await self.listed(client)
                    scope.deadline = float("inf")
                    task_status.started((client, tools))
                    await self.leave.wait()
            except Exception as error:
                raise ActionError(f"{said(error)}{self.complaint()}") from None
        if scope.cancelled_caught:
            raise ActionError(f"has not said which tools it has in {CONNECT:g} s{self.complaint()}")

    @staticmethod
    async def listed(client: Client) -> list[mcp_types.Tool]:
        """Every tool of the listing, at most PAGES pages of it."""
        tools, cursor = [], None
        for _ in range(PAGES):
            page = await client.list_tools(cursor=cursor)
            tools, cursor = [*tools, *page.tools], page.next_cursor
            if cursor is None:
                break
        return tools

    def complaint(self) -> str:
        """The last line that the command wrote to stderr, if any."""
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 2_000))
        lines = self.errors.read().decode("utf-8", errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def action(self, listed: mcp_types.Tool) -> Action:
        """The action of one tool. Raises ActionError saying why it cannot be offered."""
        scope = "read" if listed.name in self.server.always else "write"
        return schema.action(listed.name, listed.description or listed.title or "", listed.input_schema,
                             lambda **given: self.call(listed.name, given), scope=scope,
                             seconds=self.server.timeout + 5)

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """The text of a tool's answer. Raises ActionError with what went wrong."""
        seconds = self.server.timeout
        if self.task.done():
            raise ActionError(f"{tool}: the MCP server {self.name} is gone")
        answer = self.portal.start_task_soon(self.asked, tool, arguments)
        try:
            return shown(tool, answer.result(timeout=seconds + 2))
        except (FutureTimeout, TimeoutError):
            answer.cancel()
            raise ActionError(f"{tool}: the MCP server {self.name} has not answered in {seconds:g} s") from None
        except ActionError:
            raise
        except (Exception, CancelledError) as error:
            raise ActionError(f"{tool}: the MCP server {self.name}: {said(error)}{self.complaint()}") from None

    async def asked(self, tool: str, arguments: dict[str, Any]) -> mcp_types.CallToolResult:
        """One call. Not by `call_tool`, which runs regular expressions of the server's over its own answer."""
        with anyio.fail_after(self.server.timeout):
            params = mcp_types.CallToolRequestParams(name=tool, arguments=arguments)
            return await self.client.session.send_request(mcp_types.CallToolRequest(params=params),
                                                          mcp_types.CallToolResult)


def shown(tool: str, result: mcp_types.CallToolResult) -> str:
    """An answer as text: its texts, a line for what is none, its data where it has no text."""
    parts = []
    for block in result.content:
        if isinstance(block, mcp_types.TextContent):
            parts.append(block.text)
        elif isinstance(block, mcp_types.ImageContent | mcp_types.AudioContent):
            parts.append(f"[{block.type} {block.mime_type}, {len(block.data.rstrip('=')) * 3 // 4} bytes]")
        elif isinstance(block, mcp_types.EmbeddedResource):
            parts.append(getattr(block.resource, "text", f"[resource {block.resource.uri}]"))
        else:
            parts.append(f"[{block.type} {getattr(block, 'uri', '')}]")
    text = "\n".join(parts).strip()
    if not text and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if result.is_error:
        raise ActionError(f"{tool}: {' '.join(text.split())[:400] or 'failed without a word'}")
    return text or "an empty answer"


def said(error: BaseException) -> str:
    """What went wrong, in one line; of a group of errors the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ActionError):
        return str(error)
    if isinstance(error, ValidationError):
        return f"an answer that is not MCP's ({error.errors()[0]['msg'][:120]})"
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}".strip()
