"""Cuts single lines out of a page as C4 does (Raffel et al. 2020, section 2.2, and its published code).

What is cut: lines that ask for JavaScript or cookies or name a policy, lines with a word too long to be one, and,
where the language's params say so, lines that do not end as sentences do, lines of few words, and citation marks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tasks.data import words
from tasks.data.quality import Rules, ends

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
BETWEEN = re.compile(rf"[\s{words.IDEOGRAPHS}，。！？；：、“”「」]+")  # what stands between two words, Chinese ones too
BLANKS = re.compile(r"\n{3,}")


class Cut(NamedTuple):
    """A page without its cut lines, and what they were."""

    text: str
    lines: int
    characters: int


def cut(text: str, rules: Rules) -> Cut:
    """`text` without the lines that the rules cut; the same string where none is. An ellipsis ends no sentence."""
    folded = text.lower()
    phrases = [phrase for phrase in rules.cut_phrases if phrase in folded]
    longest = rules.max_word_characters
    if not (phrases or rules.cut_citations or rules.cut_unpunctuated or rules.min_line_words
            or (longest is not None and len(text) > longest)):
        return Cut(text, 0, 0)
    marks = ends(rules)
    kept, count, characters = [], 0, 0
    for whole in text.split("\n"):
        line = CITATION.sub("", whole) if rules.cut_citations else whole
        stripped = line.strip()
        if stripped and (
                (longest is not None and len(stripped) > longest and max(map(len, BETWEEN.split(stripped))) > longest)
                or (rules.cut_unpunctuated and (not stripped.endswith(marks) or stripped.endswith(("...", "…"))))
                or (rules.min_line_words and len(stripped.split()) < rules.min_line_words)
                or any(phrase in stripped.lower() for phrase in phrases)):
            count, characters = count + 1, characters + len(whole)
        else:
            kept.append(line)
    if not count and not rules.cut_citations:
        return Cut(text, 0, 0)
    return Cut(BLANKS.sub("\n\n", "\n".join(kept)).strip(), count, characters)
