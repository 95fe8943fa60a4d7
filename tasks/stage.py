"""What every stage does around its one function: read params, check inputs, publish outputs whole or not at all.

A stage module declares one function and ends in `stage.run(function)`. Its signature is its command line:

    def dedup(documents: Input, kept: Output, metrics: Output, *, dedup: DedupParams, seed: int) -> None

`python -m tasks.data.dedup data/filtered data/deduped metrics/dedup.json` then binds the positional paths in
order and the keyword parameters to the params.yaml sections of the same names; `--track NAME` binds them to
`tracks.NAME.<section>`, or `phases.NAME.<section>` for a length phase's name, where that exists. Outputs are written to a hidden sibling and renamed when the function
has returned. Exit codes: 0 done and checked, 1 the stage failed, 2 bad params or arguments.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import inspect
import json
import os
import shutil
import signal
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tasks import params

Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]


class StageError(RuntimeError):
    """A stage cannot go on; the message is one line with the number, the limit and the remedy."""


def run(function: Callable[..., None], argv: list[str] | None = None) -> None:
    """Run `function` as a stage process and exit. Never returns."""
    die_with_parent()
    try:
        paths, sections = bind(function, argv)
    except params.ParamsError as error:
        sys.exit(fail(2, str(error)))
    try:
        execute(function, paths, sections)
    except (StageError, params.ParamsError) as error:
        sys.exit(fail(1, str(error)))
    except Exception as error:
        code = fail(1, one_line(error))
        traceback.print_exc()
        sys.exit(code)
    sys.exit(0)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its runner dies (prctl PR_SET_PDEATHSIG): no orphan goes on writing."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def bind(function: Callable[..., None], argv: list[str] | None) -> tuple[dict[str, tuple[str, Path]], dict[str, Any]]:
    """Paths (name -> ("input" | "output", path)) and validated sections for `function`, from argv and params.yaml."""
    hints = typing.get_type_hints(function, include_extras=True)
    names = inspect.signature(function).parameters
    module = sys.modules[function.__module__]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__spec__.name if module.__spec__ else module.__name__}",
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    roles = {n: hints[n].__metadata__[0] for n in names if typing.get_origin(hints[n]) is Annotated}
    for name, role in roles.items():
        parser.add_argument(name, type=Path, help=role)
    parser.add_argument("--track", help="read the sections from tracks.TRACK (or phases.TRACK) in params.yaml where "
                                        "they are there")
    given = vars(parser.parse_args(argv))
    values = params.load()
    track = given.pop("track")
    homes = {name: home for home in ("phases", "tracks") for name in values.get(home, {})}
    if track is not None and track not in homes:
        raise params.ParamsError(f"--track {track}: no such track (known: {', '.join(homes)})")
    sections = {}
    for name in names:
        if name in roles:
            continue
        own = track is not None and name in (values[homes[track]][track] or {})
        sections[name] = params.section(hints[name], f"{homes[track]}.{track}.{name}" if own else name, values)
    return {name: (roles[name], given[name]) for name in roles}, sections


def execute(function: Callable[..., None], paths: dict[str, tuple[str, Path]], sections: dict[str, Any]) -> None:
    """Call `function` with inputs as they are and outputs as hidden siblings; publish these when it has returned."""
    for role, path in paths.values():
        if role == "input" and not path.exists():
            raise StageError(f"input {path} is not there: run the stage that makes it (dvc repro), or check the path")
    outputs = {name: path for name, (role, path) in paths.items() if role == "output"}
    partial = {name: path.with_name(f".{path.name}.partial-{os.getpid()}") for name, path in outputs.items()}
    try:
        for name, path in partial.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(path)
        bound = {name: partial.get(name, path) for name, (_, path) in paths.items()}
        function(**bound, **sections)
        for name, path in partial.items():
            if not path.exists():
                raise StageError(f"the stage returned without writing {outputs[name]}")
        for name, path in partial.items():
            publish(path, outputs[name])
    finally:
        for path in partial.values():
            remove(path)


def publish(whole: Path, final: Path) -> None:
    """Rename `whole` to `final`; what stood there is kept until the new one is in place."""
    replaced = final.with_name(f".{final.name}.replaced-{os.getpid()}")
    if final.exists() or final.is_symlink():
        final.rename(replaced)
    whole.rename(final)
    remove(replaced)


def remove(path: Path) -> None:
    """Delete a file, link or directory tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as stable JSON: sorted keys, two-space indent, UTF-8, no NaN (raises ValueError)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
                    encoding="utf-8")


def write_timing(name: str, value: dict[str, Any]) -> None:
    """Keep what is measured in seconds beside the chain, in .runtime/timing/NAME.json: shown, never hashed."""
    write_json(Path(".runtime/timing") / f"{name}.json", value)


def one_line(error: BaseException) -> str:
    """An exception as one line; a full disk says so first."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or 'while writing'}): free space and run again; nothing was replaced"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def fail(code: int, line: str) -> int:
    """Print the one clear line and hand back the exit code."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code
