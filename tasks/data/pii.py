"""Personal data in a text, found and masked, English and Chinese alike: by its form, and by a check where it has one.

Classes: `key` (tasks/data/credentials.py); `email`, `ip`, `phone` (tasks/data/contacts.py); `resident_id`, `card`,
`iban`, `ssn` (tasks/data/identity.py). A span becomes `<class>`. What documentation writes in their place stays:
example.com, scott:tiger@localhost, 127.0.0.1, 4111 1111 1111 1111, 555-0123. Every pattern is bounded or begins at a
rare character, so the time is linear in the length of any text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from tasks.data import contacts, credentials, identity

Finder = Callable[[str], Iterator[tuple[int, int]]]
NumberFinder = Callable[[str, int, int], Iterator[tuple[int, int]]]
FINDERS: dict[str, Finder] = {"key": credentials.keys, "email": contacts.emails, "iban": identity.ibans,
                              "ip": contacts.addresses}
NUMBER_FINDERS: dict[str, NumberFinder] = {  # these look only where digits are many: text from start to end
    "resident_id": identity.resident_ids,
    "card": identity.cards,
    "ssn": identity.social_security_numbers,
    "phone": contacts.phones,
}
CLASSES = ("key", "email", "resident_id", "card", "iban", "ssn", "ip", "phone")  # the earlier wins where two overlap
DIGITS = re.compile(r"[0-9](?:[ ().–/-]{0,3}[0-9]){6,}")
BEFORE, AFTER = 3, 8  # characters around such a run that may belong to a number: +( and x-1234
WIDE = "０１２３４５６７８９＋－（）．＠：　"
NARROW = str.maketrans(WIDE, "0123456789+-().@: ")  # one character for one, so that positions hold
SOME_WIDE = frozenset(WIDE)


class Span(NamedTuple):
    """Characters start to end (excluded) of a text, and what they are."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """The personal data in `text`, in order, no two overlapping; full-width digits and signs count as narrow ones."""
    if not text.isascii() and not SOME_WIDE.isdisjoint(text):
        text = text.translate(NARROW)
    found = [Span(start, end, kind) for kind, finder in FINDERS.items() for start, end in finder(text)]
    for run in DIGITS.finditer(text):
        bounds = max(0, run.start() - BEFORE), run.end() + AFTER
        found += [Span(start, end, kind) for kind, finder in NUMBER_FINDERS.items()
                  for start, end in finder(text, *bounds)]
    return without_overlaps(found)


def without_overlaps(spans: list[Span]) -> list[Span]:
    """`spans` in order; where some overlap the earlier of CLASSES, then the longer, is kept."""
    taken: list[Span] = []
    for span in sorted(spans):
        while taken and span.start < taken[-1].end:
            if strength(taken[-1]) <= strength(span):
                break
            taken.pop()
        else:
            taken.append(span)
    return taken


def strength(span: Span) -> tuple[int, int]:
    """What decides between overlapping spans: the lower keeps its place."""
    return CLASSES.index(span.kind), span.start - span.end


def withhold(text: str) -> str:
    """`text` for a page that people read: every span of `find` becomes `[class withheld]`."""
    for start, end, kind in reversed(find(text)):
        text = f"{text[:start]}[{kind} withheld]{text[end:]}"
    return text


def mask(text: str, classes: Collection[str] = CLASSES) -> tuple[str, dict[str, int]]:
    """(`text` with every span of `find` that is of one of `classes` replaced by `<class>`, how many of each class)."""
    spans = [span for span in find(text) if span.kind in classes]
    parts, position = [], 0
    for span in spans:
        parts += [text[position:span.start], f"<{span.kind}>"]
        position = span.end
    return "".join([*parts, text[position:]]), dict(sorted(Counter(span.kind for span in spans).items()))
