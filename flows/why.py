"""What made this? The tree of stages above an artifact, a model or a score, with hashes, params, commits, machine, time.

    ./run why models/smollm2/int4              a path: what a stage wrote, or a file in it
    ./run why smollm2-int4                     a model of params.yaml's `models`
    ./run why smollm2-int4 pairs.acc           a score of its evaluation
    ./run why models/smollm2/int4 --prov FILE  the same as W3C PROV-JSON
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from flows import lineage
from flows.lineage import Entry, File, LineageError
from tasks import params

SHOWN = 100     # characters of a param's value


def main() -> int:
    """The command line. Exit codes: 0 told, 1 nothing known, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run why", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="a path, or the name of a model")
    parser.add_argument("score", nargs="?", help="TASK.METRIC of that model's evaluation")
    parser.add_argument("--rev", help="as of this commit (default: the working tree)")
    parser.add_argument("--prov", type=Path, metavar="FILE", help="write W3C PROV-JSON there instead")
    given = parser.parse_args()
    try:
        entries = lineage.read(given.rev)
        path, title = target(given.what, given.score, given.rev)
        found = lineage.maker(entries, path)
        if found is None:
            raise LineageError(f"no stage writes {path}: known are {', '.join(known(entries)[:8])} ...")
        if given.prov:
            document = lineage.prov(lineage.ancestors(entries, found[0]))
            given.prov.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{given.prov}: {len(document['activity'])} stages, {len(document['entity'])} files")
            return 0
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(
            Drawing(entries, lineage.text_at("dvc.lock", given.rev)).tree(*found, title))
    except (LineageError, params.ParamsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def known(entries: dict[str, Entry]) -> list[str]:
    """Every out."""
    return sorted(out.path for entry in entries.values() for out in entry.outs)


def target(what: str, score: str | None, revision: str | None) -> tuple[str, str]:
    """(path to explain, title) of what was typed. Raises LineageError."""
    models = params.load()["models"]
    if score is None:
        path = models.get(what, what).rstrip("/")
        return path.removeprefix("./"), path
    if what not in models:
        raise LineageError(f"no model {what!r}: models are {', '.join(models)}")
    path = f"metrics/evaluate/{what}.json"
    found: Any = json.loads(lineage.text_at(path, revision))["scores"]
    for step in score.split("."):
        if not isinstance(found, dict) or step not in found:
            raise LineageError(f"{path} has no score {score!r}: " + ", ".join(
                f"{task}.{name}" for task, metrics in json.loads(lineage.text_at(path, revision))["scores"].items()
                for name in metrics))
        found = found[step]
    return path, f"{what} {score} = {estimate(found)}"


def estimate(found: Any) -> str:
    """A score for a reader: value, standard error, 95 % interval and number of items, where it has them."""
    if not isinstance(found, dict) or not {"value", "stderr", "low", "high", "n"} <= found.keys():
        return json.dumps(found, ensure_ascii=False)[:SHOWN]
    return "{value:.3f} ± {stderr:.3f} (95 % {low:.3f} to {high:.3f}, n = {n})".format(**found)


class Drawing:
    """The tree of one lock, drawn once: a stage met again is not told again."""

    def __init__(self, entries: dict[str, Entry], lock: str) -> None:
        self.entries, self.lock, self.told = entries, lock, set[str]()

    def tree(self, entry: Entry, out: File, title: str) -> Tree:
        """The tree below one file: the stage that wrote it, its params and code, then what it read."""
        tree = Tree(f"[bold]{escape(title)}[/]  {size(out)}  md5 {out.md5[:12]}")
        again = entry.name in self.told
        stage = tree.add(f"made by [cyan]{escape(entry.name)}[/]" + ("  (told above)" if again else ""))
        if again:
            return tree
        self.told.add(entry.name)
        stage.add(escape(entry.cmd))
        for key, value in entry.params.items():
            stage.add(f"[dim]param[/] {escape(key)} = {escape(json.dumps(value, ensure_ascii=False)[:SHOWN])}")
        if entry.code:
            stage.add(f"[dim]code[/] {len(entry.code)} files, {escape(last_change([f.path for f in entry.code]))}")
        stage.add(f"[dim]since[/] {escape(lineage.entered(out.md5) or 'not committed')}")
        ran = lineage.run_of(entry.name, self.lock)
        stage.add(f"[dim]ran[/] {ran['seconds']:.0f} s, {ran['peak_mib']} MiB, on {escape(ran['machine'])}" if ran else
                  "[dim]ran[/] elsewhere or outside the flow: machine and time are not kept here")
        for file in entry.data:
            above = lineage.maker(self.entries, file.path)
            if above:
                stage.add(self.tree(above[0], file, file.path))
            else:
                stage.add(f"{escape(file.path)}  {size(file)}  md5 {file.md5[:12]}  (from the repository)")
        return tree


def size(file: File) -> str:
    """Bytes for a reader."""
    return f"{file.size / 1e6:.1f} MB" if file.size >= 1e5 else f"{file.size} bytes"


def last_change(paths: list[str]) -> str:
    """The last commit that touched any of these files."""
    line = lineage.git("log", "-1", "--format=last changed %h %cs %s", "--", *paths).strip()
    return line or "in no commit"


if __name__ == "__main__":
    sys.exit(main())
