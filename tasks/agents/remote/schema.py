"""An action from a JSON schema that others wrote: an MCP server's, an OpenAPI document's, another library's.

What they wrote is checked before a model sees it: its size, its form, that it refers to nothing outside itself and
holds none of the chat template's marks. The model is shown the part of it that any constrained decoder knows; a
call's arguments are checked against the whole of it, but for regular expressions: one written to be slow would hold
this process, and the tool's owner checks them anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tasks.agents.marks import quote
from tasks.agents.tools import SECONDS, Action, ActionError, Scope

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")       # what the OpenAI API takes for a name
PROPERTY = re.compile(r"[\w.$@:-]{1,64}")
LARGEST = 16_000        # characters of a schema
DEEPEST = 24            # containers in one another
DESCRIPTION = 300       # characters of a description
TOLD = frozenset({
    "type", "properties", "required", "items", "enum", "const", "description", "default", "anyOf", "allOf", "$ref",
    "$defs", "definitions", "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems"})
MAPPINGS = frozenset({"properties", "$defs", "definitions"})    # name -> schema
LITERAL = frozenset({"enum", "const", "default", "required"})   # data, not schemas


def action(name: str, description: str, parameters: dict[str, Any], function: Callable[..., Any], *,
           scope: Scope = "write", seconds: float = SECONDS) -> Action:
    """An action whose answers come from outside; `function` takes the arguments as keywords, under any name.

    Raises ActionError saying why this tool cannot be offered.
    """
    if not NAME.fullmatch(name):
        raise ActionError(f"tool {name[:64]!r}: its name is not of 1 to 64 letters, digits, - and _")
    try:
        told = shown({"type": "object", "properties": {}} | sound(parameters))
        check = checker(name, parameters)
    except ActionError as error:
        raise ActionError(f"tool {name}: {error}") from None
    described = quote(" ".join(str(description or "").split())[:DESCRIPTION])
    schema = {"type": "function", "function": {"name": name, "description": described, "parameters": told}}
    return Action(name, schema, check, function, scope, outside=True, seconds=seconds)


def sound(parameters: Any) -> dict[str, Any]:
    """`parameters` if they are a JSON schema of an object that can be offered. Raises ActionError saying why not."""
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator

    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise ActionError("its schema is not one of an object")
    try:
        size = len(json.dumps(parameters))
        if size > LARGEST:
            raise ActionError(f"its schema has {size} characters, at most {LARGEST} are read")
        for part, depth in containers(parameters):
            if depth > DEEPEST:
                raise ActionError(f"its schema is nested deeper than {DEEPEST}")
            reference = part.get("$ref", "#") if isinstance(part, dict) else "#"
            if not (isinstance(reference, str) and reference.startswith("#")):
                raise ActionError(f"its schema refers to {str(reference)[:80]!r}, outside itself")
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise ActionError(f"its schema is no JSON schema ({' '.join(error.message.split())[:120]})") from None
    except (RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ActionError):
            raise
        raise ActionError("its schema is no JSON data") from None
    for named in parameters.get("properties", {}):
        if not PROPERTY.fullmatch(named):
            raise ActionError(f"its argument {named[:64]!r} has a name that no model could write")
    return parameters


def containers(data: Any) -> list[tuple[Any, int]]:
    """(object or array, how deep) of all JSON data, without recursion; stops one below DEEPEST."""
    found, waiting = [], [(data, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, (dict, list)):
            found.append((part, depth))
            if depth <= DEEPEST:
                waiting += [(item, depth + 1) for item in (part.values() if isinstance(part, dict) else part)]
    return found


def shown(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that models and grammars know. Raises ActionError where it holds a template's marks."""
    told = reduced(schema)
    if quote(json.dumps(told, ensure_ascii=False)) != json.dumps(told, ensure_ascii=False):
        raise ActionError("its schema holds marks of the chat template")
    return told


def reduced(schema: Any) -> Any:
    """A schema with the keywords of TOLD alone, `oneOf` as `anyOf`, descriptions on one line with marks broken."""
    if isinstance(schema, list):
        return [reduced(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        key = "anyOf" if key == "oneOf" else key
        if key in MAPPINGS and isinstance(value, dict):
            out[key] = {name: reduced(part) for name, part in value.items()}
        elif key == "description":
            out[key] = quote(" ".join(str(value).split())[:DESCRIPTION])
        elif key in TOLD:
            out[key] = value if key in LITERAL else reduced(value)
    return out


def checker(name: str, parameters: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """A function from JSON text to arguments that obey the schema; it raises ActionError in one line."""
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import Draft202012Validator, extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    def passes(*_: Any) -> tuple[()]:
        return ()

    lenient = extend(Draft202012Validator, {"pattern": passes, "patternProperties": passes})
    judge = lenient(parameters, registry=Registry())

    def check(arguments: str) -> dict[str, Any]:
        try:
            given = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ActionError(f"{name}: invalid JSON: {' '.join(str(error).split())[:120]}") from None
        if not isinstance(given, dict):
            raise ActionError(f"{name}: the arguments are no JSON object")
        try:
            fault: ValidationError | None = next(judge.iter_errors(given), None)
        except (RecursionError, Unresolvable) as error:
            raise ActionError(f"{name}: cannot be checked: {type(error).__name__}") from None
        if fault:
            where = ".".join(map(str, fault.absolute_path)) or "arguments"
            raise ActionError(f"{name}: {where}: {' '.join(fault.message.split())[:200]}")
        return given

    return check


def told_apart(actions: list[Action], more: list[Action], owner: str) -> list[Action]:
    """`actions` and then `more`; one of `more` whose name is taken becomes `owner_name`. Raises ActionError at a clash.

    So no server can put a tool of its own in the place of another.
    """
    from dataclasses import replace

    taken, out = {item.name for item in actions}, list(actions)
    for item in more:
        name = item.name if item.name not in taken else f"{re.sub(r'[^A-Za-z0-9_-]', '-', owner)}_{item.name}"[:64]
        if name in taken:
            raise ActionError(f"two tools are named {name!r}: leave one of the servers out")
        taken.add(name)
        function = {**item.schema["function"], "name": name}
        out.append(replace(item, name=name, schema={**item.schema, "function": function}))
    return out
