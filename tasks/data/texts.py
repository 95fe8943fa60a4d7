"""Plain text out of files that are not web pages: prose files, JSON lists, and the docstrings of Python modules."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tasks.data import payloads

DOCSTRINGS_CHARACTERS = 4000
FIELD = re.compile(r"^\s*:(?:param|ivar|cvar|var|raises|returns?|rtype|type)\b\s*([^:]*):[ \t]*", re.M)
TYPE = re.compile(r"^\s*:(?:type|rtype)\b.*\n?", re.M)
BREAK, TAG = re.compile(r"<(?:br|li|p|ul|ol|tr)\b[^>]*>", re.I), re.compile(r"</?[a-zA-Z][^>]*>")
BLANKS = re.compile(r"\n\s*\n+")


def texts(path: str, data: bytes, fields: list[str]) -> Iterator[str]:
    """The texts in one file: PDF and EPUB by their first bytes, else by suffix: .py (docstrings), .json (a list),
    anything else (the whole, UTF-8).

    `fields` are the keys joined, in that order, where a JSON list holds objects. Raises ValueError with the reason
    where the file is not what its suffix says.
    """
    suffix = PurePosixPath(path).suffix
    if reader := payloads.READERS.get(payloads.kind("", data)):
        yield tidy(reader(data))
        return
    text = data.decode("utf-8-sig")
    if suffix == ".py":
        yield from docstrings(text)
    elif suffix == ".json":
        yield from listed(json.loads(text), fields)
    else:
        yield tidy(text)


def listed(value: object, fields: list[str]) -> Iterator[str]:
    """One text an item of a JSON list: a string, or the `fields` of an object, a line each."""
    if not isinstance(value, list):
        raise ValueError("not a JSON list")
    for item in value:
        if isinstance(item, str):
            yield tidy(item)
        elif isinstance(item, dict):
            values = [item.get(name, "") for name in fields]
            parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
            yield tidy("\n".join(map(str, parts)))
        else:
            raise ValueError(f"an item is neither text nor object but {type(item).__name__}")


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of a module's classes and functions as prose, gathered to texts of about 4,000 characters."""
    gathered: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (piece := prose(node)):
            gathered.append(piece)
        if sum(map(len, gathered)) >= DOCSTRINGS_CHARACTERS:
            yield "\n\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n\n".join(gathered)


def prose(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Name and docstring of a definition, and those of its undecorated methods (accessors repeat the fields)."""
    parts = [plain(ast.get_docstring(node) or "")]
    for child in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(child, ast.FunctionDef) and not child.decorator_list:
            text = plain(ast.get_docstring(child) or "")
            parts.append(f"{child.name}: {text}" if text and not child.name.startswith("_") else text)
    text = "\n".join(part for part in parts if part)
    return f"{node.name}\n{text}" if text else ""


def plain(docstring: str) -> str:
    """A docstring without Sphinx's field marks and HTML's tags: `:param _Zone: x` becomes `Zone: x`."""
    def named(match: re.Match[str]) -> str:
        words = match[1].split()
        return f"{words[-1].lstrip('_')}: " if words else ""

    text = FIELD.sub(named, TYPE.sub("", docstring))
    return tidy(html.unescape(TAG.sub("", BREAK.sub("\n", text))))


def tidy(text: str) -> str:
    """Lines without outer blanks, at most one empty line in a row."""
    lines = "\n".join(line.strip(" \t\u3000\r\ufeff") for line in text.splitlines())
    return BLANKS.sub("\n\n", lines).strip()


def sound(text: str) -> str:
    """A text that can be written as UTF-8: pairs of surrogates joined, lone ones (JSON can hold them) replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
