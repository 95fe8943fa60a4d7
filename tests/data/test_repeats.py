"""Repeated passages against a slow, independent search; whole sentences only; the first to say it keeps it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import fingerprints, repeats, words

LEAST = 10
PARAMS = fingerprints.FingerprintParams(permutations=16, shingle=5, threshold=0.7, repeat_words=LEAST)
SENTENCES = st.lists(st.integers(0, 12), min_size=1, max_size=14)


def sentence(number):
    return f"Now number{number} says" + " so" * (number % 5) + "."


def found(texts, limit=1.0, kept=None):
    """document -> (owner, share, spans) as the stage finds them."""
    files = []
    for number, text in enumerate(texts):
        own = fingerprints.fingerprint(text, "", PARAMS, 1).runs
        file = np.zeros(len(own), repeats.OWNED)
        for name in repeats.RUN.names:
            file[name] = own[name]
        files.append(file)
    counted = np.ones(len(texts), bool) if kept is None else np.array(kept)
    owned = np.concatenate(list(repeats.shared(files, [np.array([n]) for n in range(len(texts))], counted)))
    lengths = np.array([len(text) for text in texts])
    return {d: (o, s, spans.tolist()) for d, o, s, spans in repeats.first_said(owned, lengths, limit)}


def repeated_sentences(later, earlier, least):
    """Slow: which of the sentence numbers `later` lie in a run of at least `least` words that `earlier` has."""
    hit = set()
    for start in range(len(later)):
        for end in range(start + 1, len(later) + 1):
            run = later[start:end]
            long = sum(len(words.words(sentence(n))) for n in run) >= least
            if long and any(earlier[i:i + len(run)] == run for i in range(len(earlier))):
                hit.update(range(start, end))
    return hit


@settings(max_examples=200, deadline=None)
@given(SENTENCES, SENTENCES, st.sampled_from([" ", "\n", "\n\n"]))
def test_every_repeated_run_of_whole_sentences_is_found_and_no_other(earlier, later, gap):
    texts = [gap.join(map(sentence, numbers)) for numbers in (earlier, later)]
    expected = repeated_sentences(later, earlier, LEAST)
    spans = found(texts).get(1, (0, 0, []))[2]
    left, gone = repeats.cut(texts[1], spans)
    assert words.words(left) == [w for i, n in enumerate(later) if i not in expected for w in words.words(sentence(n))]
    assert words.words(gone) == [w for i, n in enumerate(later) if i in expected for w in words.words(sentence(n))]
    assert all(s in {sentence(n) for n in later} for s in words.sentences(left))  # none is mangled


@given(st.text(alphabet=["a", "b", ".", "!", "。", "”", " ", "\n", "`", "|", "数", "\u2028", "\0"], max_size=80))
def test_units_laid_end_to_end_are_the_text(text):
    spans = repeats.units(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


def test_chinese_needs_no_spaces_and_twice_as_many_characters():
    said = "数据库是一种常见的设施。人们每天都会用到它！"  # 20 characters count as ten words
    other = "开头不同的一句话在这里。"
    spans = found([said + "后面还有别的内容。", other + said + "结尾也不一样。"])[1][2]
    assert repeats.cut(other + said + "结尾也不一样。", spans) == (other + "结尾也不一样。", said)
    assert not found([said[:-2] + "。", other + said[:-2] + "。"])


def test_a_code_block_and_a_table_go_whole_or_not_at_all():
    code = "```python\nfor each in many words of code\n\n    print one two three four\n```\n"
    table = "| one two three four five six |\n| - |\n| seven eight nine ten eleven |\n"
    first = f"Before it.\n\n{code}\n{table}\nAfter it."
    second = f"Another start.\n\n{code}\nText between.\n\n{table}\nAnother end."
    left, gone = repeats.cut(second, found([first, second])[1][2])
    assert left == "Another start.\n\nText between.\n\nAnother end." and gone.count("```") == 2
    changed = second.replace("print one", "print zero").replace("seven", "eleven")
    assert not found([first, changed])


def test_what_is_dropped_owns_nothing():
    a, b, c = (f"{x} one two three four five six seven eight nine ten." for x in ("Alpha", "Beta", "Gamma"))
    texts = [a, f"{a} {b}", f"{b} {c} And more of the third that nobody else says."]
    assert found(texts, limit=1.0)[2][0] == 1  # the second keeps b, so the third loses it
    dropped = found(texts, limit=0.4)
    assert dropped[1][1] > 0.4 and 2 not in dropped  # the second goes whole, so the third may say b
    assert found(texts, kept=[True, False, True]) == {}


def test_slices_find_what_one_slice_finds(monkeypatch):
    texts = [" ".join(sentence(n % 13) for n in range(start, start + 9)) for start in (0, 5, 9, 2)]
    whole = found(texts)
    monkeypatch.setattr(repeats, "SLICE", 7)
    assert found(texts) == whole != {}


@pytest.mark.parametrize("text", ["", "\n\n", "...", "a" * 200_000, "。" * 5000, "```\n" * 3001, "|\n" * 5000,
                                  "x. " * 20_000, "\ud800 lone surrogate"])
def test_odd_texts(text):
    made = fingerprints.fingerprint(text, "", PARAMS, 1)
    assert (np.diff(made.runs["hash"].astype(object)) >= 0).all() and (made.runs["end"] <= len(text)).all()
    spans = found([text, text]).get(1, (0, 0, []))[2]
    assert sum(map(len, repeats.cut(text, spans))) <= len(text) + len(spans)
