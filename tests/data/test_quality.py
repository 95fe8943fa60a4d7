"""Each rule of the filter: a page made to break it alone, the committed thresholds, real technical prose."""

import pytest

from tasks.data.filter import FilterParams
from tasks.data.measures import Page
from tasks.data.quality import TABLE, Rules, judge

PROSE = (
    "The old door at the end of the hall had been painted green by a man who never came back. Rain fell on most days."
    " In summer, children from the village climbed over its broken wall to look for apples and for the two cats. "
    "Nobody knows where that family went, or why they left a piano with all of its keys in the kitchen. "
    "It is said that a light can be seen upstairs when there is fog. Visitors who stay for long hear music. "
    "Last winter an engineer measured every room and found one more window outside than he could count within.")
REPETITIVE = " ".join([PROSE] * 6)


def reason_of(text, rules):
    """The reason a page is dropped for, or None."""
    verdict = judge(Page(text), rules)
    return verdict and verdict.reason


@pytest.fixture(scope="module")
def rules(data):
    return data.section(FilterParams, "filter").languages


def test_prose_chinese_and_technical_documentation_stay(rules, data):
    assert reason_of(PROSE, rules["en"]) is None
    made = [(d, reason_of(d.text, rules[d.metadata["language"]])) for d in data.pages()]
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
    "not_alphabetic": PROSE + "".join(f" {n} {n + 7}." for n in range(1000, 1200)),
    "no_stop_words": " ".join(f"house{n} stands alone." for n in range(60)),
    "no_sentences": PROSE.replace(".", ","),
    "unpunctuated_lines": PROSE + "\n" + "\n".join(f"some line {n} without a full stop at its end" for n in range(99)),
    "short_lines": "\n".join(f"the house {n} is in that town." for n in range(200)),
    "newlines": PROSE.replace(". ", ".\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"),
    "duplicate_lines": "\n".join([PROSE, *["It is the same line of prose as the one that is above it."] * 99]),
    "duplicate_5_gram": REPETITIVE,
    "top_2_gram": PROSE + " very slowly" * 40 + ".",
    "top_4_gram": PROSE + "".join(f" {word} green apples grow slowly." for word in
                             "Big Old Sour Red Dry Raw Wet Ripe".split()),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_each_rule_drops_what_breaks_it(reason, rules):
    assert reason_of(BROKEN[reason], rules["en"]) == reason


def test_a_null_threshold_switches_its_rule_off(rules):
    off = rules["en"].model_copy(update={"max_symbols": None})
    assert reason_of(BROKEN["symbols"], off) != "symbols"


def test_wrong_encoding_is_told_in_both_languages(rules):
    assert reason_of(PROSE.replace("e", "é").encode().decode("latin-1"), rules["en"]) == "broken_encoding"
    chinese = "这是一个关于数据库的说明，我们在这里介绍它的用法。" * 10
    assert reason_of(chinese.encode().decode("cp1252", "replace"), rules["zh"]) == "broken_encoding"
    assert reason_of("café, naïve, Ärger, señor, Übung: " + PROSE, rules["en"]) is None


def test_a_verdict_has_the_value_and_the_limit(rules):
    verdict = judge(Page(PROSE[:100]), rules["en"])
    assert verdict == ("too_short", len(PROSE[:100].split()), rules["en"].min_words)
    for reason, text in BROKEN.items():
        found = judge(Page(text), rules["en"])
        row = next((row for row in TABLE if row.reason == reason), None)
        if row:
            assert found.limit == getattr(rules["en"], row.field)
            assert found.value > found.limit if row.above else found.value < found.limit


def test_every_threshold_belongs_to_a_row(rules):
    """No threshold in params.yaml that nothing reads: each switches its own rule alone."""
    rest = {"placeholders", "curly_brackets", "stop_words", "sentence_ends", "short_line", "cut_phrases",
            "cut_citations", "cut_unpunctuated", "min_line_words", "max_word_characters"}  # judge's own and lines.py's
    assert sorted(row.field for row in TABLE) == sorted(set(Rules.model_fields) - rest)
    assert len({row.reason for row in TABLE}) == len(TABLE)


TRADITIONAL = ("這座城市的圖書館建於上個世紀，它的藏書超過一百萬冊。每天都有許多讀者來這裡看書，他們對館員的服務感到滿意。"
               "為了保護古籍，館方在去年修建了新的書庫，並且邀請專家來講解保存的方法。聽眾提出了不少問題，專家也一一回答了。")


def test_chinese_stays_simplified_and_traditional_where_english_thresholds_drop_it(rules, data):
    for text in (data.chinese(1), TRADITIONAL, TRADITIONAL.replace("。", "。\n")):
        assert reason_of(text, rules["zh"]) is None
        assert reason_of(text, rules["en"]) == "short_words"


CHINESE_BROKEN = {
    "few_han": "这是一个关于数据库的说明。" + "The words of this page are English ones with a few marks.\n" * 12,
    "unbroken_words": "数据库服务器编译器图书馆火车站天气预报操作系统搜索引擎实验室博物馆" * 2 + TRADITIONAL.replace("，", "")
                      .replace("。", "") * 2,
    "no_stop_words": "".join(f"春眠{c}觉晓，处处闻啼鸟。" for c in "東西南北金木水火土日月星") + "夜来风雨声，花落知多少。",
    "short_lines": "\n".join(f"第{n}条：以下的内容是新的。" for n in range(20)),
    "placeholder": TRADITIONAL + "頁面不存在",
}


@pytest.mark.parametrize("reason", CHINESE_BROKEN)
def test_chinese_rules_drop_what_breaks_them(reason, rules):
    assert reason_of(CHINESE_BROKEN[reason], rules["zh"]) == reason


def test_the_curly_bracket_rule_is_c4s_and_off(rules):
    text = PROSE + " { }."
    assert reason_of(text, rules["en"]) is None
    assert judge(Page(text), rules["en"].model_copy(update={"curly_brackets": False})) == ("curly_bracket", 1, 0)
