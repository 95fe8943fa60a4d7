"""Pages in several languages: paragraphs that are surely in a language not asked for are cut out.

A paragraph ends at an empty line; one of more than LONG characters is taken line by line (many extractors leave no
empty lines). It is identified by its first 200 characters where it is long enough to tell and is prose: code has
no language, and identifiers read as Italian. It is cut where its language is not among those kept and the
detector is sure. A paragraph that is not identified stays, unless its identified neighbours on both sides (the edge of
the page agrees with anything) are cut. Paragraphs of another kept language stay: an English page may quote Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple, Protocol

from pydantic import Field

from tasks.params import Section

PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
LONG = 1500
SAMPLE = 200  # characters identified: a longer sample costs time in proportion for nearly the same answers
NO_PROSE = str.maketrans("", "", "[]{}()=<>_#`|\\/*+;:\"'@$%^&~0123456789")
PROSE = 0.95      # characters that are none of these, of a paragraph that has a language
COMMON = 0.1      # share of stop words in a sample from which it is of their language


class Paragraphs(Section):
    """When a paragraph is cut for its language, and how little is too little."""

    min_characters: int = Field(ge=1, description="a shorter paragraph is not identified by itself")
    min_score: float = Field(ge=0, le=1, description="probability of the foreign language from which it is cut")
    min_kept: float = Field(ge=0, le=1, description="share of characters left; below it the page is dropped: mixed")


class Identifier(Protocol):
    """What tells a language: tasks.data.language.Detector and ScriptDetector."""

    def detect(self, text: str) -> tuple[str, float]:
        """(ISO 639 code, probability)."""


class Split(NamedTuple):
    """A page without its foreign paragraphs: what is left, what was cut, and of what is left how many characters are
    known to be in a language asked for."""

    text: str
    paragraphs: int
    characters: int
    known: int


def paragraphs(text: str) -> list[tuple[str, str]]:
    """(paragraph, the blank characters after it) in order; joined they are `text`."""
    found, start = [], 0
    for end in PARAGRAPH.finditer(text):
        found.append((text[start:end.start()], end[0]))
        start = end.end()
    found.append((text[start:], ""))
    parts = []
    for part, blank in found:
        if len(part) > LONG and "\n" in part:
            lines = part.split("\n")
            parts += [(line, "\n") for line in lines[:-1]] + [(lines[-1], blank)]
        else:
            parts.append((part, blank))
    return parts


def prose(sample: str) -> bool:
    """Whether so much of `sample` is letters and sentence marks that it is in a language at all."""
    return len(sample.translate(NO_PROSE)) >= PROSE * len(sample)


def common(sample: str, stop_words: Collection[str]) -> bool:
    """Whether `sample` is full of these words (written with spaces): a cheap yes that saves the detector."""
    words = sample.lower().split()
    return sum(word in stop_words for word in words) > COMMON * len(words)


def carried(states: list[bool | None]) -> list[bool | None]:
    """The last state that is not None before each place."""
    last, found = None, []
    for state in states:
        found.append(last)
        last = last if state is None else state
    return found


def split(text: str, kept: Collection[str], stop_words: Collection[str], detector: Identifier,
          params: Paragraphs) -> Split:
    """`text` without the paragraphs in languages not in `kept`. `stop_words` are those of the page's own language
    where it is kept: paragraphs full of them are not identified. Linear in the length of `text`."""
    parts = paragraphs(text)
    states: list[bool | None] = []  # True: stays, False: is cut, None: goes with its neighbours
    for part, _ in parts:
        state = None
        if len(part) >= params.min_characters:
            sample = part.strip()[:SAMPLE]
            if common(sample, stop_words):
                state = True
            elif prose(sample):
                language, score = detector.detect(sample)
                if language in kept:
                    state = True
                elif language and score >= params.min_score:
                    state = False
        states.append(state)
    known = sum(len(part) for (part, _), state in zip(parts, states) if state)
    if False not in states:
        return Split(text, 0, 0, known)
    before, after = carried(states), carried(states[::-1])[::-1]
    stays = [state if state is not None else True in around for state, *around in zip(states, before, after)]
    cut = [part for (part, _), stay in zip(parts, stays) if not stay and part.strip()]
    left = "".join(part + blank for (part, blank), stay in zip(parts, stays) if stay).strip()
    return Split(left, len(cut), sum(map(len, cut)), known)
