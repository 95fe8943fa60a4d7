"""What the gates are fed: metrics and answers of the champion (a commit) and of the challenger (a worktree).

Where both answered the same evaluation set by the same code, their own answers are compared. Else the champion answers
the challenger's set, and the challenger the champion's held-out documents, so both are asked the same.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from flows import gate, graph, models, rescore
from tasks import params

COUNTED = ("mixture", "decontaminate")


def metrics_of(root: Path, commit: str, limits: gate.RetrainParams) -> dict[str, Any]:
    """stage -> metrics of the data stages at a commit; those it lacks are left out."""
    found = {}
    for name in (*COUNTED, *limits.dropped):
        try:
            found[name] = models.at(root, commit, f"metrics/{name}.json")
        except models.ModelsError:
            continue   # that chain had no such stage
    return found


def metrics_at(place: Path, limits: gate.RetrainParams) -> dict[str, Any]:
    """stage -> metrics of the data stages in a worktree."""
    paths = {name: place / "metrics" / f"{name}.json" for name in (*COUNTED, *limits.dropped)}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def lock_at(place: Path) -> dict[str, Any]:
    """A worktree's dvc.lock."""
    return yaml.load((place / "dvc.lock").read_text(encoding="utf-8"), Loader=models.LOADER)


def identity(place: Path) -> str:
    """md5 over the model directories that the worktree's chain evaluates: what the challenger is, in one word."""
    known = models.outs(lock_at(place))
    paths = sorted(params.load(place / "params.yaml")["models"].values())
    lines = [f"{path} {known[path]}" for path in paths if path in known]
    return hashlib.md5("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


def same_models(root: Path, commit: str, place: Path) -> bool:
    """Whether every model that the worktree evaluates or serves is, byte for byte, the one of the commit."""
    before, after = models.outs(models.at(root, commit, "dvc.lock")), models.outs(lock_at(place))
    values = params.load(place / "params.yaml")
    paths = {*values["models"].values(), *(f"models/{track}/int4" for track in values["served"])}
    return all(before.get(path) == after.get(path) for path in paths)


def model_gates(root: Path, commit: str, place: Path, limits: gate.RetrainParams) -> list[gate.Gate]:
    """The gates of every model of `limits.metrics`. Raises RescoreError, ModelsError."""
    old, new = models.at(root, commit, "dvc.lock"), lock_at(place)
    made, makes = models.outs(old), models.outs(new)
    was, now = models.at(root, commit, "params.yaml")["models"], params.load(place / "params.yaml")["models"]
    stages, gates = graph.read(place), []
    for name, margins in limits.metrics.items():
        stage = rescore.stage_of(stages, name)
        if f"evaluate@{name}" not in old["stages"]:
            gates.append(gate.Gate(name, "the champion has no such model", "nothing to lose", True))
            continue
        answered = next(out for out in stage.outs if out.endswith(".jsonl"))
        earlier = place / ".runtime" / "champion" / commit[:16] / name
        models.lay_out(root, commit, earlier, [was[name], rescore.EVALSETS, answered])
        theirs, ours = rescore.read(earlier / answered), rescore.read(place / answered)
        then, today = rescore.conditions(old, name, was[name]), rescore.conditions(new, name, now[name])
        if then == today:
            gates += gate.model_gates(name, theirs, ours, margins)
            continue

        def ask(directory: Path, model: str, evalsets: Path, items: str) -> list[dict[str, Any]]:
            key = json.dumps([model, items, today["code"], today["params"]], sort_keys=True)
            return rescore.answers(place, stage, now[name], directory, evalsets, key)

        champion, frozen = (earlier / was[name], made[was[name]]), (earlier / rescore.EVALSETS, made[rescore.EVALSETS])
        gates += gate.model_gates(name, ask(*champion, place / rescore.EVALSETS, today["items"]), ours, margins)
        if then["items"] != today["items"]:
            if {**then, "items": None} != {**today, "items": None}:   # it answered under other code or params then
                theirs = ask(*champion, *frozen)
            again = ask(place / now[name], makes[now[name]], *frozen)
            gates.append(gate.frozen_gate(name, theirs, again, held_out(place), limits.frozen))
    return gates


def held_out(place: Path) -> list[str]:
    """The texts of the documents that the worktree's chain holds out."""
    path = place / rescore.EVALSETS / "held_out.jsonl"
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
