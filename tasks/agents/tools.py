"""What an agent can do. An action is a plain function with type hints: the hints become its OpenAI tool schema,
its docstring's first line what the model is told, and arguments are checked against both before it is called.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

RESULT = 1_200      # characters of a result that the model is shown
ARGUMENTS = 10_000  # characters of arguments that are looked at


class ActionError(ValueError):
    """An action refused its arguments or could not be done; the message is one line, shown to the model."""


@dataclass(frozen=True)
class Action:
    """A function as a tool: `schema` is what the model is told, `call` checks arguments and runs it."""

    name: str
    schema: dict[str, Any]
    arguments: type[BaseModel]
    function: Callable[..., str]
    effects: bool = False    # it changes something, or sends something out
    outside: bool = False    # what it returns was written by others

    @classmethod
    def of(cls, function: Callable[..., str], name: str | None = None, *, effects: bool = False,
           outside: bool = False) -> Action:
        """The action of a type-hinted function. Raises TypeError where a parameter has no type."""
        hints = typing.get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name not in hints:
                raise TypeError(f"{function.__name__}({parameter.name}) has no type")
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (hints[parameter.name], ... if required else parameter.default)
        name = name or function.__name__
        model = create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)
        described = (inspect.getdoc(function) or "").splitlines()
        return cls(name, tool(name, described[0] if described else "", model), model, function,
                   effects, outside)

    def call(self, arguments: str) -> str:
        """Run the action on a JSON object of arguments. Raises ActionError in one line on any fault of them."""
        if len(arguments) > ARGUMENTS:
            raise ActionError(f"{self.name}: arguments of {len(arguments)} characters, at most {ARGUMENTS} are read")
        try:
            checked = self.arguments.model_validate_json(arguments)
        except ValidationError as error:
            raise ActionError(f"{self.name}: {'; '.join(map(fault, error.errors()[:3]))}") from None
        result = self.function(**{field: getattr(checked, field) for field in self.arguments.model_fields})
        return result if len(result) <= RESULT else f"{result[:RESULT]} [{len(result) - RESULT} more characters]"


def tool(name: str, description: str, arguments: type[BaseModel]) -> dict[str, Any]:
    """An OpenAI tool from a model of its arguments; pydantic's titles are dropped, they tell a model nothing."""
    schema = arguments.model_json_schema()
    properties = {key: {k: v for k, v in spec.items() if k != "title"} for key, spec in schema["properties"].items()}
    parameters = {"type": "object", "properties": properties, "required": schema.get("required", []),
                  "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def fault(error: Any) -> str:
    """One fault of the arguments: where, and what would be right."""
    where = ".".join(map(str, error["loc"])) or "arguments"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}"

