"""A tab that shows the chat page of the real server over the tiny model."""

from __future__ import annotations

import json
import shutil

import pytest

from tasks.serve import client
from tests import browser


class Chat:
    """The page in a tab, in the words of one who uses it."""

    def __init__(self, tab, url):
        self.tab, self.url = tab, url.removesuffix("v1")
        self.js, self.until, self.text, self.press = tab.js, tab.until, tab.text, tab.press

    def open(self):
        """Load the page anew."""
        self.tab.goto(self.url)

    def start(self):
        """The page as one who was never here finds it."""
        self.open()
        self.js("localStorage.clear(), sessionStorage.clear()")
        self.open()

    def type(self, text, into="#prompt"):
        """Focus a field and put text into it, as pasting would."""
        self.js(f"document.querySelector({json.dumps(into)}).select()")
        self.tab.call("Input.insertText", text=text)

    def click(self, selector, at=0):
        """A real click in the middle of the `at`-th element."""
        place = f"[...document.querySelectorAll({json.dumps(selector)})].at({at})"
        self.js(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.js(f"(() => {{ const b = {place}.getBoundingClientRect(); "
                       "return [b.x + b.width / 2, b.y + b.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def set(self, column=0, **knobs):
        """Choose settings of a column in the sheet; others are emptied."""
        self.click("#settings")
        known = self.js(f"[...document.querySelectorAll('#knobs-{column} [id^=knob-]')].map((f) => f.id)")
        for field in known:
            value = knobs.pop(field.split("-", 2)[2], "")
            event = "change" if "choice" in field else "input"
            self.js(f"(() => {{ const f = document.getElementById('{field}'); f.value = {json.dumps(str(value))}; "
                    f"f.dispatchEvent(new Event('{event}')); }})()")
        assert not knobs, f"no knob {knobs}"
        self.press("Escape")
        self.until("!document.querySelector('#sheet').open")

    def ask(self, text):
        """Type a message and send it; waits for the end of all answers."""
        self.type(text)
        self.press("Enter")
        self.settle()

    def settle(self):
        """Wait until nothing is being written."""
        self.until("!document.querySelector('#send').hidden && !document.querySelector('[aria-busy=true]')")

    def conversation(self):
        """What is kept of the open conversation."""
        return json.loads(self.js("localStorage.getItem('catena-chat:' + "
                                  "Object.keys(localStorage).filter((k) => k.startsWith('catena-chat:'))"
                                  ".map((k) => JSON.parse(localStorage.getItem(k)))"
                                  ".sort((a, b) => b.updated - a.updated)[0].id)"))

    def answers(self, column=0, turn=-1):
        """(index of the answer shown, all answers) of a column to a turn."""
        found = self.conversation()
        tries = found["turns"][turn]["answers"][found["columns"][column]["id"]]
        return tries["at"], tries["versions"]

    def answer(self, column=0, turn=-1):
        """The text of the answer shown."""
        at, versions = self.answers(column, turn)
        return "".join(step["content"] for step in versions[at]["steps"])


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    """One Chromium for all tests of the page: starting it costs more than most of them."""
    if browser.found() is None:
        pytest.skip("no Chromium here: install one (Debian: chromium)")
    with browser.tab(tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


@pytest.fixture(scope="session")
def endless_model(tiny, tmp_path_factory):
    """Directory of a tiny model that never ends an answer by itself."""
    directory = shutil.copytree(tiny / "onnx", tmp_path_factory.mktemp("endless") / "onnx")
    (directory / "manifest.json").unlink()
    for name in ("config.json", "generation_config.json"):
        if (directory / name).is_file():
            values = json.loads((directory / name).read_text("utf-8"))
            (directory / name).write_text(json.dumps(values | {"eos_token_id": None}), "utf-8")
    return directory


@pytest.fixture(scope="session")
def endless(endless_model):
    """URL of the real server over that model."""
    with client.running(endless_model, threads=1, slots=4) as url:
        yield url


@pytest.fixture
def chat(tab, page_of, endless):
    """The page, never visited before, in English; the test fails for any error it logs."""
    yield page_of(endless)
    assert tab.errors == []


@pytest.fixture
def page_of(tab):
    """Makes the page of another server, never visited before."""
    def page(url):
        tab.call("Emulation.setLocaleOverride", locale="en-US")
        tab.size(1100, 800)
        made = Chat(tab, url)
        made.start()
        tab.errors.clear()
        return made
    return page
