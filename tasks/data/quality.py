"""The quality rules: a table of what is measured on a page and which threshold it must keep, one reason for a drop.

The rules are Gopher's quality and repetition (Rae et al. 2021, section A1.1), C4's (Raffel et al. 2020, section 2.2;
those on single lines: tasks/data/lines.py) and FineWeb's (Penedo et al. 2024, section 3.5), and for Chinese the same
with its own stop words and marks, words between marks in the place of word lengths, and a share of Han characters.
The published thresholds are for English web prose: they drop all Chinese, which has no spaces, and most technical
documentation, which has code, lists and repeated signatures. So every threshold stands in params.yaml by language;
null switches a rule off there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field

from tasks.data.measures import Page
from tasks.params import Section



class Rules(Section):
    """Thresholds of one language; null switches a rule off. A Han character, kana or hangul syllable is a word; ratios
    are of words, tokens (words and punctuation marks), lines or characters as named. Published values in brackets."""

    min_words: int | None = Field(ge=0, description="Gopher: shorter pages say too little [50]")
    max_words: int | None = Field(ge=1, description="Gopher: longer ones are dumps [100,000]")
    max_broken: float | None = Field(ge=0, le=1, description="characters that tell of a wrong encoding")
    placeholders: list[str] = Field(description="C4: a page with one of these, in lower case, is no text [lorem ipsum]")
    curly_brackets: bool = Field(description="C4 drops every page with a {: false; code has them: true")
    min_mean_word: float | None = Field(ge=0, description="Gopher: mean word length in characters [3]")
    max_mean_word: float | None = Field(ge=0, description="Gopher [10]")
    max_symbols: float | None = Field(ge=0, description="Gopher: # a token, ellipses a token [0.1]")
    max_bullet_lines: float | None = Field(ge=0, le=1, description="Gopher: lines that start with a bullet [0.9]")
    max_ellipsis_lines: float | None = Field(ge=0, le=1, description="Gopher: lines that end in an ellipsis [0.3]")
    min_alphabetic: float | None = Field(ge=0, le=1, description="Gopher: tokens with a letter [0.8]")
    min_han: float | None = Field(ge=0, le=1, description="Chinese: words that are Han characters")
    max_clause: float | None = Field(ge=0, description="Chinese: mean words between punctuation marks and line ends")
    stop_words: list[str] = Field(description="frequent words of the language, in lower case")
    min_stop_words: int | None = Field(ge=0, description="Gopher: how many of them the page has [2]")
    sentence_ends: str = Field(min_length=1, description="the marks that end a sentence")
    min_sentences: int | None = Field(ge=0, description="C4: sentences or lines that end in such a mark [5]")
    min_punctuated_lines: float | None = Field(ge=0, le=1, description="FineWeb: lines that end in such a mark [0.12]")
    short_line: int = Field(ge=0, description="FineWeb: characters of a short line at most [30]")
    max_short_lines: float | None = Field(ge=0, le=1, description="FineWeb: short lines [0.67]")
    max_newlines: float | None = Field(ge=0, description="FineWeb: line breaks a token, as lists have them [0.3]")
    max_duplicate_lines: float | None = Field(ge=0, le=1, description="Gopher: lines seen before [0.3]")
    max_duplicate_line_characters: float | None = Field(ge=0, le=1, description="Gopher [0.2], FineWeb [0.01]")
    max_duplicate_paragraphs: float | None = Field(ge=0, le=1, description="Gopher: paragraphs seen before [0.3]")
    max_duplicate_paragraph_characters: float | None = Field(ge=0, le=1, description="Gopher [0.2]")
    top_2_gram: float | None = Field(ge=0, le=1, description="Gopher: characters in the most frequent 2-gram [0.2]")
    top_3_gram: float | None = Field(ge=0, le=1, description="Gopher [0.18]")
    top_4_gram: float | None = Field(ge=0, le=1, description="Gopher [0.16]")
    duplicate_5_gram: float | None = Field(ge=0, le=1, description="Gopher: characters in 5-grams seen before [0.15]")
    duplicate_6_gram: float | None = Field(ge=0, le=1, description="Gopher [0.14]")
    duplicate_7_gram: float | None = Field(ge=0, le=1, description="Gopher [0.13]")
    duplicate_8_gram: float | None = Field(ge=0, le=1, description="Gopher [0.12]")
    duplicate_9_gram: float | None = Field(ge=0, le=1, description="Gopher [0.11]")
    duplicate_10_gram: float | None = Field(ge=0, le=1, description="Gopher [0.1]")
    cut_phrases: list[str] = Field(description="C4: a line with one of these, in lower case, is cut [javascript, ...]")
    cut_citations: bool = Field(description="C4: [1], [edit] and [citation needed] are cut out of lines [true]")
    cut_unpunctuated: bool = Field(description="C4: lines that do not end in a sentence's mark are cut [true]")
    min_line_words: int | None = Field(ge=0, description="C4: lines with fewer words between spaces are cut [3]")
    max_word_characters: int | None = Field(ge=1, description="C4: lines with a longer word are cut [1,000]")


class Verdict(NamedTuple):
    """Why a page is dropped: the rule's name in the retention table, what was measured, the threshold it broke."""

    reason: str
    value: float | str
    limit: float | str


