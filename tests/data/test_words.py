"""Words, n-grams and sentences, against written-out expectations and properties that hold for any text."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tasks.data.words import HAN, IDEOGRAPHS, ngrams, normal_words, sentences, words

texts = st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab 9_'’.\n数据库あ한")), max_size=60)


def test_english_chinese_and_code():
    assert words("It's 3.5 km; don’t call foo_bar(x)!") == ["It's", "3", "5", "km", "don’t", "call", "foo_bar", "x"]
    assert words("数据库 SQL数据。") == ["数", "据", "库", "SQL", "数", "据"]
    assert normal_words("ＳＱＬ Café") == ["sql", "café"]


def test_han_is_what_unicode_calls_a_cjk_ideograph():
    """Hangul, Yi and private characters lie between the blocks and are none."""
    han = re.compile(f"[{HAN}]")
    for point in range(0x3400, 0x10000):
        name = unicodedata.name(chr(point), "")
        if name:
            assert bool(han.match(chr(point))) == name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEO")), hex(point)


def test_ngrams():
    assert list(ngrams(["a", "b", "c", "d"], 3)) == ["a b c", "b c d"]
    assert list(ngrams(["a", "b"], 3)) == ["a b"]
    assert list(ngrams([], 3)) == []


def test_sentences():
    assert sentences('One. Two? "Three!" Four\n\nfive 5.5') == ["One.", "Two?", '"Three!', "Four", "five 5.5"]
    assert sentences("第一句。第二句！“第三句？”第四") == ["第一句。", "第二句！", "“第三句？", "第四"]


@given(texts)
def test_words_are_found_in_order_and_nothing_else_is_a_letter(text):
    place, rest = 0, []
    for word in words(text):
        found = text.index(word, place)
        rest.append(text[place:found])
        place = found + len(word)
    rest.append(text[place:])
    assert not any(c.isalnum() for c in "".join(rest))


@given(texts, texts)
def test_words_of_two_lines_are_the_words_of_each(a, b):
    assert words(a + "\n" + b) == words(a) + words(b)


@given(texts)
def test_normal_words_ignore_case_width_and_punctuation(text):
    assert normal_words(normalised := unicodedata.normalize("NFKC", text).lower()) == normal_words(text)
    assert normal_words(f"  {normalised} ...") == normal_words(text)


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 6))
def test_every_ngram_has_n_words_and_there_are_len_minus_n_plus_one(tokens, n):
    grams = list(ngrams(tokens, n))
    assert len(grams) == (max(1, len(tokens) - n + 1) if tokens else 0)
    assert all(len(g.split()) == min(n, len(tokens)) for g in grams)


@given(texts)
def test_ideographs_stand_alone(text):
    import re
    assert all(len(word) == 1 for word in words(text) if re.search(f"[{IDEOGRAPHS}]", word))
