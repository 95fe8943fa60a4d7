"""Our actions as smolagents tools, and smolagents' as ours. Needs `smolagents`, which the chain does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.agents.remote import schema
from tasks.agents.tools import Action, Scope

if TYPE_CHECKING:
    from smolagents import Tool

KINDS = {"string", "boolean", "integer", "number", "array", "object", "null"}


def to_smolagents(action: Action) -> Tool:
    """A smolagents tool that makes the same call, checked and bounded alike; errors are raised, as its agents expect.

    smolagents knows a type for each argument; what else the schema asks for is checked when it is called.
    """
    from smolagents import Tool

    told = action.schema["function"]
    required = told["parameters"].get("required", [])

    class ActionTool(Tool):
        """One action of Catena."""

        name = action.name.replace("-", "_")
        description = told["description"]
        inputs = {name: {"type": kind(part), "description": part.get("description", name)} | (
            {} if name in required else {"nullable": True}) for name, part in told["parameters"]["properties"].items()}
        output_type = "string"
        skip_forward_signature_validation = True    # its arguments are those of the schema

        def forward(self, **arguments: Any) -> str:
            """Make the call."""
            given = {name: value for name, value in arguments.items() if value is not None or name in required}
            return str(action.call(json.dumps(given, ensure_ascii=False)))

    return ActionTool()


def kind(part: dict[str, Any]) -> str:
    """smolagents' type of an argument: the schema's own, "any" where it has none or several."""
    return part["type"] if part.get("type") in KINDS else "any"


def from_smolagents(tool: Tool, *, scope: Scope = "write") -> Action:
    """An action that calls a smolagents tool. `scope`: what its author says it may do; unsaid, that it writes.

    Raises ActionError where its inputs cannot be offered.
    """
    properties = {name: {key: part[key] for key in ("description", "enum", "items") if key in part} | typed(part)
                  for name, part in tool.inputs.items()}
    required = [name for name, part in tool.inputs.items() if not part.get("nullable")]
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def call(**arguments: Any) -> Any:
        return tool(**arguments)

    return schema.action(tool.name, tool.description, parameters, call, scope=scope)


def typed(part: dict[str, Any]) -> dict[str, Any]:
    """The JSON type of a smolagents input; none for "any", text for what is no JSON (a path to an image or sound)."""
    kinds = [part["type"]] if isinstance(part["type"], str) else part["type"]
    if "any" in kinds:
        return {}
    names = [name if name in KINDS else "string" for name in kinds] + (["null"] if part.get("nullable") else [])
    return {"type": names[0] if len(names) == 1 else names}
