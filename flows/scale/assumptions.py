"""The assumptions of the simulator: named values, each with its range and source (flows/scale/assumptions.yaml)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from tasks import params
from tasks.params import ParamsError

FILE = Path(__file__).with_name("assumptions.yaml")


class Assumption(params.Section):
    """A value that was not measured here."""

    value: float = Field(gt=0, allow_inf_nan=False, strict=False)
    low: float = Field(ge=0, allow_inf_nan=False, strict=False)
    high: float = Field(ge=0, allow_inf_nan=False, strict=False)
    unit: str
    source: str

    @model_validator(mode="after")
    def _ordered(self) -> Assumption:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low {self.low:g}, value {self.value:g} and high {self.high:g} must not fall")
        return self


def load(path: Path = FILE) -> dict[str, Assumption]:
    """name -> assumption. Raises ParamsError naming the file and the key at fault."""
    try:
        found = {}
        for name, given in params.load(path).items():
            found[name] = Assumption.model_validate(given)
    except ValidationError as error:
        raise ParamsError(f"{path}: {params.explain(error, name)}") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: {error}") from None
    return found


def values(known: Mapping[str, Assumption], changes: Iterable[str] = ()) -> dict[str, float]:
    """name -> value, those of `changes` ("NAME=VALUE") changed. Raises ParamsError for a name that is not known and for
    a value that is not a positive number."""
    out = {name: one.value for name, one in known.items()}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in out:
            raise ParamsError(f"--set {change}: NAME=VALUE with NAME one of {', '.join(sorted(out))}")
        out[name] = number(f"--set {change}", text, zero=known[name].low == 0)
    return out


def number(where: str, text: Any, zero: bool = False) -> float:
    """`text` as a finite number above zero (or zero, where allowed). Raises ParamsError beginning with `where`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (0 < value < float("inf") or (zero and value == 0)):
        raise ParamsError(f"{where}: {text!r} is not a number above zero")
    return value
