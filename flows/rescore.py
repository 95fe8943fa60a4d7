"""The same items for two models: a model directory answers an evaluation set other than the one of its own run.

The command is that of the chain's own `evaluate@NAME` stage with other paths in it, so whatever scores there scores
here. Answers are kept by what made them (model, set, code, params), so a question is asked once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from flows import graph
from flows.environment import stage_environment

EVALSETS = "data/evalsets"
CORPUS = "data/corpus"


class RescoreError(RuntimeError):
    """A model could not be scored; one line."""


def stage_of(stages: list[graph.Stage], name: str) -> graph.Stage:
    """The stage that evaluates `name`. Raises RescoreError where none does."""
    for stage in stages:
        if stage.name == f"evaluate@{name}":
            return stage
    raise RescoreError(f"retrain.metrics: {name} is not evaluated (known: " + ", ".join(
        stage.name.removeprefix("evaluate@") for stage in stages if stage.name.startswith("evaluate@")) + ")")


def conditions(lock: dict[str, Any], name: str, model: str) -> dict[str, Any]:
    """All that decides an evaluation but the model: hashes of the set and the code, params; of a raw dvc.lock."""
    entry = lock["stages"].get(f"evaluate@{name}") or {}
    deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", ()) if dep["path"] != model}
    deps.pop(CORPUS, None)      # tells of overlap with what was trained on, of no answer
    return {"items": deps.pop(EVALSETS, None), "code": deps, "params": entry.get("params")}


def read(path: Path) -> list[dict[str, Any]]:
    """The answers of a file, one JSON line an item. Raises RescoreError where it is none."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RescoreError(f"{path} holds no answers: {error}") from None


def answers(workspace: Path, stage: graph.Stage, model: str, directory: Path, evalsets: Path, key: str
            ) -> list[dict[str, Any]]:
    """The answers of the model in `directory` to the set in `evalsets`, by the command of `stage` in `workspace`.

    `model` is the directory that the stage itself scores; `key` names what decides the answers. Raises RescoreError.
    """
    place = workspace / ".runtime" / "answers"
    place.mkdir(parents=True, exist_ok=True)
    kept = place / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.jsonl"
    if kept.exists():
        return read(kept)
    fresh = kept.with_suffix(f".partial-{os.getpid()}")
    others = {out: f"{fresh}.{number}" for number, out in enumerate(stage.outs) if not out.endswith(".jsonl")}
    given = {model: str(directory), EVALSETS: str(evalsets), **others,
             **{out: str(fresh) for out in stage.outs if out.endswith(".jsonl")}}
    command = [given.get(word, word) for word in shlex.split(stage.cmd)]
    done = subprocess.run(command, cwd=workspace, env=stage_environment(workspace), capture_output=True, text=True)
    try:
        if done.returncode or not fresh.exists():
            said = done.stderr.splitlines()
            lines = [line for line in said if line.startswith("error: ")] or said
            raise RescoreError(f"scoring {directory}: {lines[0] if lines else f'exit code {done.returncode}'}")
        found = read(fresh)
        os.replace(fresh, kept)
        return found
    finally:
        for path in (fresh, *map(Path, others.values())):
            path.unlink(missing_ok=True)
