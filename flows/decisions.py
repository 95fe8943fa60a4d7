"""What was decided on the way from a task set to a served model, and why: one JSON file, a node an entry.

A node whose inputs (by content) are those of an entry that stands, and whose artifact is still there, is not run again:
so a killed way goes on where it stood, and a changed task set runs what the change touches.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.stage import StageError

FILE = "decisions.json"
Node = dict[str, Any]  # {"choice": one word or name, "reason": a sentence, "numbers": {...}, "artifact": path or None}


class Decisions:
    """The entries of one way, in order, kept in `folder`/decisions.json."""

    def __init__(self, folder: Path, listen: Callable[[dict[str, Any], bool], None] | None = None):
        self.folder, self.listen = folder, listen
        self.entries: list[dict[str, Any]] = []
        self.before: dict[str, dict[str, Any]] = {}
        try:
            self.before = {entry["node"]: entry for entry in json.loads((folder / FILE).read_text(encoding="utf-8"))}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or a broken one, which is made anew

    def node(self, name: str, inputs: dict[str, Any], make: Callable[[], Node]) -> Node:
        """The decision `name`: the one that stands for `inputs`, or what `make` decides now."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
        old = self.before.get(name)
        kept = bool(old and old["key"] == key and (not old["artifact"] or (self.folder / old["artifact"]).exists()))
        entry = old if kept else {"node": name, "key": key, "inputs": inputs, "artifact": None, "numbers": {}, **make()}
        self.entries.append(entry)
        self.save()
        if self.listen:
            self.listen(entry, kept)
        return entry

    def save(self) -> None:
        """Write the entries made so far, aside and renamed; earlier ones that may still serve follow."""
        made = {entry["node"] for entry in self.entries}
        rest = [entry for name, entry in self.before.items() if name not in made]
        self._write([*self.entries, *rest])

    def finish(self) -> None:
        """Drop entries that this way did not pass."""
        self._write(self.entries)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{FILE}.partial"
        partial.write_text(json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / FILE)


def read(path: Path) -> list[dict[str, Any]]:
    """The decisions kept at `path`. Raises StageError where there are none."""
    if not path.is_file():
        raise StageError(f"{path} is not there: ./run adapt makes one (.adapt/NAME/{FILE})")
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(entries: list[dict[str, Any]]) -> str:
    """The way as a table: node, choice, why, numbers."""
    rows = ["| node | choice | why | numbers |", "| --- | --- | --- | --- |"]
    for entry in entries:
        numbers = "; ".join(f"{name} {shown(value)}" for name, value in entry["numbers"].items())
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in
                                      (entry["node"], entry["choice"], entry["reason"], numbers)) + " |")
    return "\n".join(rows) + "\n"


def shown(value: Any) -> str:
    """A number, or an estimate with its interval, as text."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(one)}" for key, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def estimates(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """"node: name" -> each pass rate with its interval that the decisions rest on (differences left out)."""
    found = {}
    for entry in entries:
        if entry["node"] == "candidate" or entry["node"].startswith(("trial", "quantize", "tools")):
            for name, value in entry["numbers"].items():
                if isinstance(value, dict) and "low" in value and name not in ("gain", "difference"):
                    found[f"{entry['node']}: {name}"] = value
    return found


def scores(entries: list[dict[str, Any]]) -> str:
    """An SVG of every pass rate with its 95 % interval, the target marked."""
    from tasks.report import figures

    made = estimates(entries)
    target = next((entry["numbers"]["target"] for entry in entries if entry["node"] == "gap"), None)
    return figures.bars({name: one["value"] for name, one in made.items()}, x="pass rate",
                        errors={name: (one["high"] - one["low"]) / 2 for name, one in made.items()},
                        marks=dict.fromkeys(made, target) if target is not None else None)


def planned(entries: list[dict[str, Any]]) -> str:
    """Predicted peak and minutes of each method, and measured ones of those that were run, as a table."""
    rows = ["| method | peak GiB, predicted | measured | minutes, predicted | measured |",
            "| --- | ---: | ---: | ---: | ---: |"]
    measured = {entry["choice"].removeprefix("tuned-"): entry["numbers"] for entry in entries
                if entry["node"].startswith("tune ") and entry["artifact"]}
    for entry in entries:
        if entry["node"] == "method":
            for name, plan in entry["numbers"].items():
                own = measured.get(name, {})
                cells = [name, f"{plan['peak GiB']:.2f}", shown(own.get("peak GiB, measured", "")),
                         f"{plan['minutes']:.2f}", shown(own.get("minutes, measured", ""))]
                rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
