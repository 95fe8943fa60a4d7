"""Each rule of the filter: a page made to break it alone, the committed thresholds, real technical prose."""

import pytest

from tasks.data.filter import FilterParams
from tasks.data.quality import Page, duplicate_ngram, duplicated, judge, top_ngram

PROSE = (
    "The old door at the end of the hall had been painted green by a man who never came back. Rain fell on most days."
    " In summer, children from the village climbed over its broken wall to look for apples and for the two cats. "
    "Nobody knows where that family went, or why they left a piano with all of its keys in the kitchen. "
    "It is said that a light can be seen upstairs when there is fog. Visitors who stay for long hear music. "
    "Last winter an engineer measured every room and found one more window outside than he could count within.")
REPETITIVE = " ".join(f"The {w} of the house is a thing that stands in the garden, and nobody knows where it came from."
                      for w in "door roof wall lamp floor chair".split())


@pytest.fixture(scope="module")
def rules(data):
    return data.section(FilterParams, "filter").languages


def test_prose_chinese_and_technical_documentation_stay(rules, data):
    assert judge(Page(PROSE, "en"), rules["en"]) is None
    made = [(d, judge(Page(d.text, d.metadata["language"]), rules[d.metadata["language"]])) for d in data.pages()]
    assert [d.id for d, reason in made if reason and d.metadata["language"] == "zh"] == []
    english = [(d.id, reason) for d, reason in made if d.metadata["language"] == "en"]
    assert sum(reason is None for _, reason in english) >= 0.85 * len(english), english


BROKEN = {
    "too_short": PROSE[:100],
    "too_long": "the quick word of it " * 60_000,
    "broken_encoding": PROSE.replace("o", "\ufffd"),
    "placeholder": PROSE + " Please enable JavaScript to go on.",
    "short_words": " ".join(PROSE) + ".",
    "long_words": PROSE + " internationalization_of_everything" * 60,
    "symbols": PROSE.replace(" ", " # "),
    "bullet_lines": "\n".join("- " + s for s in PROSE.split(".")),
    "ellipsis_lines": PROSE.replace(".", "...\n"),
    "not_alphabetic": PROSE + " 1234 5678 9012" * 60,
    "no_stop_words": " ".join(f"house{n} stands alone." for n in range(60)),
    "no_sentences": PROSE.replace(".", ","),
    "unpunctuated_lines": PROSE + "\n" + "\n".join(f"some line {n} without a full stop at its end" for n in range(99)),
    "short_lines": "\n".join(f"the house {n} is in that town." for n in range(200)),
    "newlines": PROSE.replace(". ", ".\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"),
    "duplicate_lines": "\n".join([PROSE, *["It is the same line of prose as the one that is above it."] * 99]),
    "duplicate_5_gram": REPETITIVE,
    "top_2_gram": PROSE + " very slowly" * 40 + ".",
    "top_4_gram": PROSE + "".join(f" {word} green apples grow slowly." for word in "Big Old Sour Red Dry".split()),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_each_rule_drops_what_breaks_it(reason, rules):
    assert judge(Page(BROKEN[reason], "en"), rules["en"]) == reason


def test_a_null_threshold_switches_its_rule_off(rules):
    off = rules["en"].model_copy(update={"max_symbols": None})
    assert judge(Page(BROKEN["symbols"], "en"), off) != "symbols"


def test_wrong_encoding_is_told_in_both_languages(rules):
    assert judge(Page(PROSE.replace("e", "é").encode().decode("latin-1"), "en"), rules["en"]) == "broken_encoding"
    chinese = "这是一个关于数据库的说明，我们在这里介绍它的用法。" * 10
    assert judge(Page(chinese.encode().decode("cp1252", "replace"), "zh"), rules["zh"]) == "broken_encoding"
    assert judge(Page("café, naïve, Ärger, señor, Übung: " + PROSE, "en"), rules["en"]) is None


def test_ngram_shares_by_hand():
    page = Page("aa bb cc aa bb dd", "en")  # 12 characters; "aa bb" twice
    assert top_ngram(page, 2) == pytest.approx(4 * 2 / 12)
    assert duplicate_ngram(page, 2) == pytest.approx(4 / 12)  # the second "aa bb"
    assert top_ngram(page, 3) == duplicate_ngram(page, 3) == 0
    assert top_ngram(Page("aa", "en"), 2) == 0
    assert duplicated(["x", "yy", "x"]) == (pytest.approx(1 / 3), pytest.approx(1 / 4))
    assert duplicated([]) == duplicated(["}", "}"]) == (0, 0)
