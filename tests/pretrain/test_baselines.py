"""The n-grams against a plain dictionary version and by hand; the compressors against their own files."""

import gzip
import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tasks.pretrain import baselines
from tasks.tokenizer.shards import Stream


def stream(documents):
    return Stream(np.concatenate([np.array(d) for d in documents]).astype("<u2"),
                  np.array([(len(d), 1) for d in documents]))


def kneser_ney(documents, order, vocabulary):
    """chance(word, context) as Chen and Goodman (1999) define it, with one discount an order, from dictionaries."""
    counts = [Counter(tuple(d[i:i + n]) for d in documents for i in range(1 if n == 1 else 0, len(d) - n + 1))
              for n in range(order + 1)]
    used = [None] * (order + 1)
    for n in range(1, order + 1):
        if n == order:
            used[n] = counts[n]
        else:
            left = Counter(gram[1:] for gram in counts[n + 1])
            used[n] = Counter({g: counts[n][g] if n > 1 and g[0] == 0 else left[g] for g in counts[n]})
            used[n] = Counter({g: c for g, c in used[n].items() if c})
    discount, total, kinds = [0.0] * (order + 1), [defaultdict(int) for _ in used], [defaultdict(int) for _ in used]
    for n in range(1, order + 1):
        once, twice = (sum(c == k for c in used[n].values()) + 1 for k in (1, 2))
        discount[n] = once / (once + 2 * twice)
        for gram, count in used[n].items():
            total[n][gram[:-1]] += count
            kinds[n][gram[:-1]] += 1

    def chance(word, context, n):
        if n == 0:
            return 1 / vocabulary
        context = context[len(context) - n + 1:] if n > 1 else ()
        lower = chance(word, context, n - 1)
        if len(context) < n - 1 or not total[n][context]:
            return lower
        return (max(used[n][(*context, word)] - discount[n], 0) + discount[n] * kinds[n][context] * lower) \
            / total[n][context]

    return lambda word, context: chance(word, context, min(order, len(context) + 1))


TRAIN = [[0, *np.random.default_rng(i).zipf(1.6, 40).clip(1, 11).tolist()] for i in range(6)]
HELD_OUT = [[0, *np.random.default_rng(99 + i).zipf(1.5, 15).clip(1, 12).tolist()] for i in range(3)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_arrays_give_what_the_dictionaries_give(order):
    model, reference = baselines.NGram(stream(TRAIN), order, 13), kneser_ney(TRAIN, order, 13)
    for document in HELD_OUT:
        by_hand = -sum(math.log(reference(w, tuple(document[:i]))) for i, w in enumerate(document) if i)
        assert model.nats(np.array(document)) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_chances_of_all_words_sum_to_one(order):
    model = baselines.NGram(stream(TRAIN), order, 13)
    for context in ([0], [0, 3], [0, 2, 1], [0, 12, 12]):
        fixed = model.nats(np.array(context))
        total = sum(math.exp(fixed - model.nats(np.array([*context, word]))) for word in range(13))
        assert total == pytest.approx(1, abs=1e-9)


def test_a_bigram_worked_by_hand():
    # bigrams 01 twice, 12 and 13 once: n1 = 2, n2 = 1, so D = 3 / (3 + 4)
    # left neighbours: 1, 2 and 3 have one each: n1 = 3, n2 = 0, so D = 4 / (4 + 2), and p = (1 - 2/3) / 3 + 2/3 / 4
    model = baselines.NGram(stream([[0, 1, 2], [0, 1, 3]]), 2, 4)
    d, p = 3 / 7, 5 / 18
    expected = -math.log((2 - d + d * 1 * p) / 2) - math.log((1 - d + d * 2 * p) / 2)
    assert model.nats(np.array([0, 1, 3])) == pytest.approx(expected)


def test_compressors_by_their_own_files():
    held_out, train = b"what is held out is text " * 40, b"what is read is text and more text " * 50
    found = baselines.compressors(train, held_out, len(held_out))
    assert found["gzip"] == 8 * len(gzip.compress(held_out, 9)) / len(held_out)
    assert found["xz"] == 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / len(held_out)
    seen = baselines.compressors(held_out, held_out, len(held_out))
    assert seen["xz_after_train"] < found["xz_after_train"] < found["xz"]
