"""What a run says on the terminal: one line an event, stage names aligned, progress redrawn in place.

Several stages write at once, so every line carries its stage. Where the output is no terminal, progress comes as
ordinary lines, at most one in ten seconds a stage.
"""

from __future__ import annotations

import sys
import threading
import time

EVERY = 10.0  # seconds between progress lines of one stage where they cannot be redrawn
COLOURS = {"Completed": 32, "Restored": 36, "Cached": 34, "Failed": 31, "Skipped": 33}


class Console:
    """Serialized writer to stdout; `width` is the length of the longest stage name."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.live = sys.stdout.isatty()
        self.lock = threading.Lock()
        self.drawn = False
        self.shown: dict[str, float] = {}

    def line(self, text: str, stage: str = "") -> None:
        """A lasting line, of `stage` where one is named."""
        head = f"{stage:>{self.width}} | " if stage else ""
        self._write(f"{head}{text}", lasting=True)

    def progress(self, text: str, stage: str) -> None:
        """A passing line: the next one takes its place on a terminal."""
        if not self.live and time.monotonic() - self.shown.get(stage, -EVERY) < EVERY:
            return
        self.shown[stage] = time.monotonic()
        self._write(f"{stage:>{self.width}} | {text}", lasting=not self.live)

    def state(self, stage: str, name: str, count: str, detail: str) -> None:
        """How `stage` ended, coloured on a terminal."""
        shown = f"\033[{COLOURS.get(name, 0)}m{name}\033[0m" if self.live else name
        self.line(f"{shown} [{count}] {detail}".rstrip(), stage)

    def _write(self, text: str, *, lasting: bool) -> None:
        with self.lock:
            clear = "\r\033[K" if self.drawn else ""
            if not lasting:
                text = text[:118]
            try:
                sys.stdout.write(f"{clear}{text}{'' if not lasting else chr(10)}")
                sys.stdout.flush()
            except BrokenPipeError:  # `./run | head`: the run goes on, its log is in the server
                pass
            self.drawn = not lasting
