"""What the page says and does when the server refuses, is busy, or is gone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tasks.serve import client

ROOT = Path(__file__).resolve().parents[3]


def test_the_key_is_asked_for_and_forgotten_with_the_tab(tiny, tmp_path, page_of, tab):
    params = (ROOT / "params.yaml").read_text("utf-8")
    (tmp_path / "params.yaml").write_text(params.replace("api_key: null", "api_key: sesame"), "utf-8")
    server = subprocess.Popen([sys.executable, "-m", "tasks.serve.api", str(tiny / "onnx"), "--port", "0"],
                              cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                              text=True)
    try:
        chat = page_of(server.stdout.readline().split()[1])
        chat.until("document.querySelector('#api-key') === document.activeElement")
        chat.type("wrong", "#api-key")
        chat.press("Enter")
        chat.until("document.querySelector('#sheet').open && document.querySelector('#api-key').value === 'wrong'")
        chat.press("Escape")
        chat.type("Hi")
        chat.press("Enter")
        chat.until("document.querySelector('.wrong')?.innerText.includes('API key')"
                   " && document.querySelector('#sheet').open")
        chat.type("sesame", "#api-key")
        chat.press("Enter")  # what had failed is asked again by itself
        chat.until("document.querySelector('.stats')?.innerText.includes('tokens')")
        chat.settle()
        at, versions = chat.answers()
        assert len(versions) == 1 and versions[0]["state"] == "done"
        assert chat.js("sessionStorage.getItem('catena-chat-key')") == "sesame"
        assert "sesame" not in chat.js("JSON.stringify(localStorage)")
        tab.errors.clear()  # the refusals
    finally:
        server.terminate()
        assert server.wait(30) == 0


def test_a_busy_server_is_asked_again(endless, page_of, tab):
    """Its queue is filled until it answers 429; the page waits, and goes on when there is room."""
    chat = page_of(endless)
    chat.set(temperature=0, max_tokens=5)
    body = {"prompt": "The", "max_tokens": 500, "stream": True}
    with httpx.Client(base_url=endless, timeout=60) as http, contextlib.ExitStack() as held:
        first = http.stream("POST", "/completions", json=body | {"prompt": ["The"] * 4, "n": 16})
        assert held.enter_context(first).status_code == 200  # 64 at once, then one by one to the last free place
        statuses = (held.enter_context(http.stream("POST", "/completions", json=body)).status_code for _ in range(200))
        assert 429 in statuses
        chat.type("Hi")
        chat.press("Enter")
        chat.until("document.querySelector('.stats')?.innerText.startsWith('The server is busy; trying again in')")
    chat.settle()  # the streams were closed
    at, versions = chat.answers()
    assert versions[at]["state"] == "done" and versions[at]["stats"]["tokens"] == 5
    tab.errors.clear()  # the 429


def test_the_server_dies_in_the_middle_and_comes_back(endless_model, page_of, tab):
    with client.process(endless_model, threads=1, slots=2) as (process, url):
        chat = page_of(url)
        chat.set(temperature=0)
        for turn in range(20):
            chat.type(f"Count {turn}")
            chat.press("Enter")
            chat.until("[...document.querySelectorAll('.text')].at(-1)?.textContent.length > 2")
            process.suspend()
            time.sleep(0.2)  # what it had sent arrives
            if chat.js("document.querySelector('#send').hidden"):  # and was not all
                break
            process.resume()
        process.kill()
        chat.settle()
        assert "connection was lost" in chat.text(".turn:last-of-type .wrong")
        at, versions = chat.answers()
        assert versions[at]["state"] == "error" and chat.answer() and len(chat.text(".turn:last-of-type .text")) > 2
        chat.click(".turn:last-of-type .wrong button")
        chat.until("document.querySelector('.turn:last-of-type .wrong')?.innerText.includes('does not answer')")
        assert len(chat.answers()[1]) == 2
    tab.errors.clear()  # the lost connections


def test_refusals_name_the_field_and_the_remedy(endless, page_of, tab):
    chat = page_of(endless)
    chat.set(max_tokens=100000)
    chat.ask("Hi")
    assert "longer than the model's context" in chat.text(".wrong")
    chat.click(".wrong button")
    assert chat.js("document.querySelector('#sheet').open")
    chat.press("Escape")
    chat.set(temperature=0, max_tokens=5, stop="x" * 300)
    chat.ask("Hi")
    assert "stop" in chat.text(".turn:last-of-type .wrong") and "refused" in chat.text(".turn:last-of-type .wrong")
    chat.set(temperature=0, max_tokens=5)
    kept = chat.conversation()
    kept["columns"][0]["model"] = "of/yesterday"
    chat.js(f"localStorage.setItem('catena-chat:{kept['id']}', {json.dumps(json.dumps(kept))})")
    chat.open()
    assert "not served now" in chat.text("select")
    chat.click(".turn:last-of-type .foot .acts button", -1)
    chat.until("document.querySelector('.turn:last-of-type .wrong')?.innerText.includes('choose another')")
    chat.settle()
    tab.errors.clear()  # the refusals


def test_knobs_out_of_range_are_not_taken(endless, page_of):
    chat = page_of(endless)
    chat.click("#settings")
    chat.type("7", "#knob-0-temperature")
    assert not chat.js("document.querySelector('#knob-0-temperature').validity.valid")
    chat.press("Escape")
    assert chat.js("document.querySelector('.column button').innerText") == "T 0.3"


def test_an_old_entry_that_cannot_be_read_is_left_alone(endless, page_of):
    chat = page_of(endless)
    chat.js("localStorage.setItem('catena-chat:torn', '{\"id\": 3'), localStorage.setItem('catena-chat:odd', '{}')")
    chat.open()
    assert chat.js("document.querySelectorAll('#list li').length") == 0
    assert chat.js("localStorage.getItem('catena-chat:torn')") == '{"id": 3'
