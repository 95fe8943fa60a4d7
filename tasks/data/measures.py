"""What the quality rules measure on a page: tokenized once, every measure a number, each computed on first use.

A token is a Han character, kana or hangul syllable (those scripts write no spaces), a run between spaces without the
punctuation around it, or one punctuation mark; a word is a token that is no mark. It is close to what spaCy's
tokenizer yields, which the published thresholds were set with in datatrove, at a small part of its cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from itertools import count

import numpy as np

from tasks.data import words
from tasks.data.repetition import Grams, duplicated

BULLETS = ("•", "-", "*", "·", "●", "–", "‣", "○", "■", "□", "◆", "◇", "★", "※", "・", "➢")
ELLIPSES = ("...", "…", "。。。")
PARAGRAPHS = re.compile(r"\n\s*\n")
CONTROLS = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
TWICE_ENCODED = re.compile("[ÃÂâåäæçèé][\u0080-\u00bf€™œ‚„…†‡ˆ‰Š‹Ž‘’“”•–—˜š›žŸ]")  # UTF-8 read as Latin-1: Ã©, â€™, å¥½
TOKEN = re.compile(rf"[^\W{words.IDEOGRAPHS}](?:[^\s{words.IDEOGRAPHS}]*[^\W{words.IDEOGRAPHS}])?|\S")
HAN = re.compile(f"[{words.HAN}]")


class Page:
    """A page's text and what the rules count in it. Ratios of an empty page are 0."""

    def __init__(self, text: str):
        self.text = text
        self.folded = text.lower()
        tokens = TOKEN.findall(self.folded)
        numbers = dict(zip(dict.fromkeys(tokens), count()))
        self.vocabulary = list(numbers)
        self.numbers = np.fromiter(map(numbers.__getitem__, tokens), dtype=np.int64, count=len(tokens))
        self.times = np.bincount(self.numbers, minlength=len(numbers))
        self.lengths = np.fromiter(map(len, self.vocabulary), dtype=np.int64, count=len(numbers))
        self.is_word = self.which(lambda token: len(token) > 1 or token.isalnum() or token == "_")
        self.tokens = len(tokens)
        self.words = int(self.times[self.is_word].sum())
        self.lines = [line for part in text.split("\n") if (line := part.strip())]

    def which(self, good: Callable[[str], object]) -> np.ndarray:
        """bool[v]: the tokens of the vocabulary for which `good` holds."""
        return np.fromiter((bool(good(token)) for token in self.vocabulary), dtype=bool, count=len(self.vocabulary))

    def share(self, good: Callable[[str], bool]) -> float:
        """Share of lines for which `good` holds."""
        return sum(map(good, self.lines)) / max(1, len(self.lines))

    @cached_property
    def grams(self) -> Grams:
        """The page's n-grams of tokens; marks have no characters in them, so the bars of a table repeat nothing."""
        return Grams(self.numbers, (self.lengths * self.is_word)[self.numbers])

    @cached_property
    def duplicate_lines(self) -> tuple[float, float]:
        """`duplicated` of the lines."""
        return duplicated(self.lines)

    @cached_property
    def duplicate_paragraphs(self) -> tuple[float, float]:
        """`duplicated` of what stands between empty lines."""
        return duplicated([part for piece in PARAGRAPHS.split(self.text) if (part := piece.strip())])

    @cached_property
    def covered(self) -> dict[int, float]:
        """What `duplicate_ngram` has computed."""
        return {}

    def mean_word(self) -> float:
        """Characters a word."""
        return float((self.times * self.lengths)[self.is_word].sum()) / max(1, self.words)

    def symbols(self) -> float:
        """Hashes a token, or ellipses a token, whichever are more."""
        return max(self.text.count("#"), sum(map(self.text.count, ELLIPSES))) / max(1, self.tokens)

    def bullet_lines(self) -> float:
        """Share of lines that start with a bullet."""
        return self.share(lambda line: line.startswith(BULLETS))

    def ellipsis_lines(self) -> float:
        """Share of lines that end in an ellipsis."""
        return self.share(lambda line: line.endswith(ELLIPSES))

    def alphabetic(self) -> float:
        """Share of tokens with a letter."""
        letters = self.which(lambda token: token[0].isalpha() or any(map(str.isalpha, token)))
        return int(self.times[letters].sum()) / max(1, self.tokens)

    def han(self) -> float:
        """Share of words that are Han characters."""
        return int(self.times[self.which(HAN.match)].sum()) / max(1, self.words)

    def stop_words(self, listed: list[str]) -> int:
        """How many of the words `listed` (lower case) stand in the page."""
        return len(set(listed).intersection(self.vocabulary))

    def sentences(self, ends: tuple[str, ...], enough: int) -> int:
        """Sentences and lines that end in one of `ends`; where the lines alone are `enough`, only these."""
        count = sum(line.endswith(ends) for line in self.lines)
        return count if count >= enough else sum(part.endswith(ends) for part in words.sentences(self.text))

    def punctuated_lines(self, ends: tuple[str, ...]) -> float:
        """Share of lines that end in one of `ends`."""
        return self.share(lambda line: line.endswith(ends))

    def short_lines(self, characters: int) -> float:
        """Share of lines of at most so many characters."""
        return self.share(lambda line: len(line) <= characters)

    def newlines(self) -> float:
        """Line breaks a token."""
        return self.text.count("\n") / max(1, self.tokens)

    def clause(self) -> float:
        """Words between two breaks, a break being a punctuation mark or the end of a line: in Chinese, which has no
        spaces, what tells prose from strings of keywords."""
        return self.words / max(1, self.tokens - self.words + len(self.lines))

    def broken(self) -> float:
        """Share of characters that tell of a wrong encoding."""
        found = len(CONTROLS.findall(self.text)) + len(TWICE_ENCODED.findall(self.text))
        return found / max(1, len(self.text))

    def top_ngram(self, n: int) -> float:
        """Characters of words in the `n`-gram that takes the most of the page, all its places, as a share."""
        return self.grams.top(n) / max(1, len(self.text))

    def duplicate_ngram(self, n: int, limit: float) -> float:
        """Characters of words in an `n`-gram seen before, as a share of the page's. Called for growing `n`.

        An n-gram seen before holds shorter ones seen before, so the share never grows with `n`: where that of a
        shorter one is not above `limit`, it is given in the place of this one, unmeasured.
        """
        bound = min(self.covered.values(), default=1.0)
        if bound > limit or not self.covered:
            self.covered[n] = bound = self.grams.covered(n) / max(1, len(self.text))
        return bound
