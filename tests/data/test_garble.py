"""Every fault damages both languages, the same way for the same draw, and bears any text."""

import collections
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import garble, words

EN = "The database stores rows in tables. An index makes a query faster, because it is sorted. " * 5
ZH = "数据库把记录存在表里。索引让查询更快，因为它是排好序的，不用逐行去找。" * 5


@pytest.mark.parametrize("name", sorted(garble.FAULTS))
def test_damage_is_done_and_repeats(name):
    for text in (EN, ZH, EN + ZH):
        made = garble.FAULTS[name](text, random.Random(1))
        assert made != text and len(made) > len(text) / 2
        assert made == garble.FAULTS[name](text, random.Random(1))
        assert len({garble.FAULTS[name](text, random.Random(seed)) for seed in range(9)}) > 1


def test_what_each_fault_keeps():
    for text in (EN, ZH):
        shuffled = garble.shuffled(text, random.Random(1))
        assert collections.Counter(words.words(shuffled)) == collections.Counter(words.words(text))
        dropped = garble.dropped(text, random.Random(1))
        rest = iter(text)
        assert all(c in rest for c in dropped) and 0.05 < 1 - len(dropped) / len(text) < 0.2
        assert len(words.words(garble.repeated(text, random.Random(1)))) > 1.2 * len(words.words(text))
    assert " " not in garble.joined(["数", "据", "库"]) and garble.joined(["the", "库", "x"]) == "the 库 x"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=200), st.integers(0, 9))
def test_any_text(text, seed):
    for fault in garble.FAULTS.values():
        assert isinstance(fault(text, random.Random(seed)), str)
