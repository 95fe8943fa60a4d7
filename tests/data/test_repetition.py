"""n-grams in numpy against the plain definition."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.repetition import Grams, duplicated

words = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=40)


def grams(tokens):
    numbers = {word: n for n, word in enumerate(dict.fromkeys(tokens))}
    return Grams(np.array([numbers[w] for w in tokens], dtype=np.int64), np.array([*map(len, tokens)], dtype=np.int64))


@given(words, st.integers(1, 6))
def test_the_ngram_that_takes_the_most(tokens, n):
    counted = Counter(tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1))
    expected = max((sum(map(len, gram)) * times for gram, times in counted.items() if times > 1), default=0)
    assert grams(tokens).top(n) == expected


@given(words, st.integers(1, 6))
def test_words_in_ngrams_seen_before(tokens, n):
    seen, hit = set(), set()
    for start in range(len(tokens) - n + 1):
        gram = tuple(tokens[start:start + n])
        hit |= set(range(start, start + n)) if gram in seen else set()
        seen.add(gram)
    assert grams(tokens).covered(n) == sum(len(tokens[i]) for i in hit)


@given(words)
def test_coverage_never_grows_with_the_length(tokens):
    found = grams(tokens)
    covered = [found.covered(n) for n in range(1, 8)]
    assert covered == sorted(covered, reverse=True)


def test_duplicated_by_hand():
    assert duplicated(["x", "yy", "x"]) == (pytest.approx(1 / 3), pytest.approx(1 / 4))
    assert duplicated([]) == duplicated(["}", "}"]) == (0, 0)
