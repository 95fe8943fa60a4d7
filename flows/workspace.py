"""A profile's workspace: the chain with other values, in a git worktree of its own.

    python -m flows.workspace tiny      prints the directory, ready to run: .profiles/tiny

The worktree holds this checkout's files as they are now (committed or not), params.yaml overlaid by
profiles/<name>.yaml, and shares DVC's cache; it has a dvc.lock, data, models and metrics of its own, so a profile
never disturbs the default's. A profile holds values only: it may not name a key that params.yaml has not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from flows import graph, plots
from tasks import params

# what a workspace keeps for itself, beside the outputs of its stages; annotations are a person's work on its own items
OWN = {"params.yaml", "dvc.lock", "machines.json", "annotations"}


class Instead(dict):
    """A mapping tagged `!instead` in a profile: it replaces the default's mapping, unmerged."""


class ProfileLoader(yaml.SafeLoader):
    """YAML with the tag `!instead`."""


ProfileLoader.add_constructor("!instead", lambda loader, node: Instead(loader.construct_mapping(node, deep=True)))


class WorkspaceError(RuntimeError):
    """The workspace cannot be made; one line with the remedy."""


def read_profile(path: Path) -> dict[str, Any]:
    """The values of a profile. Raises ParamsError where it is absent, unreadable, or no mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=ProfileLoader)
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise params.ParamsError(f"no profile {path.stem} (known: {known})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise params.ParamsError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise params.ParamsError(f"{path} must be a mapping of sections, not {type(values).__name__}")
    return values


def overlay(base: dict[str, Any], profile: dict[str, Any], where: str, key: str = "") -> dict[str, Any]:
    """`base` with the values of `profile` laid over it: mappings merged, everything else replaced.

    Raises ParamsError for a key that `base` has not, naming it; a section still empty in `base` takes any key,
    its stage judges them. `where` is the profile's name for the message.
    """
    merged = dict(base)
    for name, value in profile.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in base:
            known = ", ".join(map(str, base))
            raise params.ParamsError(f"{where}: {dotted}: params.yaml has no such key (known there: {known})")
        mergeable = isinstance(value, dict) and isinstance(base[name], dict) and not isinstance(value, Instead)
        if mergeable:
            merged[name] = overlay(base[name], value, where, dotted)
        else:
            merged[name] = dict(value) if isinstance(value, Instead) else value
    return merged


def git(root: Path, *words: str) -> str:
    """stdout of a git command in `root`. Raises WorkspaceError with git's own line."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise WorkspaceError(f"git {words[0]}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout


def files(root: Path) -> set[str]:
    """Paths that git tracks or would track in `root`: committed, changed and new ones, ignored ones left out."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {path for path in listed if path and (root / path).is_file()}


def mirror(root: Path, workspace: Path, leave: set[str]) -> None:
    """Make the workspace's files those of `root`, both ways, except what lies in or under a path of `leave`."""
    def own(path: str) -> bool:
        return any(path == kept or path.startswith(f"{kept}/") for kept in leave)

    wanted = {path for path in files(root) if not own(path)}
    for path in {path for path in files(workspace) if not own(path)} - wanted:
        (workspace / path).unlink()
    for path in sorted(wanted):
        source, target = root / path, workspace / path
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue  # its time stamp stands, so DVC need not hash it again
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def prepare(root: Path, name: str) -> Path:
    """The workspace of profile `name`, made or brought up to date; its path.

    Raises ParamsError for a faulty profile, WorkspaceError where git fails; the workspace then stands as it was.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise params.ParamsError(f"profile name {name!r}: letters, digits, - and _ only")
    values = overlay(params.load(root / "params.yaml"), read_profile(root / "profiles" / f"{name}.yaml"),
                     f"profiles/{name}.yaml")
    workspace = root / ".profiles" / name
    head = git(root, "rev-parse", "HEAD").strip()
    if not (workspace / ".git").exists():
        shutil.rmtree(workspace, ignore_errors=True)
        git(root, "worktree", "prune")
        git(root, "worktree", "add", "--detach", "--no-checkout", str(workspace), head)
    git(workspace, "reset", "--mixed", "--quiet", head)  # the commit moves; the files are mirrored
    outs = {out for stage in graph.read(root) for out in stage.outs}
    if (workspace / "dvc.yaml").exists() and (workspace / "params.yaml").exists():
        outs |= {out for stage in graph.read(workspace) for out in stage.outs}
    mirror(root, workspace, OWN | outs)
    text = f"# params.yaml overlaid by profiles/{name}.yaml: made anew by each ./run --profile {name}\n"
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_changed(workspace / "params.yaml", text)
    with Repo(str(root)) as repo:
        cache = os.path.relpath(repo.cache.local_cache_dir, workspace / ".dvc")
    write_changed(workspace / ".dvc" / "config.local", f"[cache]\n    dir = {cache}\n")
    plots.write(workspace)
    graph.read(workspace)  # the overlaid values make a graph, or say why not
    return workspace


def write_changed(path: Path, text: str) -> None:
    """Write `text` unless the file holds it already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Prepare the workspace of the named profile for the checkout in the working directory; print its path."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flows.workspace PROFILE")
    try:
        print(prepare(Path.cwd(), sys.argv[1]))
    except (params.ParamsError, WorkspaceError, graph.GraphError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
