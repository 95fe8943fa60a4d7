"""What of an OpenAPI 3 document can be a tool: each operation whose arguments are path, query and header parameters
in their default styles and a JSON body. Everything else is left out with a line that says why.

The document is validated by openapi-pydantic. References within it are followed, others are refused; the keywords of
3.0 that are not JSON schema are put as 3.1 has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tasks.agents.tools import ActionError

METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
STYLES = {"path": "simple", "query": "form", "header": "simple"}
IGNORED = frozenset({"accept", "content-type", "authorization"})    # parameters that the standard says to ignore
OPERATIONS = 64


class Unreadable(ValueError):
    """An operation that cannot be a tool; the message says why."""


@dataclass(frozen=True)
class Operation:
    """One operation: where each argument goes, and the JSON schema of all of them.

    `places` is argument -> ("path" | "query" | "header", name, explode); what is not in it is part of the JSON body,
    or, as the one argument "body", the whole of it (`whole`).
    """

    name: str
    description: str
    method: str
    path: str
    places: dict[str, tuple[str, str, bool]]
    parameters: dict[str, Any]
    body: bool
    whole: bool
    security: dict[str, Any] | None


def checked(document: Any) -> dict[str, Any]:
    """`document` if it is OpenAPI 3.0 or 3.1. Raises ActionError naming the first fault."""
    from openapi_pydantic import parse_obj
    from pydantic import ValidationError

    version = str(document.get("openapi", "")) if isinstance(document, dict) else ""
    if not re.fullmatch(r"3\.[01]\.\d+", version):
        said = f"swagger {document['swagger']}" if isinstance(document, dict) and "swagger" in document else \
            f"openapi {version}" if version else "no `openapi` in it"
        raise ActionError(f"no OpenAPI 3.0 or 3.1 document ({said[:60]})")
    try:
        parse_obj({**document, "openapi": {"3.0": "3.0.4", "3.1": "3.1.1"}[version[:3]]})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:])
        raise ActionError(f"not valid OpenAPI: {where[:120]}: {fault['msg'][:120]}") from None
    except RecursionError:
        raise ActionError("nested too deep") from None
    return document


def operations(document: dict[str, Any], warn: Callable[[str], None]) -> Iterator[Operation]:
    """Every operation that can be a tool, at most OPERATIONS; `warn` hears of the others."""
    count = 0
    for path, item in (document.get("paths") or {}).items():
        for method in METHODS:
            if method not in item:
                continue
            if count == OPERATIONS:
                warn(f"more than {OPERATIONS} operations: the rest are left out")
                return
            try:
                yield operation(document, path, method, resolved(document, item))
                count += 1
            except Unreadable as error:
                warn(f"left out: {method.upper()} {path[:80]}: {error}")
            except RecursionError:
                warn(f"left out: {method.upper()} {path[:80]}: nested too deep")


def operation(document: dict[str, Any], path: str, method: str, item: dict[str, Any]) -> Operation:
    """One operation. Raises Unreadable."""
    told, defined = item[method], {}
    places, properties, required = {}, {}, []
    declared = {}
    for given in [*item.get("parameters", []), *told.get("parameters", [])]:     # the operation's own come last
        parameter = resolved(document, given)
        declared[parameter["in"], parameter["name"]] = parameter
    for (place, name), parameter in declared.items():
        if place == "cookie" or (place == "header" and name.lower() in IGNORED):
            if place == "cookie" and parameter.get("required"):
                raise Unreadable(f"it needs the cookie {name!r}")
            continue
        if "schema" not in parameter or parameter.get("style", STYLES[place]) != STYLES[place]:
            raise Unreadable(f"parameter {name!r} is not in the default style")
        schema = local(document, parameter["schema"], defined)
        if place == "query" and schema.get("type") == "object":
            raise Unreadable(f"parameter {name!r} is an object in a query")
        argument = argument_name(name, properties)
        places[argument] = (place, name, parameter.get("explode", place == "query"))
        properties[argument] = schema | {key: parameter[key] for key in ("description",) if key in parameter}
        if parameter.get("required") or place == "path":
            required.append(argument)
    missing = set(re.findall(r"\{([^}]*)\}", path)) - {name for place, name in declared if place == "path"}
    if missing:
        raise Unreadable(f"the path's {sorted(missing)[0]!r} is no parameter")
    body = resolved(document, told["requestBody"]) if "requestBody" in told else None
    whole = False
    if body:
        content = next((value for kind, value in body.get("content", {}).items()
                        if kind.split(";")[0].strip() == "application/json"), None)
        if content is None:
            raise Unreadable(f"its body is {', '.join(body.get('content', {})) or 'nothing'}, not application/json")
        schema = local(document, resolved(document, content.get("schema", {})), defined)
        whole = schema.get("type") != "object" or "properties" not in schema or not body.get("required") or \
            bool(properties.keys() & schema["properties"].keys()) or bool({"allOf", "anyOf", "oneOf"} & schema.keys())
        if whole:
            properties[argument_name("body", properties)] = schema
            required += ["body"] if body.get("required") else []
        else:
            properties |= schema["properties"]
            required += schema.get("required", [])
    name = told.get("operationId") or f"{method}_{path}"
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Operation(re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:64],
                     told.get("summary") or told.get("description") or item.get("summary") or f"{method} {path}",
                     method.upper(), path, places, parameters | ({"$defs": defined} if defined else {}),
                     body is not None, whole, scheme(document, told))


def argument_name(name: str, taken: dict[str, Any]) -> str:
    """A name that a model can write, for a parameter. Raises Unreadable where it is taken."""
    plain = re.sub(r"[^\w.-]+", "_", name)[:64] or "_"
    if plain in taken:
        raise Unreadable(f"two of its arguments are named {plain!r}")
    return plain


def scheme(document: dict[str, Any], told: dict[str, Any]) -> dict[str, Any] | None:
    """The first security scheme that the operation names, if any."""
    for requirement in told.get("security", document.get("security", [])):
        for name in requirement:
            found = document.get("components", {}).get("securitySchemes", {}).get(name)
            return resolved(document, found) if found else None
    return None


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part`, or what its reference leads to. Raises Unreadable where that is outside or nowhere."""
    for _ in range(8):
        if not (isinstance(part, dict) and isinstance(part.get("$ref"), str)):
            return part
        part = pointed(document, part["$ref"])
    raise Unreadable("references that go in circles")


