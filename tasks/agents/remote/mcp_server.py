"""Our actions as an MCP server: any MCP client (an editor, a desktop assistant) can call them.

A call is checked and bounded as in our own loop; what goes wrong is a tool error that the client's model can read. A
picture comes as a picture.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from tasks.agents.tools import Action, ActionError, Picture

PICTURE = 2_000_000     # bytes of a picture that are sent
TOGETHER = 4            # calls at once


def server(actions: Sequence[Action]) -> Server[Any]:
    """The MCP server of these actions, for either transport."""
    known = {action.name: action for action in actions}
    turns = asyncio.Semaphore(TOGETHER)

    async def listing(_: Any, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[described(action) for action in actions])

    async def call(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in known:
            return failed(f"there is no tool {params.name[:64]!r}; there are: {', '.join(known)}")
        try:
            async with turns:
                result = await asyncio.to_thread(known[params.name].call, json.dumps(params.arguments or {}))
        except ActionError as error:
            return failed(str(error))
        return types.CallToolResult(content=content(result))

    return Server("catena", instructions="Tools of Catena: exact arithmetic, units, a corpus with sources, sandboxed "
                  "Python, and what its owner opened.", on_list_tools=listing, on_call_tool=call)


def described(action: Action) -> types.Tool:
    """An action as MCP lists tools; its hints say what it may do."""
    told = action.schema["function"]
    return types.Tool(name=action.name, description=told["description"], input_schema=told["parameters"],
                      annotations=types.ToolAnnotations(read_only_hint=not action.effects,
                                                        open_world_hint=action.scope == "network"))


def content(result: str) -> list[types.ContentBlock]:
    """A result as content: its text, and its picture where it has one that is not too big."""
    blocks: list[types.ContentBlock] = [types.TextContent(text=str(result))]
    if isinstance(result, Picture) and result.path.stat().st_size <= PICTURE:
        data = base64.b64encode(result.path.read_bytes()).decode()
        blocks.append(types.ImageContent(data=data, mime_type="image/png"))
    return blocks


def failed(text: str) -> types.CallToolResult:
    """A tool error: the client's model reads it and may try again."""
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


async def over_stdio(actions: Sequence[Action]) -> None:
    """Serve one client over this process's stdin and stdout, until its input ends. Nothing else may print."""
    async with stdio_server() as (read, write):
        made = server(actions)
        await made.run(read, write, made.create_initialization_options())


def application(actions: Sequence[Action], host: str) -> Any:
    """The ASGI application that serves streamable HTTP at /mcp; on a loopback `host` no other page may call it."""
    return server(actions).streamable_http_app(host=host, json_response=True, stateless_http=True,
                                               max_request_body_size=100_000)
