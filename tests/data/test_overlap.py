"""Overlap against a second, slow way of finding it, and the cut's promises: nothing shared is left, the rest is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import words
from tasks.data.overlap import SHORTEST, Protected, strings

WORDS = st.sampled_from("red blue green old new".split())
LINES = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=14).map("\n".join)


def protected(*texts, n=13):
    made = Protected(n)
    for number, text in enumerate(texts):
        made.add(f"item{number}", [text])
    return made


def overlaps(text, other, n):
    """Slow and independent: does any run of n words of `other` stand in `text`?"""
    a, b = f" {' '.join(words.normal_words(text))} ", words.normal_words(other)
    return any(f" {' '.join(b[i:i + n])} " in a for i in range(len(b) - n + 1))


@settings(max_examples=200, deadline=None)
@given(LINES, LINES)
def test_the_cut_leaves_no_overlap_and_touches_nothing_without(text, evaluation):
    cut = protected(evaluation, n=SHORTEST).cut(text)
    assert bool(cut.items) == overlaps(text, evaluation, SHORTEST)
    assert not overlaps(cut.text, evaluation, SHORTEST)
    if not cut.items:
        assert (cut.text, cut.removed, cut.fraction) == (text, "", 0)
    kept, gone = [t for t in cut.text.split("\n") if t], [t for t in cut.removed.split("\n") if t]
    assert sorted(kept + gone) == sorted(line for line in text.split("\n") if line)


def test_the_lines_of_the_run_go_and_their_neighbours_stay():
    run = "one two three four five six seven\neight nine ten eleven twelve thirteen"
    cut = protected(f"Before. {run} After.").cut(f"Keep this line.\n{run.upper()}, and more\nKeep that line.")
    assert cut.text == "Keep this line.\nKeep that line." and cut.items == {"item0": 1}
    assert cut.runs == {"item0": " ".join(run.split())} and 0 < cut.fraction < 1
    twelve = protected(f"Before. {run} After.").cut(run.removeprefix("one "))
    assert not twelve.items  # twelve words are allowed


def test_a_cut_that_joins_a_new_run_goes_on():
    evaluation = "a1 a2 a3 a4 a5 a6 a7 a8", "b1 b2 b3 b4 a1 b5 b6 b7 b8"
    text = "b1 b2 b3 b4\na1 a2 a3 a4 a5 a6 a7 a8\na1 b5 b6 b7 b8"
    assert protected(*evaluation, n=8).cut(text).text == ""


def test_short_evaluation_texts_are_protected_whole_and_phrases_not():
    nine = "a question of nine words stands here all alone"
    assert protected(nine).cut(f"see: {nine}!").items and not protected(nine).cut(nine[:-6]).items
    assert not protected("only seven words are in this one").cut("only seven words are in this one").items


def test_chinese_runs_are_twice_as_long():
    text = "数据库是一种存放数据的系统它可以让很多人同时读写而不会出错也不会丢失任何内容"  # 37 characters
    assert protected(text).length(words.normal_words(text)) == 26
    assert protected(text).cut(text[3:30]).items and not protected(text).cut(text[3:28]).items


def test_strings_of_an_item():
    assert strings({"a": "x", "b": ["y", {"c": "z", "d": 3}], "e": None}) == ["x", "y", "z"]