def pointed(document: dict[str, Any], reference: str) -> Any:
    """What a JSON pointer (RFC 6901) within the document leads to."""
    if not reference.startswith("#/"):
        raise Unreadable(f"it refers to {reference[:80]!r}, outside the document")
    found: Any = document
    for step in reference[2:].split("/"):
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or step not in found:
            raise Unreadable(f"{reference[:80]!r} leads nowhere")
        found = found[step]
    return found


def local(document: dict[str, Any], schema: Any, defined: dict[str, Any]) -> Any:
    """`schema` as JSON schema of its own: what it refers to stands in `defined`, under `#/$defs/`."""
    if isinstance(schema, list):
        return [local(document, part, defined) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):
        name = re.sub(r"\W+", "_", schema["$ref"].removeprefix("#/components/schemas/"))
        if name not in defined:
            defined[name] = {}
            defined[name] = local(document, pointed(document, schema["$ref"]), defined)
        return {"$ref": f"#/$defs/{name}"}
    out = {key: local(document, value, defined) if key not in ("enum", "const", "default", "example", "required")
           else value for key, value in schema.items() if key not in ("discriminator", "xml", "externalDocs")}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(out.get(exclusive), bool):
            if out.pop(exclusive) and bound in out:
                out[exclusive] = out.pop(bound)
    return {"anyOf": [out, {"type": "null"}]} if out.pop("nullable", False) is True else out
