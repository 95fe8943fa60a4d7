"""An annotator's answers on disk: one append-only jsonl file, a line an event, on disk before it counts as given.

    {"action": "answer", "item": ID, "label": NAME, "comment": TEXT, "suggested": true, "by": null, "time": UTC}
    {"action": "skip", "item": ID, "label": null, ...}
    {"action": "undo", "item": ID}          takes back the last event that still stands

The last event of an item that still stands is its answer. Every append takes the file's lock and reads what others
wrote first, so two pages or processes on one file merge, the later answer of an item winning. A line that a crash or
a full disk cut short is moved to `<file>.fragment` with a notice; nothing that was acknowledged is ever rewritten.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.stage import StageError


@dataclass(frozen=True)
class Answer:
    """One event that stands. `label` None: skipped. `suggested`: the pipeline's label was on show. `by`: who
    adjudicated, in the file of adjudications."""

    item: str
    label: str | None
    comment: str = ""
    suggested: bool = False
    by: str | None = None


class AnswerLog:
    """The answers in `path`, whose labels must be among `labels`. Safe for threads and for processes."""

    def __init__(self, path: Path, labels: Collection[str]):
        self.path, self.labels = path, labels
        self.notices: list[str] = []
        self._guard = threading.Lock()
        self._forget()

    def answers(self) -> dict[str, Answer]:
        """Item -> its answer, in the order last answered. Raises StageError naming a line that is no event."""
        with self._guard:
            try:
                with locked(self.path, os.O_RDONLY, fcntl.LOCK_SH) as file:
                    self._refresh(file)
            except FileNotFoundError:
                self._forget()
            return self._current()

    def append(self, answer: Answer) -> None:
        """Put `answer` on disk; it is there when this returns. Raises OSError, and then the file is as it was."""
        with self._writing() as file:
            self._write(file, {"action": "skip" if answer.label is None else "answer", **asdict(answer)})

    def undo(self) -> Answer | None:
        """Take back the last event that stands and return it; None where there is none."""
        with self._writing() as file:
            last = self._standing[-1] if self._standing else None
            if last:
                self._write(file, {"action": "undo", "item": last.item})
            return last

    def _current(self) -> dict[str, Answer]:
        found: dict[str, Answer] = {}
        for answer in self._standing:
            found.pop(answer.item, None)
            found[answer.item] = answer
        return found

    def _forget(self) -> None:
        self._inode, self._end, self._lines = 0, 0, 0
        self._standing: list[Answer] = []

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        """The file, locked, read to its end and mended."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._guard, locked(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, fcntl.LOCK_EX) as file:
            if fragment := self._refresh(file):
                self._mend(file, fragment)
            yield file

    def _refresh(self, file: int) -> bytes:
        """Take the whole lines that were added since the last look; returns what follows the last line break."""
        status = os.fstat(file)
        if status.st_ino != self._inode or status.st_size < self._end:
            self._forget()
            self._inode = status.st_ino
        added = b""
        while piece := os.pread(file, 1 << 20, self._end + len(added)):
            added += piece
        whole, end, fragment = added.rpartition(b"\n")
        for line in whole.split(b"\n") if end else ():
            try:
                self._take(line)
            except (ValueError, KeyError, TypeError) as error:
                place = f"{self.path}:{self._lines + 1}"
                raise StageError(f"{place} is no answer ({type(error).__name__}: {error}): mend that line or move it "
                                 "to another file; nothing was changed") from None
            self._lines += 1
            self._end += len(line) + 1
        return fragment

    def _take(self, line: bytes) -> None:
        """Apply one event. Raises ValueError, KeyError or TypeError where the line is none."""
        event = json.loads(line)
        if event["action"] == "undo":
            if self._standing:
                self._standing.pop()
            return
        answer = Answer(event["item"], event["label"], event["comment"], event["suggested"], event["by"])
        if event["action"] not in ("answer", "skip") or not isinstance(answer.item, str):
            raise ValueError(f"action {event['action']!r} on item {answer.item!r}")
        if (answer.label is None) != (event["action"] == "skip") or answer.label not in (None, *self.labels):
            raise ValueError(f"label {answer.label!r} is none of {', '.join(self.labels)}")
        self._standing.append(answer)

    def _mend(self, file: int, fragment: bytes) -> None:
        """A last line without its end: completed where the whole event is there, else moved beside the file."""
        try:
            self._take(fragment)
        except (ValueError, KeyError, TypeError):
            beside = self.path.with_name(f"{self.path.name}.fragment")
            with beside.open("ab") as kept:
                kept.write(fragment + b"\n")
                kept.flush()
                os.fsync(kept.fileno())
            os.ftruncate(file, self._end)
            os.fsync(file)
            self.notices.append(f"{self.path} ended in a line cut short ({len(fragment)} bytes, no whole answer): "
                                f"moved to {beside.name}")
            return
        os.write(file, b"\n")
        os.fsync(file)
        self._lines += 1
        self._end += len(fragment) + 1

    def _write(self, file: int, event: dict) -> None:
        """Append `event`, synchronized; on any error the file is cut back to where it ended."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({**event, "time": stamp}, ensure_ascii=False, sort_keys=True).encode() + b"\n"
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(file, left):]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self._end)
            raise
        self._take(line)
        self._lines += 1
        self._end += len(line)


@contextlib.contextmanager
def locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    """The open file of `path` under an flock; opened again where another file has taken its name meanwhile."""
    while True:
        new = flags & os.O_CREAT and not path.exists()
        file = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, lock)
            try:
                same = os.path.samestat(os.fstat(file), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                if new:
                    synchronize(path.parent)
                yield file
                return
        finally:
            os.close(file)


def synchronize(folder: Path) -> None:
    """Put the names in `folder` on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` aside, synchronized, then renamed: the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(path)
        synchronize(path.parent)
    finally:
        partial.unlink(missing_ok=True)
