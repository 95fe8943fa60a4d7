"""Every stage's deps hold its whole import closure inside the repository: its code is part of its hash.

The closure is found here from the syntax trees, apart from how anything is run: imports at any depth of a file,
modules named in `python -m ...` strings or lists, and files of the repository whose path stands in a string.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flows import graph

ROOT = Path(__file__).resolve().parents[2]
STAGES = {stage.name: stage for stage in graph.read(ROOT)}
FOLDER = re.compile(r"^\w+$")                                  # a folder beside the file, such as lm-eval's tasks
FUNCTION = re.compile(r"!function (\w+(?:\.\w+)*)\.\w+")     # code that lm-eval loads for a task
STARTED = re.compile(r"^(tasks|kernels)(\.\w+)+$")


def file_of(module: str) -> str | None:
    """Repository path of a dotted module, an empty __init__.py left out; None where it is not ours."""
    base = module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        if (ROOT / path).is_file():
            return path if (ROOT / path).read_text(encoding="utf-8").strip() else None
    return None


def named(path: str) -> set[str]:
    """Repository files that the source file `path` imports, starts or names."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    package = path.split("/")[:-1]
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *filter(None, [node.module])])
            modules |= {whole, *(f"{whole}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and STARTED.match(node.value):
            modules.add(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and FOLDER.match(node.value):
            for beside in sorted((ROOT / "/".join(package) / node.value).glob("*.yaml")):
                modules |= set(FUNCTION.findall(beside.read_text(encoding="utf-8")))
    # importing a.b.c runs a and a.b too
    modules |= {".".join(name.split(".")[:n]) for name in set(modules) for n in range(1, name.count(".") + 1)}
    own = (name for name in modules if name.split(".")[0] in ("tasks", "kernels", "flows"))
    return {found for name in own if (found := file_of(name))}


def closure(module: str) -> set[str]:
    """All repository files that running `python -m module` may load."""
    todo, seen = [file_of(module)], set()
    while todo:
        path = todo.pop()
        if path and path not in seen:
            seen.add(path)
            todo += named(path)
    return seen


def covered(path: str, deps: tuple[str, ...]) -> bool:
    return any(path == dep or path.startswith(dep.rstrip("/") + "/") for dep in deps)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_code_of_a_stage_is_its_dep(name):
    stage = STAGES[name]
    module = re.match(r"python -m (\S+)", stage.cmd)
    assert module, f"{name}: cmd does not start with python -m: {stage.cmd}"
    needed = closure(module.group(1))
    assert needed, f"{name}: {module.group(1)} is no module of this repository"
    missing = sorted(path for path in needed if not covered(path, stage.deps))
    assert not missing, f"{name}: dvc.yaml lacks these deps: {missing}"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_deps_exist_and_are_needed(name):
    """A dep that is code must be tracked and loaded, or a change of it would rerun the stage for nothing."""
    stage = STAGES[name]
    made = [out for other in STAGES.values() for out in other.outs]
    code = [dep for dep in stage.deps if not any(covered(dep, (out,)) or covered(out, (dep,)) for out in made)]
    absent = [dep for dep in code if not (ROOT / dep).exists()]
    assert not absent, f"{name}: dvc.yaml names deps that are not there: {absent}"
    needed = closure(re.match(r"python -m (\S+)", stage.cmd).group(1))
    idle = [dep for dep in code if dep.endswith(".py") and dep not in needed]
    assert not idle, f"{name}: dvc.yaml names code that the stage never loads: {idle}"


def test_stages_that_only_a_profile_has_name_their_code_too():
    """Those of an empty `foreach` (params.yaml's `aligned`) are in no graph of the default run."""
    absent = {name: entry["do"] for name, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
              if "do" in entry and not any(stage.startswith(f"{name}@") for stage in STAGES)}
    assert {"grpo", "reward"} <= absent.keys()
    for name, entry in absent.items():
        needed = closure(re.match(r"python -m (\S+)", entry["cmd"]).group(1))
        code = [dep for dep in entry["deps"] if "${" not in dep]
        assert not [path for path in needed if not covered(path, tuple(code))], name
        assert not [dep for dep in code if dep.endswith(".py") and dep not in needed], name


@pytest.mark.parametrize("name", sorted(STAGES))
def test_cmd_shows_every_input_and_output(name):
    stage = STAGES[name]
    made = [out for other in STAGES.values() for out in other.outs]
    inputs = [dep for dep in stage.deps if any(covered(dep, (out,)) for out in made)]
    words = stage.cmd.split()
    hidden = [path for path in (*inputs, *stage.outs) if not any(
        word == path or word.startswith(path + "/") or path.startswith(word.rstrip("/") + "/") for word in words)]
    assert not hidden, f"{name}: cmd does not show {hidden}"


def test_imports_run_downward():
    """flows -> tasks -> kernels, and no link of the chain imports a later one."""
    order = ["data", "tokenizer", "pretrain", "finetune", "quantize", "serve", "align", "evaluate", "agents", "report"]
    wrong = []
    tracked = subprocess.run(["git", "ls-files", "tasks", "kernels"], cwd=ROOT, capture_output=True, text=True).stdout
    for path in tracked.split():
        if not path.endswith(".py") or not (ROOT / path).exists():
            continue
        own = path.split("/")
        for other in named(path):
            there = other.split("/")
            upward = there[0] == "flows" or (own[0] == "kernels" and there[0] == "tasks")
            links = [part[1] for part in (own, there) if part[0] == "tasks" and part[1] in order]
            if own[0] == "tasks" and own[1] not in order and there[0] == "tasks" and there[1] in order:
                upward = True  # what links share stands below them all
            if upward or (len(links) == 2 and order.index(links[1]) > order.index(links[0])):
                wrong.append(f"{path} imports {other}")
    assert not wrong, wrong
