"""The quality rules: one tokenization of a page, one table of thresholds by language, one reason for a drop.

The rules are Gopher's quality and repetition (Rae et al. 2021, table A1), C4's placeholders and sentences (Raffel et
al. 2020) and FineWeb's lines (Penedo et al. 2024, section 3.5). Their published thresholds are for English web prose:
they drop all Chinese, which has no spaces, and most technical documentation, which has code, lists and repeated
signatures. So every threshold stands in params.yaml by language; null switches a rule off there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

from pydantic import Field

from tasks.data import words
from tasks.params import Section

BULLETS = ("•", "-", "*", "·", "●", "–", "‣")
ELLIPSES = ("...", "…", "……")
ENDS = tuple(".!?:;\"'”’)…。！？：；」』）")
# replacement characters, control characters, and UTF-8 read as Latin-1 (Ã©, â€™, å¥½)
BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|[ÃÂâåäæçèé][\u0080-\u00bf€™œ‚„…†‡ˆ‰Š‹Ž‘’“”•–—˜š›žŸ]")
STOP_WORDS = {
    "en": frozenset("the be to of and that have with is a in for".split()),
    "zh": frozenset("的一是在不了有和人这中大为上个以他也之其"),
}

Fraction = Field(ge=0, le=1)


class Rules(Section):
    """Thresholds of one language; null switches a rule off. Ratios are of words, lines or characters as named."""

    min_words: int = Field(ge=0, description="Gopher: shorter pages say too little (a Han character is a word)")
    max_words: int = Field(ge=1, description="Gopher: longer ones are dumps")
    min_mean_word: float | None = Field(ge=0, description="Gopher: mean word length in characters")
    max_mean_word: float | None = Field(ge=0)
    max_symbols: float | None = Field(ge=0, description="Gopher: # and ellipses a word")
    max_bullet_lines: float | None = Fraction
    max_ellipsis_lines: float | None = Fraction
    min_alphabetic: float | None = Field(ge=0, le=1, description="Gopher: words with a letter")
    min_stop_words: int | None = Field(ge=0, description="Gopher: distinct stop words of the language")
    min_sentences: int | None = Field(ge=0, description="C4: lines or sentences that end as sentences do")
    max_duplicate_lines: float | None = Fraction
    max_duplicate_line_characters: float | None = Fraction
    top_2_gram: float | None = Field(ge=0, le=1, description="Gopher: characters in the most frequent 2-gram")
    top_3_gram: float | None = Fraction
    top_4_gram: float | None = Fraction
    duplicate_5_gram: float | None = Field(ge=0, le=1, description="Gopher: words covered by repeated 5-grams")
    duplicate_10_gram: float | None = Fraction
    min_punctuated_lines: float | None = Field(ge=0, le=1, description="FineWeb: lines that end in punctuation")
    max_short_lines: float | None = Field(ge=0, le=1, description="FineWeb: lines of at most 30 characters")
    max_newlines: float | None = Field(ge=0, description="FineWeb: line breaks a word")
    max_broken: float | None = Field(ge=0, le=1, description="characters that tell of a wrong encoding")
    placeholders: list[str] = Field(description="C4: a page with one of these, in lower case, is no text")


class Page:
    """A page's text, tokenized once; what several rules share is computed on first use and kept."""

    def __init__(self, text: str, language: str):
        self.text, self.language = text, language
        self.words = words.words(text)
        self.lines = [line.strip() for line in text.split("\n") if line.strip()]

    @cached_property
    def lower(self) -> list[str]:
        """The words in lower case."""
        return [word.lower() for word in self.words]

    @cached_property
    def characters(self) -> int:
        """Characters in words: what n-gram shares are shares of."""
        return sum(map(len, self.words)) or 1

    @cached_property
    def duplicates(self) -> tuple[float, float]:
        """`duplicated` of the page's lines."""
        return duplicated(self.lines)

    def share(self, good: Callable[[str], bool]) -> float:
        """Share of lines for which `good` holds."""
        return sum(map(good, self.lines)) / max(1, len(self.lines))


