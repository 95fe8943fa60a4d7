"""MinHash against true Jaccard similarity, and the index against comparing everything with everything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import minhash, shingles


def signature(tokens, permutations=128, shingle=1):
    return minhash.signature(shingles.hashed(tokens), permutations, shingle, 7)


@settings(max_examples=60, deadline=None)
@given(*[st.sets(st.integers(0, 300), min_size=40, max_size=200)] * 2)
def test_signatures_estimate_the_jaccard_similarity(a, b):
    left, right = (signature([f"w{n}" for n in sorted(s)], 512) for s in (a, b))
    true = len(a & b) / len(a | b)
    assert abs((left == right).mean() - true) <= 5 * (true * (1 - true) / 512) ** 0.5 + 0.01


@given(st.lists(st.sampled_from("alpha beta gamma delta".split()), max_size=30))
def test_a_signature_depends_on_the_words_alone(tokens):
    first, again = (signature(tokens, 64, 3) for _ in range(2))
    assert (first == again).all() and first.shape == (64,) and first.dtype == "uint32"


def test_a_new_rensa_makes_the_same_signatures():
    made = signature("the quick brown fox jumps over the lazy dog".split(), 16, 5)
    assert made[:3].tolist() == [724767853, 1284217911, 3451983341]


@given(st.floats(0.05, 1), st.sampled_from([16, 64, 128, 256]))
def test_bands_reach_the_recall_they_promise(threshold, permutations):
    rows = minhash.rows_for(threshold, permutations)
    assert permutations % rows == 0
    assert rows == 1 or 1 - (1 - threshold**rows) ** (permutations // rows) >= 0.99


def index(signatures, threshold):
    rows = minhash.rows_for(threshold, signatures.shape[1])
    return minhash.Index(signatures, minhash.bands(signatures, rows), threshold)


def test_the_index_returns_the_most_similar_and_never_one_below_the_threshold():
    text = [f"w{n}" for n in range(200)]
    made = index(np.array([signature(tokens) for tokens in (
        text[:150] + ["x"] * 50, text[:190] + ["y"], ["other"] * 20, text, [f"v{n}" for n in range(99)])]), 0.7)
    for page in range(3):
        made.add(page)
    page, similarity = made.nearest(3)
    assert page == 1 and similarity > 0.85
    assert made.nearest(4) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_the_index_finds_what_comparing_all_finds(seed, count):
    """Greedy, first added wins, against every pair of signatures; families of pages that share 0-100 % of rows."""
    draw = np.random.default_rng(seed)
    family = draw.integers(0, 2**32, (5, 32), dtype=np.uint32)[draw.integers(0, 5, count)]
    own = draw.integers(0, 2**32, (count, 32), dtype=np.uint32)
    signatures = np.where(draw.random((count, 32)) < draw.random((count, 1)), family, own)
    threshold, rows = 0.5, minhash.rows_for(0.5, 32)
    made, kept = index(signatures, threshold), []
    for page in range(count):
        candidates = [(float((signatures[page] == signatures[k]).mean()), -k) for k in kept
                      if (signatures[page] == signatures[k]).reshape(-1, rows).all(axis=1).any()]
        best = max(candidates, default=(0, 0))
        expected = (-best[1], best[0]) if best[0] >= threshold else None
        assert made.nearest(page) == expected
        if expected is None:
            made.add(page)
            kept.append(page)


def test_a_band_that_a_thousand_unlike_pages_share_stays_cheap():
    draw = np.random.default_rng(1)
    signatures = draw.integers(0, 2**32, (1000, 128), dtype=np.uint32)
    signatures[:, :40] = signatures[0, :40]  # a template: 0.31 alike
    signatures[999] = signatures[998]
    signatures[999, 50:60] = 0
    made = index(signatures, 0.7)
    for page in range(999):
        assert made.nearest(page) is None
        made.add(page)
    assert made.nearest(999)[0] == 998  # beyond the bucket's limit, yet found by its own bands
    assert made.room.max() == minhash.BUCKET