class Rule(NamedTuple):
    """One row: the reason it gives, the threshold's field, which side is wrong, and the measure."""

    reason: str
    field: str
    above: bool
    measure: Callable[[Page, Rules], float]


def ends(rules: Rules) -> tuple[str, ...]:
    """The language's sentence ends as str.endswith takes them."""
    return tuple(rules.sentence_ends)


TABLE = (  # in this order, cheap ones first
    Rule("broken_encoding", "max_broken", True, lambda page, rules: page.broken()),
    Rule("too_short", "min_words", False, lambda page, rules: page.words),
    Rule("too_long", "max_words", True, lambda page, rules: page.words),
    Rule("short_words", "min_mean_word", False, lambda page, rules: page.mean_word()),
    Rule("long_words", "max_mean_word", True, lambda page, rules: page.mean_word()),
    Rule("symbols", "max_symbols", True, lambda page, rules: page.symbols()),
    Rule("bullet_lines", "max_bullet_lines", True, lambda page, rules: page.bullet_lines()),
    Rule("ellipsis_lines", "max_ellipsis_lines", True, lambda page, rules: page.ellipsis_lines()),
    Rule("not_alphabetic", "min_alphabetic", False, lambda page, rules: page.alphabetic()),
    Rule("few_han", "min_han", False, lambda page, rules: page.han()),
    Rule("unbroken_words", "max_clause", True, lambda page, rules: page.clause()),
    Rule("no_stop_words", "min_stop_words", False, lambda page, rules: page.stop_words(rules.stop_words)),
    Rule("no_sentences", "min_sentences", False, lambda page, rules: page.sentences(ends(rules), rules.min_sentences)),
    Rule("unpunctuated_lines", "min_punctuated_lines", False, lambda page, rules: page.punctuated_lines(ends(rules))),
    Rule("short_lines", "max_short_lines", True, lambda page, rules: page.short_lines(rules.short_line)),
    Rule("newlines", "max_newlines", True, lambda page, rules: page.newlines()),
    Rule("duplicate_lines", "max_duplicate_lines", True, lambda page, rules: page.duplicate_lines[0]),
    Rule("duplicate_line_characters", "max_duplicate_line_characters", True,
         lambda page, rules: page.duplicate_lines[1]),
    Rule("duplicate_paragraphs", "max_duplicate_paragraphs", True, lambda page, rules: page.duplicate_paragraphs[0]),
    Rule("duplicate_paragraph_characters", "max_duplicate_paragraph_characters", True,
         lambda page, rules: page.duplicate_paragraphs[1]),
    *(Rule(f"top_{n}_gram", f"top_{n}_gram", True, lambda page, rules, n=n: page.top_ngram(n)) for n in (2, 3, 4)),
    *(Rule(f"duplicate_{n}_gram", f"duplicate_{n}_gram", True,
           lambda page, rules, n=n: page.duplicate_ngram(n, getattr(rules, f"duplicate_{n}_gram")))
      for n in range(5, 11)),
)


def judge(page: Page, rules: Rules) -> Verdict | None:
    """The first rule that drops the page; None keeps it."""
    for phrase in rules.placeholders:
        if phrase in page.folded:
            return Verdict("placeholder", phrase, "none")
    if not rules.curly_brackets and "{" in page.text:
        return Verdict("curly_bracket", page.text.count("{"), 0)
    for rule in TABLE:
        limit = getattr(rules, rule.field)
        if limit is not None:
            value = rule.measure(page, rules)
            if value > limit if rule.above else value < limit:
                return Verdict(rule.reason, round(value, 4), limit)
    return None
