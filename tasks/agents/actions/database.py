"""Answers from a SQLite file that can only be read.

Four fences, each enough against most of what a model may write: the file is opened read-only, an authorizer allows
SELECT, reading and functions alone (no ATTACH, no PRAGMA, no load_extension), a clock stops a query that runs on, and
rows and cells are counted.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import Field

from tasks.agents.tools import ActionError

SECONDS = 2.0   # of one query
ROWS = 20       # shown
CELL = 80       # characters of a cell shown
STEPS = 2_000   # virtual machine instructions between two looks at the clock
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def action(path: Path) -> Callable[..., str]:
    """The action `sql` over the database at `path`. Raises ActionError where it is none."""
    tables = run(path, "select name || '(' || (select group_concat(name, ', ') from pragma_table_info(t.name)) || ')' "
                       "from sqlite_master t where type in ('table', 'view') order by name", trusted=True)
    if not tables:
        raise ActionError(f"{path} holds no table")

    def sql(query: Annotated[str, Field(min_length=1, max_length=2_000)]) -> str:
        return shown(run(path, query))

    sql.__doc__ = f"read the database with one SELECT; tables: {'; '.join(row[0] for row in tables[1:])[:600]}"
    return sql


def run(path: Path, query: str, *, trusted: bool = False) -> list[tuple]:
    """Column names and at most ROWS + 1 rows of one query; `trusted` queries are our own. Raises ActionError."""
    deadline = time.monotonic() + SECONDS
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise ActionError(f"{path} cannot be opened: {error}") from None
    try:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)   # bytes of one value: no zeroblob(1e9)
        if not trusted:
            connection.set_authorizer(lambda code, *_: sqlite3.SQLITE_OK if code in READS else sqlite3.SQLITE_DENY)
        cursor = connection.execute(query)
        head = tuple(column[0] for column in cursor.description or ())
        return [head, *cursor.fetchmany(ROWS + 1)] if head else []
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        late = time.monotonic() > deadline
        raise ActionError(f"sql: stopped after {SECONDS:g} s" if late else f"sql: {' '.join(str(error).split())}"
                          ) from None
    finally:
        connection.close()


def shown(rows: list[tuple]) -> str:
    """Rows as lines, the head first."""
    if len(rows) < 2:
        return "no rows"
    lines = [" | ".join(str(value)[:CELL] for value in row) for row in rows[:ROWS + 1]]
    return "\n".join([*lines, "(more rows)"] if len(rows) > ROWS + 1 else lines)
