"""Which tools a command line opens: our own, those of MCP servers, operations of OpenAPI services."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from tasks.agents.actions import database, fetch, files, plot, program, python, search, units
from tasks.agents.actions.calculator import calculator
from tasks.jail import Jail
from tasks.sandbox import Sandbox
from tasks.agents.tools import Action, ActionError

CORPUS = Path("data/corpus")


def local_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that open more of our own tools."""
    parser.add_argument("--workspace", type=Path, help="a directory of files to read and write; plots go there")
    parser.add_argument("--database", type=Path, help="a SQLite file to read")
    parser.add_argument("--allow-host", action="append", default=[], metavar="HOST[:PORT]",
                        help="a host whose pages may be read, and whose OpenAPI service may be called")
    parser.add_argument("--programs", action="store_true", help="whole Python programs, shut in by bubblewrap")


def remote_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that bring tools of others."""
    parser.add_argument("--mcp", action="append", default=[], metavar="SERVER", help="tools of an MCP server: a URL, "
                        "a command line in quotes (it runs as you), or a JSON file with mcpServers, as other clients "
                        "have it; a tool it lists under alwaysAllow is called without asking")
    parser.add_argument("--openapi", action="append", default=[], metavar="DOCUMENT",
                        help="operations of an OpenAPI 3 document, a URL or a JSON or YAML file; only its own host is "
                        "called, and those of --allow-host")
    parser.add_argument("--openapi-key", action="append", default=[], metavar="HOST=VARIABLE",
                        help="the environment variable that holds the key for a host of --openapi")


def local(given: argparse.Namespace, held: ExitStack) -> list[Action]:
    """Our own actions that the arguments open; they are closed with `held`. Raises ActionError, SandboxUnavailable."""
    actions = [Action.of(calculator), Action.of(units.convert),
               Action.of(python.action(held.enter_context(Sandbox())))]
    if CORPUS.is_dir():
        actions.append(Action.of(search.Index(CORPUS).action(), outside=True))
    if given.programs:
        actions.append(Action.of(program.action(Jail())))
    if given.workspace:
        given.workspace.mkdir(parents=True, exist_ok=True)
        listing, read, write = files.actions(given.workspace)
        actions += [Action.of(listing), Action.of(read, outside=True), Action.of(write, scope="write"),
                    Action.of(plot.action(given.workspace), scope="write")]
    if given.database:
        actions.append(Action.of(database.action(given.database), outside=True))
    if given.allow_host:
        actions.append(Action.of(fetch.action(given.allow_host), scope="network", outside=True))
    return actions


def with_remote(actions: list[Action], given: argparse.Namespace, held: ExitStack) -> list[Action]:
    """`actions` and the tools of others that the arguments name. Raises ActionError where one cannot be reached."""
    if given.openapi:
        from tasks.agents.remote import openapi_client, schema

        keys = openapi_keys(given.openapi_key)
        for address in given.openapi:
            made = openapi_client.actions(address, given.allow_host, keys, warn)
            actions = schema.told_apart(actions, made, Path(address).stem)
    if given.mcp:
        from tasks.agents.remote import mcp_client

        for address in given.mcp:
            actions = held.enter_context(mcp_client.connected(mcp_client.servers(address), actions, warn))
    return actions


def openapi_keys(given: list[str]) -> dict[str, str]:
    """HOST -> key, of HOST=VARIABLE. Raises ActionError where the variable is not set."""
    keys = {}
    for pair in given:
        host, _, variable = pair.partition("=")
        if not variable or not os.environ.get(variable):
            raise ActionError(f"--openapi-key {pair}: write HOST=VARIABLE, with the key in that environment variable")
        keys[host] = os.environ[variable]
    return keys


def warn(line: str) -> None:
    """A line about a tool that is left out."""
    print(f"warning: {line}", file=sys.stderr)
