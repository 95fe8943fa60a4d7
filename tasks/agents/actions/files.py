"""Files of one directory: list, read, write. A path that leads out of it, by `..` or by a link, is refused.

Names are resolved with every link followed, and the file is then opened without following one, so that a link put
there between the two is an error and not a way out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.agents.tools import ActionError

READ = 8_000        # bytes of a file that are shown
WRITE = 100_000     # bytes of a file that are written
TOTAL = 10_000_000  # bytes that the directory may come to hold
Name = Annotated[str, Field(min_length=1, max_length=200, description="path inside the workspace")]


def actions(workspace: Path) -> list[Callable[..., str]]:
    """The three actions over the directory `workspace`."""
    root = workspace.resolve()

    def list_files() -> str:
        """list the files of the workspace"""
        found = [f"{path.relative_to(root)} ({path.stat().st_size} bytes)" for path in held(root)]
        return "\n".join(found) or "the workspace is empty"

    def read_file(path: Name) -> str:
        """read a text file of the workspace"""
        with opened(root, path, os.O_RDONLY) as file:
            data = file.read(READ + 1)
        try:
            text = data[:READ].decode("utf-8", errors="strict" if len(data) <= READ else "ignore")
        except UnicodeDecodeError:
            raise ActionError(f"read_file: {path} is no UTF-8 text") from None
        return text if len(data) <= READ else f"{text} [cut after {READ} bytes]"

    def write_file(path: Name, text: Annotated[str, Field(max_length=WRITE)]) -> str:
        """write a text file in the workspace"""
        data = text.encode("utf-8", errors="replace")
        if sum(file.stat().st_size for file in held(root)) + len(data) > TOTAL:
            raise ActionError(f"write_file: the workspace would pass {TOTAL} bytes")
        inside(root, path).parent.mkdir(parents=True, exist_ok=True)
        with opened(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(data)
        return f"{len(data)} bytes written to {path}"

    return [list_files, read_file, write_file]


def held(root: Path) -> list[Path]:
    """Regular files below `root`, sorted; links left out."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`, links followed. Raises ActionError where it leads out."""
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise ActionError(f"{name[:80]!r} is no path") from None
    if path == root or root not in path.parents:
        raise ActionError(f"{name[:80]!r} leads out of the workspace")
    return path


def opened(root: Path, name: str, flags: int):
    """A regular file of the workspace as a binary file object. Raises ActionError in one line."""
    path = inside(root, name)
    try:
        # O_NONBLOCK: a named pipe must not hold the agent up
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        raise ActionError(f"{name[:80]}: {getattr(error, 'strerror', None) or error}") from None
    file = os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "rb")
    if not path.is_file():
        file.close()
        raise ActionError(f"{name[:80]} is no regular file")
    return file
