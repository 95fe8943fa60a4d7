"""Importance weights: by hand on a vocabulary of three, leave-one-out, hidden seeds found again, pinned seed files."""

import hashlib
import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.enrich import EnrichParams, Importance, SeedFile, SeedSet, features, file_texts
from tasks.stage import StageError

WORDS = "alpha beta gamma delta omega sigma".split()
SET = {"sources": ["a"], "urls": [], "file": None}


def settings_of(**changes):
    return EnrichParams(**{"ngram": 1, "bits": 20, "prior": 1.0, "seeds": {}, "threshold": None, "max_share": 1.0}
                        | changes)


def bag(params, seeds, pool):
    made = Importance(params)
    for texts, counts in ((seeds, made.seeds), (pool, made.pool)):
        for text in texts:
            buckets, times = features(text, params)
            counts[buckets] += times
    return made


def test_weights_by_hand():
    """Seeds: alpha 3, beta 1. Pool: alpha 3, beta 1, gamma 4, so q = 3/8, 1/8, 4/8. Smoothed with as much of the pool:
    p(alpha) = (3 + 4 * 3/8) / 8 = 9/16, p(beta) = (1 + 4 * 1/8) / 8 = 3/16, p(gamma) = (4 * 4/8) / 8 = 1/4."""
    params = settings_of()
    made = bag(params, ["alpha alpha alpha beta"], ["alpha alpha alpha beta", "gamma gamma gamma gamma"])
    ratio = {"alpha": 3 / 2, "beta": 3 / 2, "gamma": 1 / 2}  # 9/16 / 3/8, 3/16 / 1/8, 1/4 / 1/2
    for text in ("alpha", "gamma", "beta gamma", "Alpha, alpha: gamma!"):
        words = text.lower().replace(",", "").replace(":", "").replace("!", "").split()
        expected = sum(math.log(ratio[word]) for word in words) / len(words)
        assert made.weight(features(text, params), False) == pytest.approx(expected)
    assert made.score(features("gamma", params), False) == pytest.approx(1 / 3)  # odds 1 : 2
    assert made.score(features("", params), False) == 0.5


def test_a_seed_is_weighed_against_the_other_seeds_alone():
    params = settings_of(prior=0.5)
    texts = ["alpha beta", "gamma gamma delta", "beta beta omega"]
    whole, others = bag(params, texts, texts), bag(params, texts[1:], texts)
    counts = features(texts[0], params)
    assert whole.weight(counts, True) == pytest.approx(others.weight(counts, False))
    assert whole.weight(counts, True) < whole.weight(counts, False)
    alone = bag(params, texts[:1], texts)
    assert alone.weight(counts, True) == 0.0  # no other seed: nothing is known


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=2, max_size=6),
       st.integers(1, 3), st.floats(0.01, 10))
def test_invariances(texts, ngram, prior):
    params = settings_of(ngram=ngram, prior=prior)
    made = bag(params, texts[:1], texts)
    turned = bag(params, texts[:1], texts[::-1])
    for text in texts:
        counts = features(text, params)
        score = made.score(counts, False)
        assert 0 < score < 1 and score == turned.score(counts, False)
        assert counts[1].sum() == sum(max(0, len(text.split()) - n + 1) for n in range(1, ngram + 1))
        if ngram == 1:  # a text said twice is no other text
            assert made.weight(features(f"{text} {text}", params), False) == pytest.approx(made.weight(counts, False))
    every = bag(params, texts, texts)
    assert every.weight(features(texts[0], params), False) == pytest.approx(0, abs=1e-12)  # the pool is like itself


def test_features_are_a_bag_of_words_and_runs_case_and_width_aside():
    params = settings_of(ngram=2)
    same = [features(text, params) for text in ("Alpha beta ALPHA", "alpha，beta。ａｌｐｈａ", "alpha beta alpha")]
    for other in same[1:]:
        assert all((a == b).all() for a, b in zip(same[0], other))
    assert Counter(same[0][1].tolist()) == Counter([2, 1, 1, 1])  # alpha twice, beta, and two runs of two
    han = features("三国演义", params)
    assert han[1].sum() == 7 and all(len(part) == 0 for part in features("", params))
    assert len(features("\ud800 broken", params)[0]) > 0


def test_hidden_halves_are_found_again(data):
    """Chinese among Chinese: pages about two of ten subjects, half of them as seeds, the other half to be found."""
    params = settings_of(ngram=2, bits=16)
    draw = random.Random(5)
    of = [" ".join(draw.choice(WORDS[:3]) if draw.random() < 0.6 else draw.choice(WORDS) for _ in range(80))
          for _ in range(20)]
    other = [" ".join(draw.choice(WORDS[3:]) if draw.random() < 0.6 else draw.choice(WORDS) for _ in range(80))
             for _ in range(20)]
    made = bag(params, of[:10], of + other)
    scores = [made.score(features(text, params), n < 10) for n, text in enumerate(of + other)]
    assert min(scores[:20]) > max(scores[20:])
    assert np.mean(scores[:10]) == pytest.approx(np.mean(scores[10:20]), abs=0.02)  # left out, a seed has no advantage


def test_seed_sets_match_sources_and_addresses():
    chosen = SeedSet(sources=["docs"], urls=["*tutorial*", "https://x/[ab].html"], file=None)
    for metadata, held in (({"source": "docs", "url": "https://x/tutorial/1"}, True), ({"source": "docs"}, False),
                           ({"source": "docs", "url": "https://x/b.html"}, True), ({}, False),
                           ({"source": "other", "url": "https://x/tutorial/1"}, False),
                           ({"source": "docs", "url": None}, False)):
        assert chosen.holds(metadata) is held
    assert SeedSet(**SET).holds({"source": "a"})
    with pytest.raises(ValueError, match="name sources, a file, or both"):
        SeedSet(sources=[], urls=["*"], file=None)


def test_seed_files_are_pinned_and_their_faults_named(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text(json.dumps({"text": "一段好文章", "label": 1}, ensure_ascii=False) + '\n{"text": 5}\n', "utf-8")

    def given_file(pin=None):
        return SeedFile(path=str(path), sha256=pin or hashlib.sha256(path.read_bytes()).hexdigest())

    texts = iter(file_texts(given_file()))
    assert next(texts) == "一段好文章"
    with pytest.raises(StageError, match=r"seeds\.jsonl:2 is no seed \(TypeError: text is no string\)"):
        next(texts)
    with pytest.raises(StageError, match=r"has sha256 [0-9a-f]{64}, params\.yaml pins 0{64}"):
        list(file_texts(given_file("0" * 64)))
    for content in (b"\xff\xfe{}", b"[1]", b"null", b'{"text"'):
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"seeds\.jsonl:1 is no seed"):
            list(file_texts(given_file()))
    pinned = given_file()
    path.unlink()
    with pytest.raises(StageError, match=r"seeds\.jsonl cannot be read \(No such file"):
        list(file_texts(pinned))
