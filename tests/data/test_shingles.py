"""Hashes of word runs: equal exactly for equal runs, whichever way they are made."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import shingles

TOKENS = st.lists(st.sampled_from(["a", "b", "数", "据", "\ud800", "\x00", "long word"]), max_size=40)


def test_a_word_is_hashed_by_blake2b():
    expected = int.from_bytes(hashlib.blake2b("数".encode(), digest_size=8).digest(), "little")
    assert shingles.hashed(["x", "数", "x"]).tolist()[1] == expected


@given(TOKENS, st.integers(1, 9))
def test_windows_are_equal_where_the_words_are(tokens, n):
    found = shingles.windows(shingles.hashed(tokens), n)
    size = min(n, len(tokens))
    runs = [tuple(tokens[i:i + size]) for i in range(len(tokens) - size + 1)] if tokens else []
    assert len(found) == len(runs)
    assert len(set(found.tolist())) == len(set(runs)) == len(set(zip(found.tolist(), runs)))


@given(TOKENS, st.data())
def test_runs_of_any_length_are_equal_where_the_words_are(tokens, data):
    bounds = data.draw(st.lists(st.tuples(*[st.integers(0, len(tokens))] * 2).map(sorted), min_size=1, max_size=20))
    starts, ends = np.array(bounds).T
    found = shingles.Runs(shingles.hashed(tokens)).hashes(starts, ends).tolist()
    runs = [tuple(tokens[start:end]) for start, end in bounds]
    assert len(set(found)) == len(set(runs)) == len(set(zip(found, runs)))
