"""One tokenization into words for every rule of the data stages, English and Chinese alike.

A Han character, kana or hangul syllable is a word of its own (those scripts write no spaces); elsewhere a word is a
run of letters, digits and underscores, with inner apostrophes. Cheap by design: one regular expression, once a page.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # by number: normalized, the third would be others
IDEOGRAPHS = HAN + "぀-ヿ가-힣"  # written without spaces: Han, kana, hangul
FIRST_IDEOGRAPH = "぀"  # what a word of theirs is not below, and (rare scripts apart) every other is
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+(?:['’][^\W\d_{IDEOGRAPHS}]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]?\s+|(?<=[。！？])[”’」』]?|\n+")


def words(text: str) -> list[str]:
    """The words of `text` in order, as written."""
    return WORD.findall(text)


def normal_words(text: str) -> list[str]:
    """The words of `text` folded for comparison: NFKC, lower case, so width, case and punctuation do not count."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def ngrams(tokens: Sequence[str], n: int) -> Iterator[str]:
    """Every run of `n` words joined by spaces; the whole sequence where it is shorter than `n` and not empty."""
    if len(tokens) <= n:
        return iter([" ".join(tokens)] if tokens else [])
    return map(" ".join, zip(*(tokens[i:] for i in range(n))))


def sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped, empty ones left out; a line break always ends one."""
    return [s for part in SENTENCE_END.split(text) if part and (s := part.strip())]
