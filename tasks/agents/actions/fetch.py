"""Reads pages of hosts that the user named, and of no other: every redirect is checked as the first address was.

A host on the list is the user's own word, so a private address behind it is allowed; anything else is refused before
a connection is made. The body is read up to a limit, whatever its headers promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field

from tasks.agents.tools import ActionError

if TYPE_CHECKING:
    import httpx

SECONDS = 10.0
BYTES = 1_000_000
REDIRECTS = 3
TEXT = ("text/", "application/json", "application/xml", "application/xhtml+xml")


def action(hosts: Collection[str]) -> Callable[..., str]:
    """The action `fetch` for the `hosts` allowed (`name` or `name:port`)."""
    def fetch(url: Annotated[str, Field(min_length=8, max_length=500)]) -> str:
        return text_of(url, hosts)

    fetch.__doc__ = f"read a web page; hosts: {', '.join(sorted(hosts))[:300]}"
    return fetch


def text_of(url: str, hosts: Collection[str]) -> str:
    """The page's text, its main content where it is HTML. Raises ActionError in one line."""
    import httpx

    try:
        with httpx.Client(timeout=SECONDS, follow_redirects=False) as client:
            for _ in range(REDIRECTS + 1):
                check(url, hosts)
                with client.stream("GET", url, headers={"User-Agent": "catena-agent"}) as reply:
                    if reply.next_request is not None:
                        url = str(reply.next_request.url)
                        continue
                    reply.raise_for_status()
                    return readable(reply, body(reply))
        raise ActionError(f"fetch: more than {REDIRECTS} redirects")
    except ActionError:
        raise
    except httpx.HTTPStatusError as error:
        raise ActionError(f"fetch: {error.response.status_code} for {url[:120]}") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise ActionError(f"fetch: {type(error).__name__} {' '.join(str(error).split())[:120]}") from None


def check(url: str, hosts: Collection[str]) -> None:
    """Raise ActionError where `url` is not http(s) on a host of the list, or carries a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ActionError(f"fetch: {url[:120]!r} is no address") from None
    host = (parts.hostname or "") + (f":{port}" if port else "")
    if parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise ActionError(f"fetch: {url[:120]!r} is no plain http(s) address")
    if host not in hosts:
        raise ActionError(f"fetch: {host[:80]} is not allowed; allowed: {', '.join(sorted(hosts)) or 'none'}")


def body(reply: httpx.Response, most: int = BYTES) -> bytes:
    """At most `most` bytes of a streamed body, decompressed. Raises ActionError for no text, or one that is slow."""
    kind = reply.headers.get("content-type", "text/plain").lower()
    if not kind.startswith(TEXT):
        raise ActionError(f"the answer is {kind[:60]}, no text")
    deadline, parts, size = time.monotonic() + SECONDS, [], 0
    for part in reply.iter_bytes():
        parts.append(part)
        size += len(part)
        if size >= most:
            break
        if time.monotonic() > deadline:
            raise ActionError(f"the answer is not whole after {SECONDS:g} s")
    return b"".join(parts)[:most]


def readable(reply: httpx.Response, data: bytes) -> str:
    """Text of a page: its main content where it is HTML, as it is otherwise."""
    text = data.decode(reply.charset_encoding or "utf-8", errors="replace")
    if "html" not in reply.headers.get("content-type", ""):
        return text or "an empty page"
    import trafilatura

    return trafilatura.extract(text) or "no text on the page"
