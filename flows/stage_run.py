"""One stage run through DVC in a process group of its own: its lines streamed, its end named.

DVC has the last word on whether a stage runs: "didn't change" is Cached, "is cached" in the run-cache is Restored.
"""

from __future__ import annotations

import codecs
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows import reproduce
from flows.environment import stage_environment

BUSY_PAUSE = 5.0      # seconds between tries while another DVC process holds a path of the stage
BUSY_PATIENCE = 1800  # seconds of such tries before the stage counts as failed
QUIET = re.compile(r"""^(Updating\ lock\ file | Generating\ lock\ file | To\ track\ the\ changes | \s*git\ add\ |
                        To\ enable\ auto\ staging | \s*dvc\ config\ core\.autostage | Use\ `dvc\ push` |
                        Running\ stage\ | >\  | Stage\ '.*'\ didn't\ change | Data\ and\ pipelines\ are\ up | $)""",
                   re.VERBOSE)  # DVC's own lines, which the state's line says better

live: set[int] = set()  # process groups now running; a run that ends early kills what is left here
guard = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: Cached, Restored, Completed or Failed, with one line of why, seconds and peak memory."""

    name: str
    message: str
    seconds: float
    peak_mib: int


def run_stage(name: str, workspace: Path, say: Callable[[str, bool], None], force: bool = False) -> Outcome:
    """Run stage `name` of the DVC repository `workspace`; `say(line, passing)` gets each line of its output. `force`
    runs it though nothing it depends on has changed.

    Waits while another DVC process is busy with the stage's paths. The stage's whole process group is dead when
    this returns or raises.
    """
    begin = time.monotonic()
    while True:
        code, lines, peak = attempt(name, workspace, say, force)
        busy = code != 0 and any("is busy, it is being blocked by" in line for line in lines)
        if not busy or time.monotonic() - begin > BUSY_PATIENCE:
            break
        say("waiting: another DVC process is busy with this stage's files", True)
        time.sleep(BUSY_PAUSE)
    seconds = time.monotonic() - begin
    if code != 0:
        return Outcome("Failed", reason(code, lines), seconds, peak)
    if any("is cached - skipping run" in line for line in lines):
        return Outcome("Restored", "outputs brought back from DVC's run cache", seconds, peak)
    if any("didn't change, skipping" in line for line in lines):
        return Outcome("Cached", "code, inputs and outputs unchanged", seconds, peak)
    return Outcome("Completed", f"ran in {seconds:.1f} s, peak memory {peak} MiB", seconds, peak)


def attempt(name: str, workspace: Path, say: Callable[[str, bool], None], force: bool
            ) -> tuple[int, list[str], int]:
    """One `dvc repro --single-item`: (exit code, last 200 lines, peak resident MiB of its largest process)."""
    command = [sys.executable, "-P", str(Path(reproduce.__file__)), name, *(["--force"] if force else [])]
    process = subprocess.Popen(command, cwd=workspace, env=stage_environment(workspace), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    with guard:
        live.add(process.pid)
    ended: list[tuple[int, int]] = []
    waiter = threading.Thread(target=lambda: ended.append(reap(process)), daemon=True)
    waiter.start()
    lines: deque[str] = deque(maxlen=200)
    try:
        for text, passing in split(process.stdout.fileno()):
            if not passing:
                lines.append(text)
            if not QUIET.match(text):
                say(text, passing)
        waiter.join()
        return ended[0][0], list(lines), ended[0][1]
    finally:
        kill(process.pid)
        waiter.join()
        process.stdin.close()
        process.stdout.close()
        with guard:
            live.discard(process.pid)


def reap(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for DVC, then kill what it left behind, which would hold the output open: (exit code, peak MiB)."""
    _, status, usage = os.wait4(process.pid, 0)
    kill(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss // (1024 if sys.platform == "linux" else 1024 * 1024)


def split(descriptor: int) -> Iterator[tuple[str, bool]]:
    """(line, passing) from a file descriptor until its end; a line ended by a carriage return is passing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while chunk := os.read(descriptor, 65536):
        rest += decoder.decode(chunk)
        *parts, rest = re.split(r"(\r\n|\n|\r(?=.))", rest, flags=re.DOTALL)
        for text, end in zip(parts[::2], parts[1::2]):
            yield text.rstrip(), end == "\r"
        if parts and parts[-1] == "\r" and rest.strip():  # a bar writes \r first: show it now, not at its next move
            yield rest.rstrip(), True
            rest = ""
    if rest.strip():
        yield rest.rstrip(), False


def kill(group: int) -> None:
    """Kill whatever is left of a process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_all() -> None:
    """Kill every stage of this process that is still running."""
    with guard:
        groups = list(live)
    for group in groups:
        kill(group)


def reason(code: int, lines: list[str]) -> str:
    """The stage's own `error:` line, else DVC's, else the exit code."""
    for mark in ("error: ", "ERROR: "):
        for line in lines:
            if line.startswith(mark):
                return line[len(mark):]
    if code < 0:
        return f"killed by {signal.Signals(-code).name} (the kernel does so when memory runs out)"
    return f"exit code {code} and no message; last line: {lines[-1] if lines else 'none'}"
