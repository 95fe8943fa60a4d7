"""The page in a real browser, by keyboard alone: hostile documents, resuming, kill -9, two annotators, adjudication."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import browser

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">"><h1>big</h1>'
OVERRIDE = "invoice\u202efdp.exe\u200b and a family \U0001f468\u200d\U0001f469\u200d\U0001f467"
pytestmark = pytest.mark.skipif(browser.found() is None, reason="no Chromium here: install one (Debian: chromium)")


@contextlib.contextmanager
def served(folder, annotator, *words):
    """(process, address) of `./run annotate quality` in `folder`, ended with the block."""
    command = [sys.executable, "-m", "flows.annotate", "quality", "--annotator", annotator, "--port", "0", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield process, process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def folder(tmp_path):
    """A working directory with five documents of its own, two of them hostile."""
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    texts = {"hostile": HOSTILE, "override": OVERRIDE, "zh": "三国演义第一回。\n\n滚滚长江东逝水。", "en": "Plain.",
             "lines": "a\r\nb\n" * 2000}
    rows = [{"id": name, "text": text, "metadata": {"language": "zh" if name == "zh" else "en"}}
            | ({"label": "ads"} if name == "hostile" else {}) for name, text in texts.items()]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def page(tmp_path):
    with browser.tab(tmp_path / "profile") as page:
        yield page
        assert page.errors == []  # nothing thrown, nothing refused by the policy


def answers(folder, name):
    """The events in an annotator's file."""
    return [json.loads(line) for line in (folder / f"annotations/quality/{name}.jsonl").read_text("utf-8").splitlines()]


def shown_id(page):
    """The id of the item on the page, by its place in the server's order."""
    place = int(page.text("main > p").split()[1]) - 1
    return page.js(f"fetch('/api/state').then((r) => r.json()).then((s) => s.items[{place}].id)")


def test_by_keyboard_alone(folder, page):
    with served(folder, "amy", "--items", "mine.jsonl") as (process, url):
        page.goto(url)
        page.hold("1", 5)  # a key held labels no item unseen
        assert page.text("#count") == "0 answered of 5"
        order = []
        for turn in range(5):
            name = shown_id(page)
            order.append(name)
            check(page, name)
            page.press(("1", "Enter", "2", "s", "4")[turn])
        assert "Every item is answered or skipped" in page.text()
        assert page.text("#count") == "4 answered, 1 skipped of 5"
        events = answers(folder, "amy")
        suggested = "ads" if order[1] == "hostile" else "good"
        assert [(e["item"], e["label"]) for e in events] == list(zip(order, ["good", suggested, "ads", None, "broken"],
                                                                     strict=True))
        assert all(event["suggested"] for event in events)
        page.press("u", "u")  # back to the fourth, which was skipped
        assert page.text("main > p").startswith("Item 4 of 5") and page.text("#count") == "3 answered of 5"
        page.press("h", "c", *"zu kurz 7", "Escape", "c", *"1su", "Enter", "3")  # keys in the comment label nothing
        assert answers(folder, "amy")[-1] | {"time": 0} == {
            "action": "answer", "item": order[3], "label": "thin", "comment": "1su", "suggested": False, "by": None, "time": 0}
        assert page.text("main > p").startswith("Item 5 of 5") and page.text("#suggestion") == "Suggestion hidden"
        page.press("Enter")  # with the suggestion hidden there is none to give
        assert page.text("#count") == "4 answered of 5"
        page.press("k", "1")  # an earlier answer, edited: its comment stays
        assert answers(folder, "amy")[-1]["label"] == "good" and answers(folder, "amy")[-1]["comment"] == "1su"
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.press("2")  # nobody there: said, and nothing shown as answered
        assert "The server does not answer" in page.text("#notice") and page.text("#count") == "4 answered of 5"
        page.errors.clear()  # the refused connection
    with served(folder, "amy") as (_, url):
        page.goto(url)
        assert page.text("main > p").startswith("Item 5 of 5") and page.text("#count") == "4 answered of 5"


