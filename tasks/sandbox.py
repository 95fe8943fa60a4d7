"""Runs Python that a model wrote, without letting it near the machine.

The code runs in a pydantic-monty worker: a separate process that interprets a subset of Python with no imports but
a few pure modules, no files, no network, no environment, and hard limits on time, memory, recursion and output.
There is no fallback to the host's own interpreter: where the worker cannot start, `run` refuses with the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

SECONDS = 1.0                    # of running time; a plain calculation takes a thousandth of it
MEMORY = 32 << 20                # bytes of interpreter heap
RECURSION = 200                  # frames
OUTPUT = 4_000                   # characters of printed text and of the value, each
SOURCE = 8_000                   # characters of code
FROZEN = datetime(2024, 1, 1, tzinfo=UTC)   # what the sandbox's clock says, so that a run repeats


class SandboxError(RuntimeError):
    """The code did not finish; the message is one line fit to be shown to the model that wrote it."""


class SandboxUnavailable(RuntimeError):
    """There is no sandbox on this machine; the message says why and what would help."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run printed and the value of its last expression (None where it has none)."""

    printed: str
    value: Any


class Sandbox:
    """A warm worker; every `run` gets a fresh session, so nothing is carried from one run to the next."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.limits = {
            "max_feed_duration_secs": seconds, "max_memory": memory, "max_recursion_depth": RECURSION,
            "max_suspensions": 16, "max_total_sleep_secs": 0.0,
        }
        self.policy = {"datetime": FROZEN, "sleep": "zero", "random_start": {"seed": 0}}
        # the parent kills a worker that outlives its own limit, so a fault in the worker's clock is no way out
        self.deadline = seconds * 3 + 1

    def __enter__(self) -> Sandbox:
        try:
            from pydantic_monty import Monty

            self._pool = Monty(max_processes=1, request_timeout=self.deadline)
            self._pool.__enter__()
        except Exception as error:
            raise SandboxUnavailable(
                f"no sandbox for model-written Python: {' '.join(str(error).split())}; "
                "install pydantic-monty with its worker binary (pydantic-monty-runtime)"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, trace)

    def run(self, code: str) -> Outcome:
        """Run `code` (at most SOURCE characters) and return what it printed and its last expression's value.

        Raises SandboxError on any fault of the code or a limit reached, SandboxUnavailable when the worker is gone.
        """
        from pydantic_monty import CollectString, MontyCrashedError, MontyError

        if len(code) > SOURCE:
            raise SandboxError(f"the code is {len(code)} characters long, at most {SOURCE} are run")
        printed = CollectString(max_bytes=OUTPUT)
        try:
            with self._pool.checkout(limits=self.limits, os_policy=self.policy) as session:
                value = session.feed_run(code, print_callback=printed)
        except MontyCrashedError as error:
            raise SandboxError(f"the interpreter was stopped after {self.deadline:g} s") from error
        except MontyError as error:
            raise SandboxError(self._reason(error)) from error
        return Outcome(printed.output, value)

    def _reason(self, error: Exception) -> str:
        """The fault in one line, without measured seconds or bytes: the same code gives the same line."""
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        if "time limit exceeded" in last:
            return f"TimeoutError: the code ran longer than {self.limits['max_feed_duration_secs']:g} s"
        over = re.search(r"memory limit exceeded: \d+ bytes > (\d+) bytes", last)
        if over and int(over.group(1)) == OUTPUT:
            return f"OutputError: the code printed more than {OUTPUT} bytes"
        if over:
            return f"MemoryError: the code needed more than {int(over.group(1)) >> 20} MiB"
        return last if ":" in last or "Error" in last else f"SyntaxError: {last}"
