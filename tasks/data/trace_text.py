"""The form in which texts are compared when an answer is traced: word for word, whatever the white space.

A word (tasks/data/words.py) is followed by END, so that a match that ends there ends with the word: `cat` is not found
in `category`. A run of white space and control characters is one blank. Every other character stands as it is. A text
in this form holds no line break, which is how documents are kept apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.data.words import WORD

BLANK = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+")
END, START = "\0", "\1"
PIECE = re.compile(rf"(?P<word>{WORD.pattern})|(?P<blank>{BLANK.pattern})|.", re.DOTALL)


def normal(text: str) -> bytes:
    """`text` in this form, as UTF-8 (a lone surrogate as its three bytes)."""
    return marked(text).replace(START.encode(), b"")


def marked(text: str) -> bytes:
    """As `normal`, with START before each word."""
    return WORD.sub(rf"{START}\g<0>{END}", BLANK.sub(" ", text)).encode("utf-8", "surrogatepass")


def shown(form: bytes) -> str:
    """A passage of this form for a reader; characters cut in half at its ends are left out."""
    return form.decode("utf-8", "ignore").replace(END, "")


@dataclass(frozen=True)
class Query:
    """A text to trace. `starts`: (byte, character) of each word; `ends`: (byte, character) behind each word and each
    other character that is not blank; bytes count in `form`, characters in the text as given."""

    form: bytes
    starts: list[tuple[int, int]]
    ends: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> Query:
        """Cut `text` into its pieces."""
        parts: list[bytes] = []
        starts: list[tuple[int, int]] = []
        ends: list[tuple[int, int]] = []
        at = 0
        for piece in PIECE.finditer(text):
            word, blank = piece.lastgroup == "word", piece.lastgroup == "blank"
            part = " " if blank else piece[0] + END if word else piece[0]
            parts.append(part.encode("utf-8", "surrogatepass"))
            if word:
                starts.append((at, piece.start()))
            at += len(parts[-1])
            if not blank:
                ends.append((at, piece.end()))
        return cls(b"".join(parts), starts, ends)
