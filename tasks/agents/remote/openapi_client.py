"""Operations of any OpenAPI 3 service as actions of the agent.

Only hosts that the user named are called: the document's own, and those of the allow-list. A key is taken from an
environment variable and goes to the one host it is for, as the document's security scheme says (a bearer token where
it says nothing). Redirects are not followed: the key would go with them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from tasks.agents.actions import fetch
from tasks.agents.remote import schema
from tasks.agents.remote.openapi_document import Operation, checked, operations
from tasks.agents.tools import Action, ActionError

SECONDS = 20.0
BYTES = 1_000_000       # of an answer
DOCUMENT = 5_000_000    # of a document


def actions(address: str, hosts: Collection[str], keys: Mapping[str, str], warn: Callable[[str], None]) -> list[Action]:
    """The actions of the document at `address`, a URL or a JSON or YAML file.

    `hosts` may be called besides the document's own; `keys` is host -> key. `warn` hears of each operation that is
    left out. Raises ActionError where there is no such document, or its service is on no allowed host.
    """
    document = checked(read(address, keys))
    remote = address.startswith(("http://", "https://"))
    servers = document.get("servers") or [{"url": "/"}]
    base = urljoin(address, servers[0]["url"]) if remote else servers[0]["url"]
    for name, variable in servers[0].get("variables", {}).items():
        base = base.replace(f"{{{name}}}", str(variable.get("default", "")))
    allowed = {*hosts, urlsplit(address).netloc} if remote else set(hosts)
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or parts.username or parts.netloc not in allowed:
        raise ActionError(f"--openapi {address}: its service is at {base[:120]!r}, which is not allowed: "
                          f"--allow-host {parts.netloc or 'HOST'}")
    made = []
    for operation in operations(document, lambda line: warn(f"{address}: {line}")):
        try:
            made.append(action(operation, base.rstrip("/"), keys.get(parts.netloc)))
        except ActionError as error:
            warn(f"{address}: left out: {error}")
    return made


def read(address: str, keys: Mapping[str, str]) -> Any:
    """The document's data. Raises ActionError in one line."""
    import httpx

    try:
        if not address.startswith(("http://", "https://")):
            text = Path(address).read_text(encoding="utf-8")
            if address.endswith((".yaml", ".yml")):
                return unpacked(text)
            return json.loads(text)
        key = keys.get(urlsplit(address).netloc)
        with httpx.Client(timeout=SECONDS) as client, client.stream(
                "GET", address, headers={"Authorization": f"Bearer {key}"} if key else {}) as reply:
            if reply.status_code != 200:
                raise ActionError(f"status {reply.status_code}")
            return json.loads(fetch.body(reply, DOCUMENT))
    except (OSError, ValueError, RecursionError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ActionError(f"--openapi {address}: cannot be read: {type(error).__name__} "
                          f"{' '.join(str(error).split())[:160]}") from None


def unpacked(text: str) -> Any:
    """The data of a YAML text, dates as text. Raises ValueError where it is none."""
    import yaml

    try:
        return json.loads(json.dumps(yaml.safe_load(text), default=str))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def action(operation: Operation, base: str, key: str | None) -> Action:
    """The action of one operation."""
    return schema.action(operation.name, operation.description, operation.parameters,
                         lambda **given: ask(operation, base, key, given), seconds=SECONDS + 5,
                         scope="network" if operation.method in ("GET", "HEAD") else "write")


def ask(operation: Operation, base: str, key: str | None, given: Mapping[str, Any]) -> str:
    """One request and its answer as text. Raises ActionError with the service's own word on what is wrong."""
    import httpx

    method, url, parts = request(operation, base, key, given)
    try:
        with httpx.Client(timeout=SECONDS, follow_redirects=False) as client, client.stream(
                method, url, **parts) as reply:
            if reply.is_redirect:
                raise ActionError(f"{operation.name}: {reply.status_code}: it leads elsewhere, which is not followed")
            text = fetch.body(reply, BYTES).decode(reply.charset_encoding or "utf-8", errors="replace").strip()
            if reply.status_code >= 400:
                raise ActionError(f"{operation.name}: {reply.status_code}: {' '.join(text.split())[:300]}")
            return text or f"done ({reply.status_code})"
    except (httpx.HTTPError, httpx.InvalidURL, LookupError, OSError) as error:
        raise ActionError(f"{operation.name}: {type(error).__name__} {' '.join(str(error).split())[:160]}") from None


def request(operation: Operation, base: str, key: str | None, given: Mapping[str, Any],
            ) -> tuple[str, str, dict[str, Any]]:
    """(method, URL, the rest as httpx takes it) of a call with these arguments."""
    path, query, headers, rest = operation.path, [], {"User-Agent": "catena-agent"}, dict(given)
    for argument, (place, name, explode) in operation.places.items():
        if argument not in rest:
            continue
        value = rest.pop(argument)
        values = [text(item) for item in value] if isinstance(value, list) else [text(value)]
        if place == "query":
            query += [(name, item) for item in (values if explode else [",".join(values)])]
        elif place == "header":
            headers[name] = ",".join(values).encode("ascii", "replace").decode().replace("\r", " ").replace("\n", " ")
        else:
            joined = ",".join(values)
            if joined in ("", ".", ".."):
                raise ActionError(f"{operation.name}: {argument}: {joined!r} cannot stand in a path")
            path = path.replace(f"{{{name}}}", quote(joined, safe=""))
    parts: dict[str, Any] = {"params": query, "headers": headers}
    if operation.body and (rest or not operation.whole):
        parts["json"] = rest["body"] if operation.whole else rest
    if key:
        kind = operation.security or {"type": "http", "scheme": "bearer"}
        if kind["type"] == "apiKey" and kind["in"] == "query":
            query.append((kind["name"], key))
        elif kind["type"] == "apiKey" and kind["in"] == "header":
            headers[kind["name"]] = key
        elif kind.get("scheme", "").lower() == "basic":
            headers["Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
        else:
            headers["Authorization"] = f"Bearer {key}"
    return operation.method, base + path, parts


def text(value: Any) -> str:
    """A value as it stands in a URL: true, 1, text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
