"""Headless Chromium driven over its DevTools protocol: real key presses, real clicks, what the page really shows."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
SHIFT = 8  # of Input.dispatchKeyEvent's modifiers
PATIENCE = 30


def found() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: Any):
        self.socket, self.calls, self.errors = socket, 0, []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result; uncaught errors and console errors met on the way are kept."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == self.calls:
                assert "error" not in message, message
                return message["result"]

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression (awaited)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + PATIENCE
        while not self.js(condition):
            assert time.monotonic() < end, f"never: {condition}; the page: {self.js('document.body.innerText')[:2000]}"
            time.sleep(0.02)

    def goto(self, url: str) -> None:
        """Open a page and wait until it shows its first content."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && !document.body.hasAttribute('aria-busy')"
                   " && !document.querySelector('#main').innerText.startsWith('Loading')")

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press keys, one after another, each when the page has dealt with the one before."""
        for key in keys:
            event = {"key": key, "windowsVirtualKeyCode": CODES.get(key, ord(key[0].upper())), "modifiers": modifiers}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)
            self.until("!document.body.hasAttribute('aria-busy')")

    def hold(self, key: str, times: int) -> None:
        """Send the repeats of a key held down."""
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key, autoRepeat=True)
        self.until("!document.body.hasAttribute('aria-busy')")

    def text(self, selector: str = "body") -> str:
        """What an element shows."""
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Resize the view and choose the colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def tab(profile: Path) -> Iterator[Page]:
    """A tab of a fresh Chromium that keeps its state in `profile`, ended with the block."""
    process = subprocess.Popen([found(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                                "--disable-dev-shm-usage", "--disable-background-networking", "--no-proxy-server",
                                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        note, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not note.exists() or note.read_text().count("\n") < 1:
            assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        port, path = note.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as browser:
            made = Page(browser).call("Target.createTarget", url="about:blank")["targetId"]
        with connect(f"ws://127.0.0.1:{port}/devtools/page/{made}", max_size=None, proxy=None) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            yield page
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
