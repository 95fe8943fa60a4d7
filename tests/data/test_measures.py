"""What the rules measure: counts by hand, and hostile text in linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.measures import Page
from tasks.data.quality import Rules, judge


def test_tokens_words_and_marks_by_hand():
    page = Page("The file (a.b) isn't 3.5 long: 数据 x_y!")
    assert page.vocabulary == ["the", "file", "(", "a.b", ")", "isn't", "3.5", "long", ":", "数", "据", "x_y", "!"]
    assert (page.tokens, page.words) == (13, 9)
    assert page.mean_word() == pytest.approx((3 + 4 + 3 + 5 + 3 + 4 + 1 + 1 + 3) / 9)
    assert page.alphabetic() == pytest.approx(8 / 13)  # 3.5 and four marks have no letter
    assert page.han() == pytest.approx(2 / 9)
    assert page.clause() == pytest.approx(9 / (4 + 1))


def test_lines_by_hand():
    page = Page("- one.\n\n* two…\nthree and a half\n- one.")
    assert page.bullet_lines() == 3 / 4 and page.ellipsis_lines() == 1 / 4
    assert page.punctuated_lines((".",)) == page.short_lines(6) - 1 / 4 == 2 / 4
    assert page.duplicate_lines == (1 / 4, 6 / (6 + 6 + 16 + 6))
    assert page.duplicate_paragraphs == (0, 0)
    assert page.sentences((".",), 9) == 2 and Page("One. Two. Three").sentences((".",), 9) == 2
    assert page.symbols() == pytest.approx(1 / page.tokens)
    assert page.newlines() == 4 / page.tokens


def test_ngram_shares_by_hand():
    page = Page("aa bb cc aa bb dd")  # 17 characters; "aa bb" twice
    assert page.top_ngram(2) == pytest.approx(4 * 2 / 17)
    assert page.duplicate_ngram(2, 0) == pytest.approx(4 / 17)  # the second "aa bb"
    assert page.top_ngram(3) == page.duplicate_ngram(3, 0) == 0
    assert Page("aa").top_ngram(2) == 0
    assert Page("| --- | --- | --- |").top_ngram(2) == 0  # marks repeat nothing


def test_a_longer_ngram_is_bounded_by_a_shorter_one():
    page = Page("aa bb cc aa bb dd")
    short = page.duplicate_ngram(2, 0.9)
    assert page.duplicate_ngram(3, 0.9) == short  # not measured: not above the limit either way
    assert page.duplicate_ngram(4, 0.0) == 0


@given(st.text(max_size=300))
def test_every_measure_takes_any_text(text):
    page = Page(text)
    assert 0 <= page.words <= page.tokens <= len(page.folded)
    for share in (page.alphabetic(), page.han(), page.broken(), *page.duplicate_lines, *page.duplicate_paragraphs,
                  page.punctuated_lines((".",)), page.bullet_lines(), page.ellipsis_lines(), page.short_lines(9)):
        assert 0 <= share <= 1


HOSTILE = {
    "null bytes": lambda n: "\0" * n,
    "right to left": lambda n: "\u202eשלום עולם, " * (n // 14),
    "emoji": lambda n: "😀👩‍👩‍👧" * (n // 6),
    "one word": lambda n: "a" * n,
    "one Chinese paragraph": lambda n: "字" * n,
    "empty lines": lambda n: "\n" * n,
    "spaces and lines": lambda n: " \n" * (n // 2),
    "marks": lambda n: "a" + "(" * n,
    "apostrophes": lambda n: "a'" * (n // 2),
    "full stops": lambda n: ". " * (n // 2),
    "lone surrogates": lambda n: "\ud800" * n,
    "one bracket a line": lambda n: "}\n" * (n // 2),
    "one word for ever": lambda n: "word " * (n // 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_measured_in_linear_time(name, data):
    """Every rule measured, none dropping: ten times the text in at most some twenty times the CPU time."""
    section = data.values["filter"]["languages"]["en"]
    loose = {key: 0 if key.startswith("min") else 1e9 if key in ("max_clause", "max_mean_word", "max_symbols",
             "max_newlines") else 10**9 if key == "max_words" else 1.0
             for key, value in section.items() if key.startswith(("min", "max", "top", "dup"))}
    rules = Rules.model_validate(section | loose | {"max_word_characters": None, "placeholders": ["lorem"]})
    took = []
    for size in (30_000, 300_000):
        text = HOSTILE[name](size)
        started = time.process_time()
        judge(Page(text), rules)
        took.append(time.process_time() - started)
    assert took[1] < 20 * took[0] + 0.3, took
