"""Start the project's own server in its own process, for as long as a `with` block lasts.

    with client.running(Path("models/smollm2/onnx"), threads=2) as base_url:
        openai.OpenAI(base_url=base_url, api_key="none")
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

START_LIMIT, STOP_LIMIT = 120, 40


class ServerError(RuntimeError):
    """The server did not start; the message is its own line."""


@contextlib.contextmanager
def running(model: Path, *, threads: int, slots: int = 8, kv: str = "fp16") -> Iterator[str]:
    """Serve `model` on a free loopback port; yields the base URL (`http://127.0.0.1:N/v1`), ends it afterwards.

    The server dies with this process, however that ends. Raises ServerError when it does not get ready.
    """
    with process(model, threads=threads, slots=slots, kv=kv) as (_, url):
        yield url


@contextlib.contextmanager
def process(model: Path, *, threads: int, slots: int = 8, kv: str = "fp16") -> Iterator[tuple[psutil.Process, str]]:
    """As `running`, with the server's process beside its URL."""
    command = [sys.executable, "-m", "tasks.serve.api", str(model), "--port", "0", "--threads", str(threads),
               "--slots", str(slots), "--kv", kv, "--private"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            url = wait_ready(server, log)
            yield psutil.Process(server.pid), url
        finally:
            server.terminate()
            try:
                server.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_ready(server: subprocess.Popen, log) -> str:
    """The URL of the server's ready line. Raises ServerError with its own error if it ends or takes too long."""
    started = time.monotonic()
    while True:
        ended = server.poll() is not None
        log.seek(0)
        lines = log.read().splitlines()
        ready = [line for line in lines if line.startswith("ready: ")]
        if ready:
            return ready[0].split()[1]
        if ended or time.monotonic() - started > START_LIMIT:
            said = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["it said nothing"]
            raise ServerError(f"the server {'ended' if ended else f'was not ready in {START_LIMIT} s'}: "
                              f"{said[0].removeprefix('error: ')}")
        time.sleep(0.05)
