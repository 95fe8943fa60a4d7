"""Our actions as LangChain tools, and LangChain's as ours. Needs `langchain-core`, which the chain does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.agents.remote import schema
from tasks.agents.tools import Action, ActionError, Scope

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool, StructuredTool


def to_langchain(action: Action) -> StructuredTool:
    """A LangChain tool that makes the same call, checked and bounded alike; an error is its answer, as text."""
    from langchain_core.tools import StructuredTool, ToolException

    def call(**arguments: Any) -> str:
        try:
            return str(action.call(json.dumps(arguments, ensure_ascii=False)))
        except ActionError as error:
            raise ToolException(str(error)) from None

    told = action.schema["function"]
    return StructuredTool(name=action.name, description=told["description"], func=call,
                          args_schema=told["parameters"], handle_tool_error=True)


def from_langchain(tool: BaseTool, *, scope: Scope = "write") -> Action:
    """An action that invokes a LangChain tool. `scope`: what its author says it may do; unsaid, that it writes.

    Raises ActionError where its schema cannot be offered.
    """
    taken = tool.tool_call_schema
    parameters = taken if isinstance(taken, dict) else taken.model_json_schema()

    def call(**arguments: Any) -> Any:
        return tool.invoke(arguments)

    return schema.action(tool.name, tool.description, parameters, call, scope=scope)
