"""Foreign paragraphs are cut, code and short lines are not; all in linear time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import mixed
from tasks.data.language import detector

ENGLISH = "The lamp of the house stands in the garden, and nobody knows where it came from in that year."
RUSSIAN = "Лампа стоит в саду этого дома, и никто не знает, откуда она взялась в том самом далёком году."
CHINESE = "这座城市的图书馆建于上个世纪，它的藏书超过一百万册，每天都有许多读者来这里看书学习，他们对这里很满意，也常常把朋友带来一起看。"
KEPT = ("en", "zh")
PARAMS = mixed.Paragraphs(min_characters=60, min_score=0.8, min_kept=0.5)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lid")
    (folder / "scripts.json").write_text(json.dumps({"en": "A-Za-z", "zh": "一-鿿", "ru": "А-я"}), "utf-8")
    return detector(folder)


def split(text, scripts, stop_words=frozenset()):
    return mixed.split(text, KEPT, stop_words, scripts, PARAMS)


def test_a_foreign_paragraph_is_cut_and_another_kept_language_stays(scripts):
    found = split(f"{ENGLISH}\n\n{RUSSIAN}\n\n{CHINESE}\n\n{ENGLISH}", scripts)
    assert found.text == f"{ENGLISH}\n\n{CHINESE}\n\n{ENGLISH}"
    assert (found.paragraphs, found.characters) == (1, len(RUSSIAN))
    assert found.known == 2 * len(ENGLISH) + len(CHINESE)


def test_a_page_of_kept_languages_is_the_same_string(scripts):
    text = f"{ENGLISH}\n \n\n{CHINESE}\n\nshort\n"
    assert split(text, scripts)[:3] == (text, 0, 0)


def test_short_paragraphs_go_with_their_neighbours(scripts):
    between = split(f"{ENGLISH}\n\nодин\n\n{RUSSIAN}\n\nдва\n\n{RUSSIAN}\n\nтри", scripts)
    assert between.text == f"{ENGLISH}\n\nодин" and between.paragraphs == 4


def test_code_has_no_language(scripts):
    code = "лампа[0] = {дом: (сад, год)}; лампа[1] = {дом: (сад, год)}; лампа[2] = {дом: [сад]}"
    assert split(f"{ENGLISH}\n\n{code}", scripts).paragraphs == 0


def test_a_page_without_empty_lines_is_taken_line_by_line(scripts):
    text = "\n".join([*[ENGLISH] * 20, RUSSIAN, ENGLISH])
    assert split(text, scripts).text == "\n".join([ENGLISH] * 21)


def test_stop_words_save_the_detector():
    class Never:
        def detect(self, text):
            raise AssertionError(text)

    assert split(f"{ENGLISH}\n\n{ENGLISH}", Never(), frozenset(["the", "of", "and", "in"])).paragraphs == 0


@given(st.text(alphabet="ab \n\tя.", max_size=200))
def test_paragraphs_joined_are_the_text(text):
    assert "".join(part + blank for part, blank in mixed.paragraphs(text)) == text


@pytest.mark.parametrize("piece", ["\n", " \n", "\n\n ", "a\n\n", RUSSIAN + "\n\n", RUSSIAN + "\n", "я" * 99])
def test_linear_time(piece, scripts):
    took = []
    for size in (20_000, 200_000):
        started = time.process_time()
        split(piece * (size // len(piece)), scripts)
        took.append(time.process_time() - started)
    assert took[1] < 20 * took[0] + 0.3, took
