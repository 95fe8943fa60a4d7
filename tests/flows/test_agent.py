"""`./run agent` against a server that plays a script: what a user types, sees and gets wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agents import scripted

ROOT = Path(__file__).parents[2]
call, says = scripted.call, scripted.says


def agent(*words: str, script=("unused",)) -> tuple[subprocess.CompletedProcess, list]:
    with scripted.endpoint(list(script)) as (client, requests):
        done = subprocess.run(
            [sys.executable, "-m", "flows.agent", *words, "--url", str(client.base_url)], cwd=ROOT, text=True,
            capture_output=True, timeout=120, stdin=subprocess.DEVNULL, env=os.environ | {"OPENAI_API_KEY": "k"})
    return done, requests


def test_every_tool_it_was_given(tmp_path):
    import sqlite3
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("create table orders (id integer)")
    connection.close()
    script = [call("convert", '{"value": 26.2, "unit": "mile", "to": "km"}'),
              call("write_file", '{"path": "answer.txt", "text": "42.16"}'),
              call("sql", '{"query": "select count(*) as n from orders"}'),
              call("write_file", '{"path": "answer.txt", "text": "overwritten by what was read"}'),
              says("26.2 miles are 42.16 km.")]
    done, requests = agent("smollm2", "How far is a marathon?", "--workspace", str(tmp_path / "w"), "--database",
                           str(tmp_path / "shop.db"), "--allow-host", "docs.example.org", "--steps", "9", script=script)
    assert done.returncode == 0 and done.stdout == "26.2 miles are 42.16 km.\n", done.stderr
    offered = {tool["function"]["name"] for tool in requests[0]["tools"]}
    assert offered >= {"calculator", "convert", "python", "list_files", "read_file", "write_file", "plot", "sql", "fetch"}
    assert (tmp_path / "w/answer.txt").read_text() == "42.16", "after text from outside nothing is written unasked"
    assert "42.1648128 km" in done.stderr and "write_file was not allowed" in done.stderr


@pytest.mark.parametrize("strategy, script", [
    ("text", [says('Action: calculator\nAction Input: {"expression": "6 * 7"}'), says("Final Answer: 42")]),
    ("rewoo", [says('{"steps": [{"tool": "calculator", "arguments": {"expression": "6 * 7"}}]}'), says("42")]),
    ("planner", [says('{"parts": ["6 * 7"]}'), call("calculator", '{"expression": "6 * 7"}'), says("42"),
                 says('{"done": true, "parts": []}'), says('{"answer": "42"}')]),
])
def test_strategies(strategy, script):
    done, _ = agent("6 * 7?", "--strategy", strategy, script=script)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert "  result  42" in done.stderr


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap: --programs refuses")
def test_whole_programs():
    done, requests = agent("q", "--programs", script=[
        call("program", json.dumps({"code": "import math\nprint(math.comb(10, 3))"})), says("120")])
    assert (done.returncode, done.stdout) == (0, "120\n") and "  result  120" in done.stderr, done.stderr


def test_save_and_resume(tmp_path):
    kept = tmp_path / "run.json"
    done, _ = agent("6 * 7?", "--save", str(kept), script=[call("calculator", '{"expression": "6 * 7"}'), 500])
    assert done.returncode == 1 and "the server failed" in done.stderr
    done, requests = agent("6 * 7?", "--resume", str(kept), script=[says("42")])
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert requests[0]["messages"][-1]["role"] == "tool", "the call was not made again"
    assert json.loads(kept.read_text())["events"]
    done, _ = agent("6 * 7?", "--strategy", "rewoo", "--resume", str(kept), script=[says("42")])
    assert done.returncode == 1 and "is one of --strategy react, not of rewoo" in done.stderr
    steps = '{"steps": [{"tool": "calculator", "arguments": {"expression": "6 * 7"}}]}'
    done, _ = agent("6 * 7?", "--strategy", "rewoo", "--save", str(kept), script=[says(steps), 500])
    assert done.returncode == 1 and "the server failed" in done.stderr
    done, requests = agent("6 * 7?", "--strategy", "rewoo", "--resume", str(kept), script=[says("42")])
    assert (done.returncode, done.stdout, len(requests)) == (0, "42\n", 1), done.stderr


@pytest.mark.parametrize("words, code, shown", [
    (["q", "--database", "/nowhere.db"], 1, "cannot be"), (["nosuch", "q"], 1, "no track 'nosuch'"),
    (["a", "b", "c"], 2, "in quotes"), ([], 2, "required"), (["q", "--steps", "0"], 2, "above 0"),
    (["q", "--resume", "/nowhere.json"], 1, "holds no kept run"),
])
def test_wrong_input_is_one_line(words, code, shown):
    done, requests = agent(*words)
    assert done.returncode == code and shown in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and not requests
