"""The chain's stages and edges, read from DVC and from nothing else.

`dvc.yaml` is the one definition of the chain; whatever draws, orders or runs stages asks here.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import networkx
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.utils.serialize import modify_yaml, parse_yaml_for_update


class GraphError(RuntimeError):
    """dvc.yaml cannot be read as a graph; the message is DVC's own reason in one line."""


@dataclass(frozen=True)
class Stage:
    """One stage as DVC resolves it: foreach expanded, `${...}` filled in."""

    name: str
    cmd: str
    deps: tuple[str, ...]      # files and directories, params left out
    outs: tuple[str, ...]      # artifacts, metrics and plots
    params: tuple[str, ...]    # keys of params.yaml
    parents: tuple[str, ...]   # stages whose outs are among the deps
    alone: bool                # `meta: {alone: true}`: it measures speed, so nothing runs beside it


def read(root: Path) -> list[Stage]:
    """Every stage of the DVC repository at `root`, in the order in which `dvc repro` runs them.

    Raises GraphError where dvc.yaml or params.yaml cannot be resolved.
    """
    try:
        with Repo(str(root)) as repo:
            graph = get_active_graph(repo.index.graph)
            return [
                Stage(
                    name=stage.name,
                    cmd=stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd or []),
                    deps=tuple(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
                    outs=tuple(out.def_path for out in stage.outs),
                    params=tuple(key for dep in stage.deps for key in getattr(dep, "params", ())),
                    parents=tuple(sorted(parent.name for parent in graph.successors(stage))),
                    alone=bool((stage.meta or {}).get("alone")),
                )
                for stage in plan_repro(graph)
            ]
    except (DvcException, yaml.YAMLError, networkx.NetworkXException) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise GraphError(" ".join(f"{error}{cause}".split()) or type(error).__name__) from error


def descendants(stages: list[Stage], name: str) -> set[str]:
    """Names of all stages below `name`, itself left out."""
    below: set[str] = set()
    for stage in stages:  # parents stand before their children
        if name in stage.parents or below & set(stage.parents):
            below.add(stage.name)
    return below


def ancestors(stages: list[Stage], name: str) -> set[str]:
    """Names of `name` and all stages above it."""
    above = {name}
    for stage in reversed(stages):
        if stage.name in above:
            above |= set(stage.parents)
    return above


def order_lock(root: Path, stages: list[Stage]) -> None:
    """Put the entries of dvc.lock in the order a serial `dvc repro` writes them.

    DVC appends an entry as its stage ends, so stages that ran side by side would leave an order of chance.
    """
    path = root / "dvc.lock"
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        if not path.exists():
            return
        entries = list(parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path)).get("stages") or {})
        names = [stage.name for stage in stages if stage.name in entries]
        names += [name for name in entries if name not in names]
        if names == entries:
            return
        whole = root / f".dvc.lock.partial-{os.getpid()}"
        shutil.copyfile(path, whole)
        with modify_yaml(str(whole)) as lock:
            lock["stages"] = {name: lock["stages"][name] for name in names}
        os.replace(whole, path)
