"""What changed between two revisions: params, code, data, and the scores that followed, with 95 % intervals.

    ./run diff HEAD~5 HEAD
    ./run diff v1              against the working tree
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import lineage
from flows.lineage import LineageError

Z = 1.96                # of a 95 % interval of a normal estimate
LOWER_IS_BETTER = ("bits_per_byte", "bpb", "perplexity", "kl")
ABSENT = "(none)"


@dataclass(frozen=True)
class Change:
    """A score at both revisions. `low` and `high` bound the difference; None where no error is known."""

    name: str
    before: float
    after: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """better, worse, or what the interval cannot tell."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "cannot tell" if self.low is not None else ""
        rose = self.low > 0
        return "better" if rose != self.name.endswith(LOWER_IS_BETTER) else "worse"


def main() -> int:
    """The command line. Exit codes: 0 told, 1 a revision that is none, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run diff", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit, tag or branch")
    parser.add_argument("after", nargs="?", help="another (default: the working tree)")
    given = parser.parse_args()
    try:
        before, after = lineage.read(given.before), lineage.read(given.after)
        told = params_changed(given.before, given.after)
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        table(console, "params", ("key", "before", "after"), told)
        table(console, "code", ("file", "stages that read it"), code_changed(before, after))
        table(console, "data", ("artifact", "made by", "before", "after"), data_changed(before, after))
        scores = list(scores_changed(given.before, given.after))
        table(console, "scores", ("score", "before", "after", "difference, 95 %", ""), [
            (one.name, f"{one.before:.4g}", f"{one.after:.4g}", interval(one), one.verdict) for one in scores])
        if scores:
            console.print("Intervals are of two independent samples; both revisions answered the same items where the "
                          "evaluation sets are the same, so a paired comparison would be narrower.")
    except (LineageError, yaml.YAMLError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def table(console: Console, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows under a title, or that there are none."""
    if not rows:
        console.print(f"{title}: the same")
        return
    drawn = Table(*head, title=f"{title}: {len(rows)} changed", title_justify="left")
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    console.print(drawn)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted key -> value; lists are values."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {key: leaf for name, inner in value.items()
            for key, leaf in flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}


def params_changed(before: str, after: str | None) -> list[tuple[str, str, str]]:
    """Rows of params.yaml's values that differ, `runtime` left out: it changes no artifact."""
    old, new = (flat(yaml.safe_load(lineage.text_at("params.yaml", revision)) or {}) for revision in (before, after))
    return [(key, shown(old, key), shown(new, key)) for key in sorted(old.keys() | new.keys())
            if not key.startswith("runtime.") and old.get(key, ABSENT) != new.get(key, ABSENT)]


def shown(values: dict[str, Any], key: str) -> str:
    """A value for a table's cell."""
    return json.dumps(values[key], ensure_ascii=False)[:80] if key in values else ABSENT


def code_changed(before: dict[str, lineage.Entry], after: dict[str, lineage.Entry]) -> list[tuple[str, str]]:
    """Rows of code files whose hash differs, with the stages that depend on them."""
    readers: dict[str, set[str]] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = ({file.path: file.md5 for file in side[name].code} if name in side else {}
                    for side in (before, after))
        for path in old.keys() | new.keys():
            if old.get(path) != new.get(path):
                readers.setdefault(path, set()).add(name)
    return [(path, ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""))
            for path, names in sorted(readers.items())]


def data_changed(before: dict[str, lineage.Entry], after: dict[str, lineage.Entry]) -> list[tuple[str, str, str, str]]:
    """Rows of outs whose hash differs."""
    old, new = ({out.path: (entry.name, out) for entry in side.values() for out in entry.outs}
                for side in (before, after))
    return [(path, (new.get(path) or old[path])[0], described(old.get(path)), described(new.get(path)))
            for path in sorted(old.keys() | new.keys())
            if (path in old and old[path][1].md5) != (path in new and new[path][1].md5)]


def described(found: tuple[str, lineage.File] | None) -> str:
    """An out's short hash and size."""
    return f"{found[1].md5[:8]} {found[1].size:,} bytes" if found else ABSENT


def scores_changed(before: str, after: str | None) -> Iterator[Change]:
    """Every estimate (value with a standard error) of the metrics files that both revisions have, where it moved."""
    names = lineage.git("ls-tree", "-r", "--name-only", before, "metrics/").split()
    for path in sorted(name for name in names if name.endswith(".json")):
        try:
            old, new = (dict(estimates(json.loads(lineage.text_at(path, revision)))) for revision in (before, after))
        except LineageError:
            continue    # the file is gone: the data table says so
        for key in sorted(old.keys() & new.keys()):
            (value, error), (later, other) = old[key], new[key]
            if (value, error) != (later, other):
                spread = Z * math.hypot(error, other)
                yield Change(f"{path.removeprefix('metrics/').removesuffix('.json')} {key}", value, later,
                             later - value - spread, later - value + spread)


def estimates(value: Any, prefix: str = "") -> Iterator[tuple[str, tuple[float, float]]]:
    """(dotted key, (value, standard error)) of every estimate in a metrics file."""
    if not isinstance(value, dict):
        return
    if {"value", "stderr"} <= value.keys():
        yield prefix, (value["value"], value["stderr"])
        return
    for name, inner in value.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(inner, (int, float)) and f"{name}_stderr" in value:
            yield key, (inner, value[f"{name}_stderr"])
        yield from estimates(inner, key)


def interval(change: Change) -> str:
    """The difference and its bounds."""
    return f"{change.after - change.before:+.4g} ({change.low:+.4g} to {change.high:+.4g})"


if __name__ == "__main__":
    sys.exit(main())
