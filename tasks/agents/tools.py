"""What an agent can do. An action is a plain function with type hints: the hints become its OpenAI tool schema,
its docstring's first line what the model is told, and arguments are checked against both before it is called.

A call is bounded in time, in the characters of its arguments and in those of its result; whatever goes wrong in it is
one ActionError. A function that does not end is left behind in its thread, which Python cannot stop: a function that
may run for ever has to bound itself, as the actions of this project do.
"""

from __future__ import annotations

import inspect
import json
import queue
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

RESULT = 1_200      # characters of a result that the model is shown
ARGUMENTS = 10_000  # characters of arguments that are looked at
SECONDS = 60.0      # of one call; the project's own actions have tighter bounds
Scope = Literal["read", "write", "network"]     # looks only; changes something here; sends something out


class ActionError(ValueError):
    """An action refused its arguments or could not be done; the message is one line, shown to the model."""


class Picture(str):
    """A result with a picture: the text is for the model, the PNG at `path` for whoever can look at it."""

    path: Path

    def __new__(cls, text: str, path: Path) -> Picture:
        made = super().__new__(cls, text)
        made.path = path
        return made


@dataclass(frozen=True)
class Action:
    """A function as a tool: `schema` is what the model is told, `call` checks arguments and runs it."""

    name: str
    schema: dict[str, Any]
    check: Callable[[str], dict[str, Any]]  # JSON text -> the function's arguments; raises ActionError
    function: Callable[..., Any]
    scope: Scope = "read"
    outside: bool = False    # what it returns was written by others
    seconds: float = SECONDS

    @property
    def effects(self) -> bool:
        """Whether it changes something or sends something out."""
        return self.scope != "read"

    @classmethod
    def of(cls, function: Callable[..., Any], name: str | None = None, *, scope: Scope = "read",
           outside: bool = False, seconds: float = SECONDS) -> Action:
        """The action of a type-hinted function. Raises TypeError where a parameter has no type."""
        hints = typing.get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name not in hints:
                raise TypeError(f"{function.__name__}({parameter.name}) has no type")
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (hints[parameter.name], ... if required else parameter.default)
        name = name or function.__name__
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        described = (inspect.getdoc(function) or "").splitlines()

        def check(arguments: str) -> dict[str, Any]:
            try:
                checked = model.model_validate_json(arguments, strict=True)
            except ValidationError as error:
                raise ActionError(f"{name}: {'; '.join(map(fault, error.errors()[:3]))}") from None
            return {field: getattr(checked, field) for field in model.model_fields}

        return cls(name, tool(name, described[0] if described else "", model), check, function, scope, outside, seconds)

    def call(self, arguments: str) -> str:
        """Run the action on a JSON object of arguments. Raises ActionError in one line on any fault."""
        if len(arguments) > ARGUMENTS:
            raise ActionError(f"{self.name}: arguments of {len(arguments)} characters, at most {ARGUMENTS} are read")
        try:
            result = within(self.seconds, lambda: self.function(**self.check(arguments)))
        except ActionError:
            raise
        except TimeoutError:
            raise ActionError(f"{self.name}: not done after {self.seconds:g} s") from None
        except Exception as error:
            raise ActionError(f"{self.name}: {type(error).__name__} {' '.join(str(error).split())[:200]}") from error
        if not isinstance(result, str):
            result = json.dumps(result, ensure_ascii=False, default=str)
        return result if len(result) <= RESULT else f"{result[:RESULT]} [{len(result) - RESULT} more characters]"


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, where it does so in time. Raises TimeoutError where not; it then runs on."""
    ended: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((True, work()))
        except BaseException as error:
            ended.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        returned, value = ended.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if returned:
        return value
    raise value


def tool(name: str, description: str, arguments: type[BaseModel]) -> dict[str, Any]:
    """An OpenAI tool from a model of its arguments; pydantic's titles are dropped, they tell a model nothing."""
    schema = arguments.model_json_schema()
    properties = {key: {k: v for k, v in spec.items() if k != "title"} for key, spec in schema["properties"].items()}
    parameters = {"type": "object", "properties": properties, "required": schema.get("required", []),
                  "additionalProperties": False} | ({"$defs": schema["$defs"]} if "$defs" in schema else {})
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def fault(error: Any) -> str:
    """One fault of the arguments: where, and what would be right."""
    where = ".".join(map(str, error["loc"])) or "arguments"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}"