def check(page, name):
    """What each document must look like."""
    page.js("document.fonts.ready.then(() => true)")
    if name == "hostile":
        assert HOSTILE in page.text(".text") and page.js("document.title") == "quality · Catena annotation"
        assert page.js("document.querySelectorAll('main script, main img, main h1').length") == 0
        assert page.text("#suggestion") == "Pipeline: labelled in the file → ads"
    elif name == "override":
        assert page.text(".text") == OVERRIDE.replace("\u202e", "U+202E").replace("\u200b", "U+200B")
    elif name == "lines":
        assert page.js("document.querySelector('.text').textContent") == "a\r\nb\n" * 2000
    elif name == "zh":
        assert page.text(".text") == "三国演义第一回。\n\n滚滚长江东逝水。"


def test_a_megabyte_and_a_hundred_thousand_control_characters(folder, page):
    """Laid out as they come into view; in one piece the second took the browser more than 30 s."""
    huge = "数据" * 170_000 + "\n\U0001f468" * 2000 + "the end"
    rows = [{"id": "huge", "text": huge}, {"id": "controls", "text": "a\u202eb" * 100_000}]
    (folder / "big.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(folder, "amy", "--items", "big.jsonl") as (_, url):
        page.goto(url)
        for _ in rows:
            started = time.monotonic()
            if shown_id(page) == "huge":
                assert page.js("document.querySelector('.text').textContent") == huge
            else:
                assert page.js("document.querySelectorAll('.control').length") == 100_000
            page.press("2")
            assert time.monotonic() - started < 15
        assert page.text("#count") == "2 answered of 2"


def test_two_annotators_review_and_agree(folder, page):
    with served(folder, "amy", "--items", "mine.jsonl") as (_, amy), served(folder, "bob") as (_, bob):
        page.goto(amy)
        order = [shown_id(page)]
        page.press("1", "1", "2", "3", "4")
        page.goto(bob)
        page.press("1", "2", "2", "c", *"no", "Enter", "4", "4", "g")
        assert page.js("[...document.querySelectorAll('select')].map((s) => s.value)") == ["bob", "amy"]
        assert "60.0 %" in page.text() and "3 of 5 items" in page.text()
        rows = page.js("[...document.querySelectorAll('#confusion tr')].slice(1).map((r) => "
                       "[...r.cells].slice(1).map((c) => +c.innerText))")
        assert rows == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
        page.press("r")
        assert "Disagreement 1 of 2" in page.text() and page.text(".verdicts").split() == ["bob", "ads", "amy", "good"]
        page.press("2")
        assert "Disagreement 2 of 2; 1 adjudicated" in page.text() and page.text(".verdicts").split() == [
            "bob", "broken", "no", "amy", "thin"]
        page.press("3", "k", "j")
        assert page.text("#now") == "Adjudicated: thin (bob)"
        assert [(e["label"], e["by"]) for e in answers(folder, "adjudicated")] == [("ads", "bob"), ("thin", "bob")]
        exported = page.js("fetch('/api/export').then((r) => r.text())").splitlines()
        assert len(exported) == 5 and sum(json.loads(line)["adjudicated"] for line in exported) == 2
        page.press("a", "?")
        assert "give that label" in page.text("dialog") and page.js("document.querySelector('dialog').open")
        page.press("1")  # under the list of keys nothing is labelled
        page.press("Escape")
        assert len(answers(folder, "bob")) == 5 and order[0] in {event["item"] for event in answers(folder, "bob")}


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_both_schemes(folder, page, dark):
    """No sideways scrolling at 360 pixels; text stands out from its ground by WCAG AA's 4.5 to 1."""
    with served(folder, "amy", "--items", "mine.jsonl") as (_, url):
        page.size(360, 740, dark)
        page.goto(url)
        page.press("1", "2")
        for view in ("a", "r", "g"):
            page.press(view)
            assert page.js("document.documentElement.scrollWidth") <= 360
            assert page.js(CONTRAST) >= 4.5


CONTRAST = """(() => {
  const channel = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parts(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = [];
  for (const node of document.querySelectorAll(".quiet, .text, strong, #labels th, #labels td, button")) {
    if (!node.innerText || !node.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))];
    found.push((Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return Math.min(...found);
})()"""
