"""A file of answers that outlives the process that asked: (key, answer) lines, appended and never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.stage import StageError


def append(path: Path, answers: Iterable[tuple[str, Any]]) -> None:
    """Add (key, answer) pairs in one write that is on the disk when this returns. Raises StageError where it is full."""
    lines = "".join(json.dumps([one, answer], ensure_ascii=False) + "\n" for one, answer in answers).encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(handle, lines) != len(lines):
            raise StageError(f"{path}: the disk is full; free space and run again, what was answered is kept")
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """The answers kept in a file, by key. A last line torn by a crash is cut off, so that the next write stands alone.

    Raises StageError where another line is broken: the file was changed by something else.
    """
    if not path.is_file():
        return {}
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)
    answers = {}
    for number, line in enumerate(whole[:end].splitlines(), 1):
        try:
            one, answer = json.loads(line)
            answers[one] = answer
        except (ValueError, TypeError):
            raise StageError(f"{path}:{number} is no answer: remove {path.parent} to ask again") from None
    return answers
