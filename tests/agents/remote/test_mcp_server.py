"""Our actions as an MCP server, called by the SDK's own client: over HTTP here, over stdio as ./run starts it."""

from __future__ import annotations

import base64
import os
import sys

import anyio
import httpx
import pytest

from tasks.agents.actions import plot
from tasks.agents.actions.calculator import calculator
from tasks.agents.remote import mcp_server
from tasks.agents.tools import Action
from tasks.serve.limits import Guard
from tests.agents.remote.served import running


def actions(workspace):
    def breaks() -> str:
        """breaks"""
        raise RuntimeError("inside")

    return [Action.of(calculator), Action.of(plot.action(workspace), scope="write"), Action.of(breaks)]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running(mcp_server.application(actions(tmp_path_factory.mktemp("workspace")), "127.0.0.1")) as place:
        yield f"{place}/mcp"


def asked(server, *calls, mode="auto"):
    """(tools listed, result of each call) by the SDK's client."""
    from mcp import Client

    async def ask():
        async with Client(server, mode=mode) as client:
            return (await client.list_tools()).tools, [await client.call_tool(*call) for call in calls]

    return anyio.run(ask)


@pytest.mark.parametrize("mode", ["auto", "legacy"])     # the protocol of 2026, and the one with a handshake
def test_lists_and_answers(url, mode):
    tools, (right, wrong, none, extra, broken) = asked(
        url, ("calculator", {"expression": "12 * 7"}), ("calculator", {"expression": "1 / 0"}), ("rm", {}),
        ("calculator", {"expression": "1 + 1", "more": 1}), ("breaks", {}), mode=mode)
    assert [tool.name for tool in tools] == ["calculator", "plot", "breaks"]
    assert tools[0].input_schema == Action.of(calculator).schema["function"]["parameters"]
    assert tools[0].annotations.read_only_hint and not tools[1].annotations.read_only_hint
    assert right.content[0].text == "84" and not right.is_error
    assert wrong.is_error and wrong.content[0].text == "division by zero"
    assert none.is_error and none.content[0].text.startswith("there is no tool 'rm'; there are: calculator")
    assert extra.is_error and "more" in extra.content[0].text
    assert broken.is_error and broken.content[0].text == "breaks: RuntimeError inside"


def test_a_picture_comes_as_one(url):
    _, (drawn,) = asked(url, ("plot", {"x": [1, 2], "y": [1, 2]}))
    assert drawn.content[0].text == "drawn: plot-1.png" and drawn.content[1].mime_type == "image/png"
    assert base64.b64decode(drawn.content[1].data).startswith(b"\x89PNG")


def test_no_other_page_may_call_it(url):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    assert httpx.post(url, json=body, headers={**headers, "Origin": "http://evil.example"}).status_code == 403
    assert httpx.post(url, json=body, headers={**headers, "Host": "evil.example"}).status_code == 421
    assert httpx.post(url, content=b"x" * 200_000, headers=headers | {"Content-Type": "application/json"}
                      ).status_code == 413
    assert httpx.post(url, content=b"{", headers=headers | {"Content-Type": "application/json"}).status_code == 400


def test_a_key_is_asked_for(tmp_path):
    with running(Guard(mcp_server.application(actions(tmp_path), "127.0.0.1"), "sesame")) as place:
        assert httpx.post(f"{place}/mcp", json={}).status_code == 401
        assert httpx.post(f"{place}/mcp", json={}, headers={"Authorization": "Bearer sesame"}).status_code != 401


def test_over_stdio_as_a_desktop_client_starts_it(tmp_path):
    from mcp import StdioServerParameters

    server = StdioServerParameters(command=sys.executable, args=[
        "-m", "flows.environment", sys.executable, "-m", "flows.tools", "--mcp", "--workspace", str(tmp_path)],
        env=dict(os.environ))
    tools, (right, code, kept) = asked(server, ("calculator", {"expression": "12 * 7"}), (
        "python", {"code": "print(2 ** 10)"}), ("write_file", {"path": "a.txt", "text": "茶"}))
    assert {"calculator", "convert", "python", "write_file", "plot"} <= {tool.name for tool in tools}
    assert right.content[0].text == "84" and code.content[0].text == "1024"
    assert not kept.is_error and (tmp_path / "a.txt").read_text() == "茶"
