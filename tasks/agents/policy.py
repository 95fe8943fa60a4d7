"""Which calls of an agent may run: what the user allowed, aimed at what the user named.

A tool's answer is written by others and may tell the model what to do (prompt injection). Prompts do not stop that;
this does: a tool that the user did not allow is never called, and a tool that changes something or sends something
out is not called where what it is aimed at (a host, a mail address, a path, SQL, code) stands in a tool's answer and
not in the user's own words. It is the taint tracking of information flow (Denning, 1976) on what matters of a call:
the text written to a file may come from a page, the file's name may not.

What is compared is text: an address that a model puts together from pieces is not recognized. The loop therefore
also asks a person, or refuses, before any effect once text from outside has been read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.agents.tools import Scope

CODE = 12       # characters of a line of code or SQL from which on it counts as copied
SHORT = 4       # characters below which a value must stand in an answer as a whole word
NAMED = {
    "host": re.compile(r"(^|_)(url|uri|link|host|hostname|domain|endpoint|server|webhook)s?$"),
    "recipient": re.compile(r"(^|_)(to|cc|bcc|recipient|email|receiver|account|iban|phone|channel|user)s?$"),
    "path": re.compile(r"(^|_)(path|file|filename|dir|directory|folder|dest|destination|target)s?$"),
    "code": re.compile(r"(^|_)(sql|query|statement|code|script|program|command|cmd|shell|args|expression)$"),
}
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+")
MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True)
class Call:
    """A call as the model asked for it: the tool's name, its arguments as JSON text, what the tool may do."""

    tool: str
    arguments: str
    scope: Scope


def refusal(call: Call, allowed: frozenset[str], outputs: Sequence[str], question: str) -> str | None:
    """Why this call must not run, in one line, or None where it may.

    `allowed` are the names of the user's tools, `outputs` what tools have returned so far, `question` everything the
    user has said. Arguments that are no JSON object are left to the tool, which refuses them itself.
    """
    if call.tool not in allowed:
        return f"the user did not allow {call.tool[:64]!r}"
    if call.scope == "read" or not outputs:
        return None
    try:
        arguments = json.loads(call.arguments)
    except RecursionError:
        return f"{call.tool}: the arguments are nested too deep to be looked at"
    except ValueError:
        return None
    read, said = plain("\n".join(outputs)), plain(question)
    for name, kind, value in targets(arguments):
        if (value in read if len(value) >= SHORT else stands(value, read)) and not stands(value, said):
            return (f"{call.tool}: the {kind} in {name!r} ({value[:80]!r}) comes from what a tool returned, "
                    "not from the user")
    return None


def targets(arguments: Any) -> Iterator[tuple[str, str, str]]:
    """(argument, kind, value made plain) of everything in a call's arguments that says where or what it acts."""
    for name, text in strings(arguments):
        value, key = plain(text), name.lower()
        for address in ADDRESS.findall(value) or ([f"//{value}"] if NAMED["host"].search(key) else []):
            try:
                host = urlsplit(address).hostname
            except ValueError:
                host = address
            yield name, "host", host or value
        for mail in MAIL.findall(value):
            yield name, "recipient", mail
        if NAMED["recipient"].search(key):
            yield name, "recipient", value
        if NAMED["path"].search(key):
            yield name, "path", re.sub(r"^(\./+)+|/+$", "", value) or value
        if NAMED["code"].search(key):
            lines = [line.strip() for line in re.split(r"[\n;]", value)]
            yield from ((name, "code", line) for line in [value, *lines] if len(line) >= CODE)


def strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(nearest key, text) of every text in JSON data, outermost first."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            waiting += [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]


def plain(text: str) -> str:
    """Text as it is compared: %-escapes and Unicode's look-alikes resolved, case folded, spaces made one."""
    text = "".join(mark for mark in unicodedata.normalize("NFKC", unquote(text))
                   if unicodedata.category(mark) != "Cf")    # zero-width marks split a word that is read as one
    return re.sub(r"[^\S\n]+", " ", text).casefold()


def stands(value: str, text: str) -> bool:
    """Whether `value` stands in `text` as a whole: example.org does not stand in example.org.evil.com."""
    value = value.strip()
    return bool(value) and bool(re.search(
        rf"(?<![a-z0-9_-])(?<![a-z0-9]\.){re.escape(value)}(?![a-z0-9_-]|\.[a-z0-9])", text))
