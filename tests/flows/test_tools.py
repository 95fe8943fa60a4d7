"""./run tools and the flags of ./run agent that bring tools: what they open, what they refuse."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from flows import agent, tools, toolset
from tasks.agents.tools import ActionError
from tests.agents import scripted

SHOP = f"{sys.executable} {Path(__file__).parents[1] / 'agents/remote/good_mcp_server.py'}"


def called(module, monkeypatch, *arguments):
    """The exit code of a command line in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    try:
        return module.main()
    except SystemExit as stopped:
        return stopped.code


def test_the_table(monkeypatch, capsys, tmp_path):
    assert called(tools, monkeypatch, "--workspace", tmp_path / "new", "--allow-host", "example.org") == 0
    listed = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert listed | {"calculator": "read", "convert": "read", "python": "read", "write_file": "write", "plot": "write",
                     "fetch": "network"} == listed


@pytest.mark.parametrize("arguments, code, shown", [
    (["--openapi"], 2, "--openapi needs --port"), (["--port", "1"], 2, "--port needs"),
    (["--mcp", "--openapi"], 2, "not allowed with"), (["--mcp", "--host", "0.0.0.0"], 2, "set CATENA_TOOLS_KEY"),
    (["--database", "/no/such.db"], 1, "error: /no/such.db"),
])
def test_bad_arguments(monkeypatch, capsys, arguments, code, shown):
    monkeypatch.delenv("CATENA_TOOLS_KEY", raising=False)
    assert called(tools, monkeypatch, *arguments) == code
    assert shown in capsys.readouterr().err


def test_served_by_http_until_told_to_stop():
    process = subprocess.Popen([sys.executable, "-m", "flows.tools", "--openapi", "--port", "0"],
                               stdout=subprocess.PIPE, text=True, env=os.environ | {"CATENA_TOOLS_KEY": "sesame"})
    try:
        ready = process.stdout.readline()
        address = ready.split()[1]
        assert httpx.get(address).status_code == 401
        assert "/tools/calculator" in httpx.get(address, headers={"Authorization": "Bearer sesame"}).json()["paths"]
    finally:
        process.terminate()
        process.stdout.close()
    assert process.wait(120) in (0, -15)


def test_an_agent_with_the_tools_of_a_server(monkeypatch, capsys):
    monkeypatch.setattr(agent, "approved", lambda tool, arguments: pytest.fail("nobody to be asked"))
    script = [scripted.call("price", '{"item": "tea"}'), scripted.call("price", '{"item": "ivory"}'),
              scripted.says("2 euro")]
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))   # noqa: SIM115
    with scripted.endpoint(script) as (client, requests):
        assert called(agent, monkeypatch, "What is the price of tea?", "--url", client.base_url, "--seconds", 600,
                      "--mcp", SHOP) == 0
    said = capsys.readouterr()
    assert said.out == "2 euro\n" and "1 tea: 2 euro" in said.err
    assert {"price", "stock"} <= {tool["function"]["name"] for tool in requests[0]["tools"]}
    assert "was not allowed" in requests[2]["messages"][-1]["content"], \
        "once a server has spoken, another call that may change something needs a person"


@pytest.mark.parametrize("arguments, shown", [
    (["--mcp", "/no/such/command"], "FileNotFoundError"), (["--openapi", "/no/such/file.json"], "cannot be read"),
    (["--openapi", "x.json", "--openapi-key", "h=NOT_SET_ANYWHERE"], "write HOST=VARIABLE"),
])
def test_tools_that_cannot_be_had_end_the_command(monkeypatch, capsys, arguments, shown):
    assert called(agent, monkeypatch, "task", "--url", "http://127.0.0.1:9/v1", *arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and shown in said and said.count("\n") == 1


def test_keys_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", "sesame")
    assert toolset.openapi_keys(["127.0.0.1:80=SHOP_TOKEN"]) == {"127.0.0.1:80": "sesame"}
    for bad in ("SHOP_TOKEN", "h=", "h=NOT_SET_ANYWHERE"):
        with pytest.raises(ActionError, match="--openapi-key"):
            toolset.openapi_keys([bad])


def test_without_flags_there_is_nothing_of_others(monkeypatch):
    parser = argparse.ArgumentParser()
    toolset.local_arguments(parser)
    toolset.remote_arguments(parser)
    with ExitStack() as held:
        own = toolset.local(parser.parse_args([]), held)
        assert toolset.with_remote(own, parser.parse_args([]), held) == own
    assert not any(action.effects for action in own)
