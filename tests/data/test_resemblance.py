"""Resemblance and containment against plain set arithmetic; excerpts begin where the texts agree; odd input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import resemblance, words
from tasks.data.resemblance import Evaluation, ResemblanceParams, dense, excerpt
from tasks.data.shingles import Words

TEXTS = st.lists(st.sampled_from("red blue green old new".split()), max_size=40).map(" ".join)


def evaluation(texts, **limits):
    made = Evaluation(ResemblanceParams.model_validate(
        {"shingle": 3, "near_duplicate": None, "document_in_item": None, "item_in_document": None} | limits))
    for number, text in enumerate(texts):
        made.add(f"item{number}", [text])
    return made


def shingles(text):
    return set(words.ngrams(words.normal_words(text), 3))


def own(text):
    return Words(words.normal_words(text))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(TEXTS, max_size=4), st.sampled_from([0.2, 0.5, 1.0]))
def test_whole_documents_are_compared_as_sets_are(text, items, limit):
    long = [(n, shingles(item)) for n, item in enumerate(items) if len(item.split()) >= resemblance.SHORTEST]
    document = shingles(text)
    jaccard = max((len(document & item) / len(document | item) for _, item in long), default=0)
    inside = max((len(document & item) / len(document) for _, item in long if document), default=0)
    pair = evaluation(items, near_duplicate=limit, document_in_item=limit).whole(text, own(text))
    if jaccard >= limit:
        assert (pair.direction, pair.similarity) == ("near_duplicate", pytest.approx(jaccard))
    elif inside >= limit:
        assert (pair.direction, pair.similarity) == ("document_in_item", pytest.approx(inside))
    else:
        assert pair is None


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.6, 1.0]))
def test_stretches_hold_the_share_asked_for_and_none_is_missed(text, item, limit):
    tokens, theirs = words.normal_words(text), shingles(item)
    length = resemblance.STRETCH * len(item.split())
    # slow: the shingles of every window of so many places
    grams = list(words.ngrams(tokens, 3))
    best = max((len(theirs & set(grams[i:i + length + 1])) for i in range(len(grams))), default=0)
    found = list(evaluation([item], item_in_document=limit).stretches(own(text)))
    expected = len(item.split()) >= resemblance.SHORTEST and best >= limit * len(theirs)
    assert bool(found) == expected
    if expected:
        assert found[0].similarity == pytest.approx(best / len(theirs))
        assert {grams[place] for place in found[0].places} <= theirs


def test_an_item_scattered_over_a_long_document_is_not_retold():
    item = "the old captain sold his ship to a young merchant from the south in spring"
    close = item.replace("ship", "boat")
    far = close.replace("young merchant", "young " + " ".join(f"w{n}" for n in range(60)) + " merchant")
    made = evaluation([item], item_in_document=0.6)
    assert list(made.stretches(own(close))) and not list(made.stretches(own(far)))


def test_excerpts_begin_where_the_texts_agree():
    item = "Preface of the item. " + "Ｎow the ships of every size came in with the morning tide and left, again."
    text = "Other words before it!\n\nNOW the ships of every size came in with the morning tide and stayed."
    made = evaluation([item], item_in_document=0.5)
    stretch = next(made.stretches(own(text)))
    pair = made.retold(stretch, text, own(text))
    assert pair.document_excerpt.startswith("NOW the ships") and pair.item_excerpt.startswith("Now the ships")
    assert pair.described() == {"direction": "item_in_document", "similarity": round(stretch.similarity, 3),
                                "excerpt": {"document": pair.document_excerpt, "item": pair.item_excerpt}}
    assert excerpt("短文", 9) == "短文" and len(excerpt("word " * 500, 3)) == resemblance.EXCERPT


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=30, unique_by=lambda pair: pair[0]),
       st.integers(0, 20), st.integers(1, 6))
def test_dense_stretches_against_all_windows(pairs, length, least):
    pairs.sort()
    places, kinds = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    inside, most = dense(places, kinds, length, least)
    windows = [[j for j in range(len(pairs)) if p <= places[j] <= p + length] for p in places]
    counts = [len({kinds[j] for j in window}) for window in windows]
    assert most == max((count for count in counts if count >= least), default=0)
    good = {j for window, count in zip(windows, counts) if count >= least for j in window}
    assert set(np.flatnonzero(inside).tolist()) <= good and bool(inside.any()) == bool(good)


@pytest.mark.parametrize("text", ["", "\n", "一", "word " * 100_000, "\ud800 " * 50, "ab " * 12])
def test_odd_texts_on_either_side(text):
    limits = {"near_duplicate": 0.5, "document_in_item": 0.5, "item_in_document": 0.5}
    made = evaluation([text, "some words that make an item of more than thirteen words, so it counts here"], **limits)
    assert made.whole("nothing alike at all", own("nothing alike at all")) is None
    evaluation([], **limits).whole(text, own(text))
    list(made.stretches(own(text)))
    pair = made.whole(text, own(text))
    assert (pair is not None) == (sum(piece.isalnum() for piece in text.split()) >= resemblance.SHORTEST)
