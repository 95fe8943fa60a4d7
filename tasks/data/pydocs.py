"""A small linked web site out of the docstrings of installed Python modules: a corpus that needs no network."""

from __future__ import annotations

import html
import importlib
import inspect
import pydoc
import re
from collections.abc import Iterator
from types import ModuleType

from tasks.stage import StageError

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def pages(modules: list[str]) -> Iterator[tuple[str, bytes]]:
    """(path, HTML) of index.html and one page a module, in order. Raises StageError where a module is not there."""
    names = sorted(set(modules))
    links = "".join(f'<li><a href="{name}.html">{name}</a></li>\n' for name in names)
    yield "index.html", page("Python modules", f"<h1>Python modules</h1>\n<ul>\n{links}</ul>\n", "")
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise StageError(f"sources: pydoc cannot import module {name!r} ({error}): take another") from None
        yield f"{name}.html", page(name, body(name, module), '<nav><a href="index.html">All modules</a></nav>\n')


def body(name: str, module: ModuleType) -> str:
    """The module's documentation: its own, then that of its public functions, classes and their methods."""
    parts = [f"<h1>{html.escape(name)}</h1>\n", paragraphs(pydoc.getdoc(module))]
    for key, value in sorted(vars(module).items()):
        own = getattr(value, "__module__", None) in (name, f"_{name}") and not key.startswith("_")
        if own and (inspect.isclass(value) or inspect.isroutine(value)):
            parts.append(entry(f"{name}.{key}", value))
            for method, member in sorted(vars(value).items()) if inspect.isclass(value) else ():
                if inspect.isroutine(member) and not method.startswith("_"):
                    parts.append(entry(f"{key}.{method}", member))
    return "".join(parts)


def entry(name: str, value: object) -> str:
    """Heading and paragraphs of one definition; nothing where it has no documentation."""
    text = paragraphs(pydoc.getdoc(value))
    if not text:
        return ""
    try:
        signature = ADDRESS.sub("", str(inspect.signature(value)))
    except (TypeError, ValueError):
        signature = "()"
    return f"<h2>{html.escape(name)}{html.escape(signature)}</h2>\n{text}"


def paragraphs(text: str) -> str:
    """Blank-line separated text as HTML paragraphs."""
    pieces = [ADDRESS.sub("", " ".join(piece.split())) for piece in re.split(r"\n\s*\n", text) if piece.strip()]
    return "".join(f"<p>{html.escape(piece)}</p>\n" for piece in pieces)


def page(title: str, content: str, navigation: str) -> bytes:
    """A whole HTML document in UTF-8."""
    head = f'<head><meta charset="utf-8"><title>{html.escape(title)}</title></head>'
    return (f'<!DOCTYPE html>\n<html lang="en">\n{head}\n'
            f"<body>\n{navigation}<main>\n{content}</main>\n</body>\n</html>\n").encode()