def top_ngram(page: Page, n: int) -> float:
    """Characters of the most frequent `n`-gram that occurs twice or more, as a share of all words' characters."""
    if len(page.lower) < n:
        return 0.0
    gram, times = Counter(zip(*(page.lower[i:] for i in range(n)))).most_common(1)[0]
    return sum(map(len, gram)) * times / page.characters if times > 1 else 0.0


def duplicate_ngram(page: Page, n: int) -> float:
    """Characters of the words covered by an `n`-gram seen before in the page, as a share of all words' characters."""
    seen: set[tuple[str, ...]] = set()
    covered = bytearray(len(page.lower))
    for start, gram in enumerate(zip(*(page.lower[i:] for i in range(n)))):
        if gram in seen:
            covered[start:start + n] = b"\1" * n
        seen.add(gram)
    return sum(len(word) for word, hit in zip(page.lower, covered) if hit) / page.characters


def duplicated(lines: Sequence[str]) -> tuple[float, float]:
    """(share of lines, share of characters) in lines seen before; a lone bracket or rule is none."""
    seen: set[str] = set()
    repeated = [line for line in lines if (line in seen or seen.add(line)) and any(map(str.isalnum, line))]
    return len(repeated) / max(1, len(lines)), sum(map(len, repeated)) / max(1, sum(map(len, lines)))


def judge(page: Page, rules: Rules) -> str | None:
    """The first rule that drops the page, cheap ones first, by its name in the retention table; None keeps it."""
    count = len(page.words)
    if count < rules.min_words:
        return "too_short"
    if count > rules.max_words:
        return "too_long"

    count = max(1, count)

    def above(value: Callable[[], float], limit: float | None) -> bool:
        return limit is not None and value() > limit

    def below(value: Callable[[], float], limit: float | None) -> bool:
        return limit is not None and value() < limit

    if above(lambda: len(BROKEN.findall(page.text)) / max(1, len(page.text)), rules.max_broken):
        return "broken_encoding"
    folded = page.text.lower()
    if any(placeholder in folded for placeholder in rules.placeholders):
        return "placeholder"
    if below(lambda: page.characters / count, rules.min_mean_word):
        return "short_words"
    if above(lambda: page.characters / count, rules.max_mean_word):
        return "long_words"
    if above(lambda: (page.text.count("#") + sum(map(page.text.count, ELLIPSES[:2]))) / count, rules.max_symbols):
        return "symbols"
    if above(lambda: page.share(lambda line: line.startswith(BULLETS)), rules.max_bullet_lines):
        return "bullet_lines"
    if above(lambda: page.share(lambda line: line.endswith(ELLIPSES)), rules.max_ellipsis_lines):
        return "ellipsis_lines"
    if below(lambda: sum(any(map(str.isalpha, word)) for word in page.words) / count, rules.min_alphabetic):
        return "not_alphabetic"
    if below(lambda: len(STOP_WORDS.get(page.language, frozenset()) & set(page.lower)), rules.min_stop_words):
        return "no_stop_words"
    if below(lambda: sum(s.endswith(ENDS) for s in words.sentences(page.text)), rules.min_sentences):
        return "no_sentences"
    if below(lambda: page.share(lambda line: line.endswith(ENDS)), rules.min_punctuated_lines):
        return "unpunctuated_lines"
    if above(lambda: page.share(lambda line: len(line) <= 30), rules.max_short_lines):
        return "short_lines"
    if above(lambda: page.text.count("\n") / count, rules.max_newlines):
        return "newlines"
    if above(lambda: page.duplicates[0], rules.max_duplicate_lines):
        return "duplicate_lines"
    if above(lambda: page.duplicates[1], rules.max_duplicate_line_characters):
        return "duplicate_line_characters"
    for n, limit in ((2, rules.top_2_gram), (3, rules.top_3_gram), (4, rules.top_4_gram)):
        if above(lambda: top_ngram(page, n), limit):
            return f"top_{n}_gram"
    for n, limit in ((5, rules.duplicate_5_gram), (10, rules.duplicate_10_gram)):
        if above(lambda: duplicate_ngram(page, n), limit):
            return f"duplicate_{n}_gram"
    return None
