"""Show the agent's tools, or serve them to other programs: as an MCP server, or by HTTP with an OpenAPI document.

    ./run tools                                  what there is, and what each may do
    ./run tools --mcp                            an MCP server on stdin and stdout, as desktop clients start it
    ./run tools --mcp --port 8765                the same by streamable HTTP: http://127.0.0.1:8765/mcp
    ./run tools --openapi --port 8766            POST /tools/NAME; the document is /openapi.json

Served on an address that is not this machine's own, it asks for a key: set CATENA_TOOLS_KEY.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import ExitStack
from typing import Any

from flows import toolset
from tasks.sandbox import SandboxUnavailable
from tasks.agents.tools import Action, ActionError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main() -> int:
    """The command line. Exit codes: 0 shown or served until told to stop, 1 a tool cannot be had, 2 bad arguments."""
    given = arguments()
    try:
        with ExitStack() as held:
            actions = toolset.local(given, held)
            if given.mcp and given.port is None:
                from tasks.agents.remote import mcp_server

                asyncio.run(mcp_server.over_stdio(actions))
            elif given.mcp or given.openapi:
                serve(actions, given)
            else:
                show(actions)
    except (ActionError, SandboxUnavailable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="./run tools", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--mcp", action="store_true", help="an MCP server, on stdin and stdout unless --port is given")
    what.add_argument("--openapi", action="store_true", help="an HTTP service with an OpenAPI document")
    parser.add_argument("--port", type=int, help="serve by HTTP on this port (0: any that is free)")
    parser.add_argument("--host", default="127.0.0.1", help="serve on this address (default 127.0.0.1)")
    toolset.local_arguments(parser)
    given = parser.parse_args()
    if given.openapi and given.port is None:
        parser.error("--openapi needs --port")
    if given.port is not None and not (given.mcp or given.openapi):
        parser.error("--port needs --mcp or --openapi")
    if given.host not in LOOPBACK and not os.environ.get("CATENA_TOOLS_KEY"):
        parser.error(f"--host {given.host} lets others call these tools: set CATENA_TOOLS_KEY to the key they send")
    return given


def serve(actions: list[Action], given: argparse.Namespace) -> None:
    """Serve by HTTP until told to stop; the first line on stdout says where. Raises OSError for a taken port."""
    import socket

    import uvicorn

    key = os.environ.get("CATENA_TOOLS_KEY") or None
    family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
    with socket.create_server((given.host, given.port), family=family) as listening:
        port = listening.getsockname()[1]
        place = f"http://{f'[{given.host}]' if family == socket.AF_INET6 else given.host}:{port}"
        config = uvicorn.Config(application(actions, given, key), log_level="warning", access_log=False,
                                timeout_graceful_shutdown=5)
        print(f"ready: {place}{'/mcp' if given.mcp else '/openapi.json'} serves {len(actions)} tools", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def application(actions: list[Action], given: argparse.Namespace, key: str | None) -> Any:
    """The ASGI application of either service, behind the key where there is one."""
    from tasks.serve.limits import Guard

    if given.mcp:
        from tasks.agents.remote import mcp_server

        return Guard(mcp_server.application(actions, given.host), key)
    from tasks.agents.remote import openapi_server

    return Guard(openapi_server.application(actions, key is not None), key)


def show(actions: list[Action]) -> None:
    """A table: name, what it may do, description."""
    for action in actions:
        print(f"{action.name:<12} {action.scope:<8} {action.schema['function']['description']}")


if __name__ == "__main__":
    sys.exit(main())
