"""The world that one task is tried in: its tools, its files, its table, and what stands there at the end."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.agents import loop
from tasks.agents.actions import database, files, python, search, units
from tasks.agents.actions.calculator import calculator
from tasks.sandbox import Sandbox
from tasks.agents.tools import Action
from tasks.agents.trials import Trial, passes


class World:
    """A task's tools over a directory of its own."""

    def __init__(self, trial: Trial, folder: Path, index: search.Index, sandbox: Sandbox) -> None:
        self.trial, self.workspace, self.asked = trial, folder / "workspace", 0
        self.workspace.mkdir()
        for name, text in trial.files:
            (self.workspace / name).write_text(text, encoding="utf-8")
        if "sql" in trial.tools:
            with closing(sqlite3.connect(folder / "orders.db")) as connection, connection:
                connection.execute("CREATE TABLE orders (customer TEXT, item TEXT, pieces INTEGER)")
                connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", trial.rows)
        listing, reading, writing = files.actions(self.workspace)
        makers: dict[str, Callable[[], Action]] = {
            "calculator": lambda: Action.of(calculator), "convert": lambda: Action.of(units.convert),
            "search": lambda: Action.of(index.action(), outside=True),
            "python": lambda: Action.of(python.action(sandbox)), "stock": lambda: Action.of(self.stock, outside=True),
            "list_files": lambda: Action.of(listing), "read_file": lambda: Action.of(reading, outside=True),
            "write_file": lambda: Action.of(writing, scope="write"),
            "sql": lambda: Action.of(database.action(folder / "orders.db"), outside=True)}
        self.actions = [makers[name]() for name in trial.tools]

    def stock(self, item: str) -> str:
        """pieces of an item in stock"""
        self.asked += 1
        if self.asked == 1:
            return self.trial.broken
        count = next((pieces for _, name, pieces in self.trial.rows if name == item), None)
        return json.dumps({"item": item, "count": count})

    def approve(self, tool: str, arguments: str) -> bool:
        """A person who agrees to what was asked for: files that the question names, no others."""
        try:
            return str(json.loads(arguments)["path"]) in self.trial.question
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    def solved(self, answer: str | None) -> bool:
        """Whether the task is done: the answer right, where one is asked for, and the files as they must be."""
        for name, text in self.trial.ends:
            path = self.workspace / name
            if (path.read_text(encoding="utf-8").strip() if path.is_file() else None) != text:
                return False
        return passes(self.trial, answer) if self.trial.expected else True


@contextmanager
def world(trial: Trial, index: search.Index, sandbox: Sandbox) -> Iterator[World]:
    """A fresh world for one run, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="catena-agent-") as folder:
        yield World(trial, Path(folder), index, sandbox)


def effects(run: loop.Run) -> list[tuple[str, str]]:
    """Calls of a run that were made and changed something: (tool, arguments)."""
    return [(call["tool"], call["arguments"]) for call, event in zip(run.events, run.events[1:])
            if call["event"] == "call" and call["tool"] == "write_file" and event["event"] == "result"]
