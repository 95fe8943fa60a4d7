"""The chat page's tools switch: the agent's loop behind POST /v1/agent, over the real server with a scripted model."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tasks.agents.actions import files, plot
from tasks.agents.actions.calculator import calculator
from tasks.agents.endpoint import Agents, routes
from tasks.agents.react import ReAct
from tasks.agents.tools import Action
from tasks.serve import client
from tasks.serve.app import application
from tasks.serve.registry import Registry
from tests.agents import scripted
from tests.agents.remote.served import running
from tests.serve.web.test_access import CONTRAST

EVIL = "<img src=x onerror='window.owned = 1'>"
REACT = ReAct("Use tools.", False, "auto")


class Stage:
    """What the model says next (`script`, the last one for ever), what it was asked, and where files go."""

    def __init__(self, workspace: Path) -> None:
        self.script, self.requests, self.workspace, self.url = [], [], workspace, ""

    def reply(self, request):
        """A scripted model's turn."""
        self.requests.append(request)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def play(self, *replies):
        """Set the script."""
        self.requests.clear()
        self.script[:] = replies
        return self

    def post(self, path="", **body):
        """The endpoint's answer to a body."""
        return httpx.post(f"{self.url}/agent{path}", json=body, timeout=60)

    def events(self, *replies, task="q", **body):
        """All events of a run."""
        self.play(*replies)
        text = self.post(messages=[{"role": "user", "content": task}], **body).text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="session")
def stage(tiny, tmp_path_factory):
    """The server with an agent whose model is scripted; its tools are real."""
    made = Stage(tmp_path_factory.mktemp("workspace"))
    listing, reading, writing = files.actions(made.workspace)

    def breaks() -> str:
        """breaks"""
        raise OSError("the disk is gone")

    actions = [Action.of(calculator), Action.of(reading, outside=True), Action.of(writing, scope="write"),
               Action.of(plot.action(made.workspace), scope="write"), Action.of(breaks)]
    with scripted.endpoint(made.reply) as (speaker, _):
        app = application(Registry({"tiny": tiny / "onnx"}, threads=1, slots=2))
        routes(app, Agents(lambda: actions, lambda: speaker, lambda _: REACT, made.workspace))
        with running(app) as url:
            made.url = f"{url.rstrip('/')}/v1"
            yield made


@pytest.fixture
def chat(page_of, stage):
    """The page with the tools switched on."""
    made = page_of(stage.url)
    made.until("!document.querySelector('#agent').hidden")
    made.click("#agent")
    yield made
    assert made.tab.errors == []


WRITE = scripted.call("write_file", json.dumps({"path": "a.txt", "text": "tea"}))
PLOT = scripted.call("plot", '{"x": [1, 2, 3], "y": [3, 1, 2], "kind": "bar", "title": "Tea"}')
SUM = scripted.call("calculator", '{"expression": "12 * 7"}')


def test_the_endpoint_tells_every_event(stage):
    events = stage.events(SUM, scripted.says("It is 84."), task="12 * 7?")
    assert [event["event"] for event in events] == ["call", "result", "answer", "end", "spent"]
    assert events[1]["text"] == "84" and events[3]["answer"] == "It is 84." and events[4]["tokens"] == 30
    tools = {tool["name"]: tool["scope"] for tool in httpx.get(f"{stage.url}/agent").json()["tools"]}
    assert tools["calculator"] == "read" and tools["write_file"] == "write"
    assert httpx.get(f"{stage.url}/models").json()["agent"] is True


def test_what_was_said_before_is_told_and_budgets_hold(stage):
    stage.play(scripted.says("84"))
    said = [{"role": "user", "content": "12 * 7?"}, {"role": "assistant", "content": "84"},
            {"role": "user", "content": "And again?"}]
    stage.post(messages=said, model="tiny", steps=2)
    assert stage.requests[0]["messages"] == [{"role": "system", "content": "Use tools."}, *said]
    events = stage.events(*[scripted.call("calculator", f'{{"expression": "{n} * 7"}}') for n in range(9)], steps=3)
    assert next(e for e in events if e["event"] == "end")["reason"] == "out of steps"
    events = stage.events(SUM, seconds=0.001)
    assert next(e for e in events if e["event"] == "end")["reason"] == "out of time"
    assert stage.events(500)[0]["reason"] == "the server failed: InternalServerError"


@pytest.mark.parametrize("body, field", [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": [{"role": "system", "content": "x"}]}, "role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}], "steps": 0}, "steps"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": []}, "tools"),
])
def test_bad_bodies_are_refused_in_openais_shape(stage, body, field):
    answer = stage.post(**body)
    assert answer.status_code == 400 and field in answer.json()["error"]["param"]
    assert stage.post("/nosuch", allow=True).json()["error"]["code"] == "no_run"


