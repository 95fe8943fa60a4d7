"""params.yaml, read and checked: every section has a pydantic model beside the stage that owns it.

A section is named by its path (`dedup`, `tracks.scratch.sft`). Unknown keys, wrong types and values out of
bounds are refused in one line that names the key, the value and what would be accepted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PARAMS = Path("params.yaml")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it: seven times faster


class ParamsError(ValueError):
    """A value in params.yaml that cannot be used; the message names the key, the value and the remedy."""


class Section(BaseModel):
    """Base of every params section: typed, closed (unknown keys refused), immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Runtime(Section):
    """Where and how fast to run; never a DVC param, so no value here makes an artifact stale."""

    threads: int = Field(ge=1, le=256, description="torch and ONNX Runtime threads of one stage")
    workers: int = Field(ge=1, le=1024, description="datatrove workers of one data stage")
    executor: str = Field(pattern="^(local|ray|slurm)$", description="datatrove executor of the data stages")
    evaluators: int = Field(default=1, ge=1, le=256, description="copies of a model that share one evaluation")
    device: str = Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="where models run")
    host: str = Field(description="address the server binds")
    port: int = Field(ge=0, le=65535, description="port of ./run serve")
    slots: int = Field(ge=1, le=512, description="sequences the server decodes together")
    api_key: str | None = Field(description="bearer token the server asks for; null asks for none")
    log_level: str = Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    stall: int = Field(default=900, ge=10, description="seconds without a training step's end that end the process")
    alert: str | None = Field(default=None, pattern=r"^https?://", description="URL that training's alerts are sent to")
    hostfile: str | None = Field(description="DeepSpeed hostfile for multi-node training; null for this machine")


S = TypeVar("S")


def load(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml as plain values. Raises ParamsError when it is absent or not a YAML mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except FileNotFoundError:
        raise ParamsError(f"{path} not found: run from the repository root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must be a mapping of sections, not {type(values).__name__}")
    return values


def section(kind: type[S], path: str, values: dict[str, Any]) -> S:
    """Section `path` (dotted) of `values`, validated as `kind` (a Section, or any type pydantic knows).

    Raises ParamsError naming the dotted key, the value found and what is accepted.
    """
    node: Any = values
    walked: list[str] = []
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            known = ", ".join(sorted(map(str, node))) if isinstance(node, dict) else "nothing"
            raise ParamsError(f"params.yaml: no section {'.'.join([*walked, part])} (known there: {known})")
        node = node[part]
        walked.append(part)
    try:
        return TypeAdapter(kind).validate_python(node)
    except ValidationError as error:
        raise ParamsError(f"params.yaml: {explain(error, path)}") from None


def explain(error: ValidationError, path: str) -> str:
    """One line for the first faults of a pydantic error, each with its dotted key, value and remedy."""
    lines = []
    for fault in error.errors()[:3]:
        key = ".".join([path, *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key} = {fault['input']!r}: no such key; remove it or correct its name")
        elif fault["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            lines.append(f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
    return "; ".join(lines)


def runtime() -> Runtime:
    """The `runtime:` section of the params.yaml in the working directory."""
    return section(Runtime, "runtime", load())


def limit_threads(threads: int) -> None:
    """Bound OpenMP, BLAS and tokenizers before they start; spinning threads collapse on shared cores."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
