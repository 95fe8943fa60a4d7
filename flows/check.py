"""params.yaml judged as a whole before anything runs, so that a slip in a late section costs no hour.

    python -m flows.check        one `error:` line a fault, exit code 2; silent where there is none

Each stage's command line is bound as its own process would bind it (tasks/stage.py); then every section of
params.yaml must belong to some stage.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Strict

from flows import graph
from tasks import params
from tasks import stage as stage_process

MODULE = re.compile(r"python -m (tasks(?:\.\w+)+)(.*)")
# read by parts (tracks.<name>), or by what runs stages
SHARED = {"tracks", "runtime", "retrain", "schedule", "cluster"}


def function_of(module: str) -> Callable[..., None]:
    """The function that a stage module hands to stage.run. Raises ParamsError where it has none."""
    tree = ast.parse(Path(module.replace(".", "/") + ".py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "stage.run" and node.args:
            return getattr(importlib.import_module(module), ast.unparse(node.args[0]))
    raise params.ParamsError(f"{module} hands no function to stage.run")


def bound(stage: graph.Stage) -> set[str]:
    """Dotted params sections that the stage reads, each validated. Raises ParamsError."""
    match = MODULE.fullmatch(stage.cmd.strip())
    if not match:
        return set(stage.params)  # a stage of the user's own, which judges itself
    function, argv = function_of(match.group(1)), shlex.split(match.group(2))
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            _, sections = stage_process.bind(function, argv)
    except SystemExit:
        line = usage.getvalue().strip().splitlines()[-1:]
        raise params.ParamsError(f"dvc.yaml: {stage.name}: {line[0] if line else 'bad command line'}") from None
    for name, value in sections.items():
        if isinstance(value, int | float | str):  # sections are strict by their models, a bare value is judged here
            params.section(Annotated[type(value), Strict()], name, params.load())
    track = argv[argv.index("--track") + 1] if "--track" in argv else None
    own = (params.load()["tracks"].get(track) or {}) if track else {}
    return {f"tracks.{track}.{name}" if name in own else name for name in sections}


def unowned(values: dict[str, Any], read: set[str]) -> list[str]:
    """Dotted sections of params.yaml that neither a stage reads nor dvc.yaml's templates name."""
    written = Path("dvc.yaml").read_text(encoding="utf-8")
    templates = set(re.findall(r"\$\{\s*(\w+)", written))
    known = {name.split(".")[0] for name in read} | templates | SHARED
    lost = [str(name) for name in values if name not in known]
    links = {name.split(".")[2] for name in read if name.startswith("tracks.")}
    links |= set(re.findall(r"tracks\.\$\{\w+\}\.(\w+)", written))  # of stages over an empty list too
    for track, sections in (values.get("tracks") or {}).items():
        if any(name.startswith(f"tracks.{track}.") for name in read):  # a track that no list names is at rest,
            lost += [f"tracks.{track}.{name}" for name in sections or {} if name not in links]  # so is a link of one
    return lost


def faults() -> list[str]:
    """One line for each fault of the params.yaml in the working directory."""
    found: list[str] = []
    read: set[str] = set()
    for stage in graph.read(Path.cwd()):
        try:
            read |= bound(stage)
        except params.ParamsError as error:
            if str(error) not in found:
                found.append(str(error))
    if not found:
        found = [f"params.yaml: {name}: no stage reads this section; remove it or correct its name"
                 for name in unowned(params.load(), read)]
    return found


def main() -> int:
    """Print the faults."""
    try:
        found = faults()
    except (params.ParamsError, graph.GraphError) as error:
        found = [str(error)]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
