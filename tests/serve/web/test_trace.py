"""Sources of an answer: POST /v1/trace of the real server, and the page's panel of spans and documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest

from tasks.data import documents, trace_index
from tasks.serve import client
from tests.serve.web.test_access import CONTRAST
from tests.serve.web.test_page import bring

PLANTED = "Seventeen violet walruses negotiated a modest treaty with the harbour's reluctant cartographer"
CHINESE = "十七头紫色的海象与港口里那位不情愿的制图师缔结了一份朴素的条约"
EVIL = "<img src=x onerror='window.owned = 1'>"
ANSWER = f"😀 It is said: {PLANTED}, and {EVIL} {CHINESE}。 That is all."
HELD = [PLANTED, EVIL[1:], f"{CHINESE}。"]  # a span begins with a word
PARAMS = trace_index.IndexParams(part_megabytes=1)


def write(folder, name, planted):
    """An index with the planted sentences at folder/name."""
    filler = " ".join(f"w{n}" for n in range(3000))
    documents.write(folder / f"{name}-corpus/00000.jsonl", [documents.Document(text=text, id=f"d{at}", metadata={
        "url": url, "licence": licence, "source": "zoo", "language": "en"}) for at, (text, url, licence) in enumerate([
            (filler, None, None), (f"Once. {planted} {EVIL}", "https://zoo.example/a", "MIT"),
            (f"前文。{CHINESE}。后文", f"javascript:alert(1)//{EVIL}", None)])])
    trace_index.index(folder / f"{name}-corpus", folder / name, folder / "metrics.json", index=PARAMS)


@pytest.fixture(scope="session")
def traced(endless_model, tmp_path_factory):
    """The real server with an index: its `url`, and the `folder` that holds it."""
    folder = tmp_path_factory.mktemp("traced")
    write(folder, "index", PLANTED)
    command = [sys.executable, "-m", "tasks.serve.api", str(endless_model), "--port", "0", "--threads", "1", "--slots",
               "2", "--private", "--trace", str(folder / "index")]
    with (folder / "log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield SimpleNamespace(url=client.wait_ready(server, log), folder=folder)
        finally:
            server.terminate()
            server.wait(client.STOP_LIMIT)


@pytest.fixture
def chat(page_of, traced, tmp_path):
    """The page with a conversation whose answer holds the planted sentences."""
    made = page_of(traced.url)
    (name,) = [model["id"] for model in httpx.get(f"{traced.url}/models").json()["data"]]
    step = {"content": ANSWER, "reasoning": "", "calls": [], "finish": "stop"}
    answer = {"model": name, "settings": {}, "steps": [step], "state": "done", "error": None, "stats": None}
    whole = {"id": "1", "title": "walruses", "updated": 1, "system": "", "tools": "",
             "columns": [{"id": "c", "model": name, "settings": {"temperature": 0, "max_tokens": 8}}],
             "turns": [{"id": "t", "text": "Walruses?", "answers": {"c": {"at": 0, "versions": [answer]}}}]}
    (tmp_path / "one.json").write_text(json.dumps({"format": "catena-chat", "version": 1, "conversations": [whole]}))
    bring(made, tmp_path / "one.json")
    made.until("document.querySelector('.said')?.innerText === 'Walruses?'")
    yield made
    assert made.tab.errors == []


def open_sources(chat):
    """Press the button of the last answer and wait for what it shows."""
    chat.click(".foot .sources", -1)
    chat.until("[...document.querySelectorAll('.trace')].at(-1).ariaBusy === 'false'"
               " && ![...document.querySelectorAll('.trace')].at(-1).hidden")


def test_the_endpoint_tells_spans_in_code_points(traced):
    found = httpx.post(f"{traced.url}/trace", json={"text": ANSWER}).json()
    assert found["object"] == "trace" and found["documents"] == 3
    assert [ANSWER[span["start"]:span["end"]] for span in found["spans"]] == HELD
    first = found["spans"][0]["documents"][0]
    assert (first["url"], first["licence"], first["before"], first["after"]) == (
        "https://zoo.example/a", "MIT", "Once. ", f" {EVIL}")
    assert httpx.get(f"{traced.url}/models").json()["trace"] is True
    assert httpx.post(f"{traced.url}/trace", json={"text": ""}).json()["spans"] == []


@pytest.mark.parametrize("body, field", [
    ({}, "text"), ({"text": 7}, "text"), ({"text": "x" * 65_537}, "text"), ({"text": "x", "k": 1}, "k"),
    ({"text": ["x"]}, "text"),
])
def test_bad_bodies_are_refused_in_openais_shape(traced, body, field):
    answer = httpx.post(f"{traced.url}/trace", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == field and error["type"] == "invalid_request_error"


def test_too_large_a_body_and_a_server_without_an_index(traced, server):
    answer = httpx.post(f"{traced.url}/trace", json={"text": "x" * (2**21 + 1)})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
    answer = httpx.post(f"{server[1]}/trace", json={"text": "x"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_index"
    assert "--trace data/index" in answer.json()["error"]["message"]
    assert httpx.get(f"{server[1]}/models").json()["trace"] is False


def test_an_index_that_takes_its_place_is_read_and_a_lost_one_is_told(traced):
    index, other = traced.folder / "index", "Nineteen amber ocelots debated the ferry's timetable until breakfast"
    write(traced.folder, "next", other)
    assert httpx.post(f"{traced.url}/trace", json={"text": other}).json()["spans"] == []
    index.rename(traced.folder / "before")
    try:
        answer = httpx.post(f"{traced.url}/trace", json={"text": other})
        assert answer.status_code == 503 and "no index" in answer.json()["error"]["message"]
        (traced.folder / "next").rename(index)
        assert len(httpx.post(f"{traced.url}/trace", json={"text": other}).json()["spans"]) == 1
    finally:
        index.rename(traced.folder / "next")
        (traced.folder / "before").rename(index)
    assert len(httpx.post(f"{traced.url}/trace", json={"text": PLANTED}).json()["spans"]) == 1


def test_no_index_where_one_is_named_is_one_line(endless_model, tmp_path):
    done = subprocess.run([sys.executable, "-m", "tasks.serve.api", str(endless_model), "--port", "0", "--private",
                           "--trace", str(tmp_path)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1 and done.stderr.startswith("error: no index of the training documents")
    assert done.stderr.count("\n") == 1


def test_the_page_shows_spans_and_documents_as_text(chat):
    assert chat.js("document.querySelector('.trace').hidden")
    open_sources(chat)
    told = chat.text(".trace")
    assert "word for word in the 3 training documents: 3;" in told
    marks = chat.js("[...document.querySelectorAll('.marked mark')].map((m) => m.firstChild.textContent)")
    assert marks == HELD
    shown = chat.js("[...document.querySelector('.marked').childNodes].map((n) => n.nodeName === 'MARK' "
                    "? n.firstChild.textContent : n.textContent).join('')")
    assert shown == ANSWER
    links = chat.js("[...document.querySelectorAll('.trace a')].map((a) => [a.href, a.rel])")
    assert links == [["https://zoo.example/a", "noopener noreferrer"]] * 2, "javascript: is no link"
    for summary in ("MIT · zoo · ×1", "licence not known", "javascript:alert(1)", f"Once. {PLANTED}"):
        assert summary in chat.js("document.querySelector('.trace').textContent")
    assert chat.js("document.querySelectorAll('.trace img').length") == 0 and chat.js("window.owned") is None
    assert "documents: 3;" in chat.text("#status")
    assert chat.js("document.querySelector('.sources').ariaExpanded") == "true"
    chat.click(".foot .sources")
    chat.until("document.querySelector('.trace').hidden && document.querySelector('.sources').ariaExpanded === 'false'")


def test_by_keyboard_in_chinese_and_for_an_answer_of_the_model(chat):
    chat.js("document.activeElement.blur()")
    chat.press("t")
    chat.until("document.querySelectorAll('.trace mark').length > 0")
    chat.js("document.querySelector('.trace summary').focus()")
    assert chat.js("document.querySelector('.trace details').open")
    chat.press("Enter")
    assert not chat.js("document.querySelector('.trace details').open")
    chat.click("#language")
    chat.ask("Hi")      # the sources of the first answer stay while another is written
    assert chat.text(".foot .sources") == "来源" and chat.js("document.querySelectorAll('.trace mark').length") > 0
    open_sources(chat)
    assert "没有与此回答一致的较长片段" in chat.js("[...document.querySelectorAll('.trace')].at(-1).innerText")


def test_a_server_that_is_gone_is_told_in_the_panel(chat, page_of, server):
    chat.js("window.real = fetch; window.fetch = () => Promise.reject(new TypeError('gone'))")
    open_sources(chat)
    assert "does not answer" in chat.text(".trace .wrong")
    chat.js("window.fetch = window.real")
    without = page_of(server[1])
    without.set(temperature=0, max_tokens=8)
    without.ask("Hi")
    assert without.js("document.querySelectorAll('.sources').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_both_schemes(chat, dark):
    chat.tab.size(360, 740, dark)
    chat.until("document.querySelector('#side').hidden")
    open_sources(chat)
    chat.js("document.querySelectorAll('.trace details').forEach((one) => { one.open = true; })")
    assert chat.js("document.documentElement.scrollWidth") <= 360
    assert chat.js("document.querySelector('main').scrollWidth") <= 360
    assert chat.js(CONTRAST.replace(".quiet,", ".quiet, .trace mark, .trace a, .trace blockquote, .trace span,")) >= 4.5