def test_steps_results_and_errors_are_shown_as_text(chat, stage):
    stage.play(SUM, scripted.call("breaks", "{}"), scripted.says(f"It is **84**. {EVIL}"))
    chat.ask("12 * 7?")
    assert chat.js("[...document.querySelectorAll('.call .name')].map((n) => n.innerText)") == [
        "Tool call: calculator", "Tool call: breaks"]
    results = chat.js("[...document.querySelectorAll('.call .result')].map((n) => [n.innerText, "
                      "n.classList.contains('failed')])")
    assert results[0] == ["84", False] and "the disk is gone" in results[1][0] and results[1][1]
    assert chat.js("document.querySelector('.text strong').innerText") == "84" and chat.js("window.owned") is None
    assert "45 tokens" in chat.text(".stats")
    stage.play(scripted.says("Yes."))
    chat.ask("Sure?")
    assert [turn["role"] for turn in stage.requests[0]["messages"]] == ["system", "user", "assistant", "user"]
    chat.open()     # kept in the browser, the switch too
    assert chat.js("document.querySelectorAll('.call').length") == 2
    assert chat.js("document.querySelector('#agent').getAttribute('aria-pressed')") == "true"


def test_a_person_is_asked_before_anything_is_written(chat, stage):
    for button, word, there in ((1, "was not allowed", False), (0, "3 bytes written", True)):
        stage.play(WRITE, scripted.says("Done."))
        chat.type("Write tea.")
        chat.press("Enter")
        chat.until("document.querySelectorAll('.asks button').length === 2")
        assert "May write_file be called" in chat.text(".asks") and not (stage.workspace / "a.txt").exists()
        chat.click(".asks button", button)
        chat.settle()
        assert word in chat.js("[...document.querySelectorAll('.call .result')].at(-1).innerText")
        assert (stage.workspace / "a.txt").exists() == there
        assert chat.js("document.querySelectorAll('.asks').length") == 0


def test_a_picture_is_shown(chat, stage):
    stage.play(PLOT, scripted.says("Drawn."))
    chat.type("Draw.")
    chat.press("Enter")
    chat.until("!!document.querySelector('.asks button')")
    chat.click(".asks button")
    chat.settle()
    chat.until("document.querySelector('.picture')?.naturalWidth === 600")
    held = chat.answers()[1][0]["steps"][0]["calls"][0]["picture"]
    assert base64.b64decode(held.split(",")[1]) == (stage.workspace / "plot-1.png").read_bytes()


def test_stop_denies_what_waits(chat, stage):
    (stage.workspace / "a.txt").unlink(missing_ok=True)
    stage.play(WRITE, scripted.says("Done."))
    chat.type("Write.")
    chat.press("Enter")
    chat.until("!!document.querySelector('.asks button')")
    chat.click("#stop")
    chat.settle()
    assert "stopped" in chat.text(".stats") and not (stage.workspace / "a.txt").exists()
    chat.until("document.querySelectorAll('.asks').length === 0")


def test_an_end_without_an_answer_and_a_server_that_is_gone_are_told(chat, stage):
    chat.click("#settings")
    chat.type("2", "#budget-steps")
    chat.press("Escape")
    stage.play(*[scripted.call("calculator", f'{{"expression": "{n} * 7"}}') for n in range(9)])
    chat.ask("12 * 7?")
    assert "The agent ended: out of steps." in chat.text(".wrong")
    chat.js("window.real = fetch; window.fetch = () => Promise.reject(new TypeError('gone'))")
    chat.ask("Again?")
    chat.until("[...document.querySelectorAll('.wrong')].at(-1).innerText.includes('does not answer')")
    chat.js("window.fetch = window.real")


def test_fits_a_phone_in_chinese_and_both_schemes(chat, stage):
    for dark in (False, True):
        chat.tab.size(360, 740, dark)
        stage.play(SUM, WRITE, scripted.says("Done."))
        chat.type("Write 12 * 7.")
        chat.press("Enter")
        chat.until("!!document.querySelector('.asks button')")
        assert chat.js("document.documentElement.scrollWidth") <= 360
        assert chat.js(CONTRAST.replace(".quiet,", ".quiet, .result, .asks p,")) >= 4.5
        chat.click(".asks button", 1)
        chat.settle()
    chat.click("#menu")
    chat.click("#language")
    assert chat.text("#agent") == "使用工具"


def test_a_server_without_an_agent_has_no_switch(page_of, endless):
    assert page_of(endless).js("document.querySelector('#agent').hidden")


def test_the_real_server_with_its_own_model(endless_model, tmp_path):
    """`./run serve`'s module: the loop speaks to the very server that runs it; a random model ends with a reason."""
    command = [sys.executable, "-m", "flows.host", f"m={endless_model}", "--port", "0", "--threads", "1",
               "--slots", "2", "--private", "--workspace", str(tmp_path / "w")]
    with (tmp_path / "log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            url = client.wait_ready(server, log)
            answer = httpx.post(f"{url}/agent", timeout=120, json={
                "messages": [{"role": "user", "content": "Write x to y.txt"}], "steps": 1, "seconds": 8})
            assert '"event": "end"' in answer.text and "[DONE]" in answer.text
            names = {tool["name"] for tool in httpx.get(f"{url}/agent", timeout=60).json()["tools"]}
            assert {"calculator", "convert", "python", "read_file", "write_file", "plot"} <= names
        finally:
            server.terminate()
            server.wait(client.STOP_LIMIT)
