"""Lines cut as C4 does; Chinese paragraphs without spaces are no long words."""

import pytest

from tasks.data.filter import FilterParams
from tasks.data.lines import cut


@pytest.fixture(scope="module")
def rules(data):
    return data.section(FilterParams, "filter").languages


def test_phrases_and_long_words_are_cut_and_counted(rules):
    text = "The first line.\n\nThis site Uses Cookies to work.\n\n" + "x" * 1001 + "\nThe last line."
    assert cut(text, rules["en"]) == ("The first line.\n\nThe last line.", 2, 31 + 1001)
    assert cut("本站使用 Cookie。\n请您启用 JavaScript 后再试。\n正文在这里。", rules["zh"]).text == "正文在这里。"


def test_text_without_any_is_the_same_string(rules):
    text = "A line.\n\n\n\nAnother [1] one"
    assert cut(text, rules["en"]) == (text, 0, 0)
    chinese = "却说曹操，" * 2000
    assert cut(chinese, rules["zh"]) == (chinese, 0, 0)


def test_c4s_own_settings(rules):
    c4 = rules["en"].model_copy(update={"cut_unpunctuated": True, "min_line_words": 3, "cut_citations": True})
    text = "A sentence with a mark [1].\nno mark\nToo short.\nIt goes on...\nA second one [citation needed] stays."
    assert cut(text, c4) == ("A sentence with a mark .\nA second one  stays.", 3, 7 + 10 + 13)
