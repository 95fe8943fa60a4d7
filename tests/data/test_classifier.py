"""The classifier against scikit-learn's own, against labels that mean nothing, and against spoiled files."""

from __future__ import annotations

import json
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tasks.data import classifier
from tasks.stage import StageError

FEATURES = classifier.Features(bits=14, words=2, characters=3, passage=200, passages=4)
GOOD = ("sunny", "garden", "music", "bread", "river", "晴", "园", "乐", "面包", "河")
BAD = ("thunder", "ruin", "poison", "rust", "swamp", "雷", "废墟", "毒", "锈", "沼")
PLAIN = ("the", "a", "of", "in", "and", "was", "with", "is", "on", "very", "的", "了", "在", "是", "和")


def sample(count, seed=0, overlap=0.3):
    """`count` texts of plain words with a few of one list; label 1 for BAD. Some words of the other list creep in."""
    draw = random.Random(seed)
    texts, labels = [], []
    for number in range(count):
        own, other = (BAD, GOOD) if number % 2 else (GOOD, BAD)
        picked = [draw.choice(PLAIN) for _ in range(15)]
        picked += [draw.choice(other if draw.random() < overlap else own) for _ in range(3)]
        draw.shuffle(picked)
        texts.append(" ".join(picked))
        labels.append(number % 2)
    return texts, labels


def trained(texts, labels, features=FEATURES, pool="mean", regularization=0.1, seed=1):
    return classifier.train(texts, labels, features=features, pool=pool, regularization=regularization, seed=seed)


def test_score_is_that_of_scikit_learn_on_the_same_features():
    texts, labels = sample(300)
    made = trained(texts, labels)
    wanted = np.array(labels)
    kept = np.array([classifier.calibrates(text, 1) for text in texts])
    assert 30 < kept.sum() < 100

    def table(chosen):  # one passage a text, so rows are texts
        rows, owners = classifier.matrix([texts[i] for i in chosen], FEATURES)
        assert owners.tolist() == list(range(len(chosen)))
        return rows

    fit = np.flatnonzero(~kept)
    reference = LogisticRegression(C=10.0, tol=1e-6, max_iter=1000).fit(table(fit), wanted[fit])
    held = np.flatnonzero(kept)
    margins = reference.decision_function(table(held))
    platt = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(margins[:, None], wanted[held])
    everything = reference.decision_function(table(range(300)))
    expected = platt.predict_proba(everything[:, None])[:, 1]
    assert np.abs([made.score(text) for text in texts] - expected).max() < 1e-6
    uncalibrated = [1 / (1 + math.exp(-made.margin(text))) for text in texts]
    assert np.abs(uncalibrated - reference.predict_proba(table(range(300)))[:, 1]).max() < 1e-6


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_it_separates_what_differs_and_not_what_does_not(pool):
    texts, labels = sample(600, overlap=0.15)
    fresh, truth = sample(400, seed=99, overlap=0.15)
    scores = trained(texts, labels, pool=pool).scores(fresh)
    assert scores.dtype == np.float32 and scores.shape == (400,) and (0 <= scores).all() and (scores <= 1).all()
    assert roc_auc_score(truth, scores) > 0.9  # three independent words, each right in 0.85
    aucs = []
    for seed in range(5):  # standard error of one: about 0.03
        shuffled = random.Random(seed).sample(labels, len(labels))
        aucs.append(roc_auc_score(truth, trained(texts, shuffled, pool=pool).scores(fresh)))
    assert abs(np.mean(aucs) - 0.5) < 0.1


def test_probabilities_are_calibrated():
    texts, labels = sample(2000, overlap=0.45)
    fresh, truth = sample(2000, seed=5, overlap=0.45)
    scores, truth = trained(texts, labels).scores(fresh), np.array(truth)
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (scores >= low) & (scores < low + 0.2)
        if chosen.sum() >= 100:
            assert abs(scores[chosen].mean() - truth[chosen].mean()) < 0.12


def test_the_worst_passage_of_a_long_text_counts_under_max_alone():
    texts, labels = sample(400, overlap=0.1)
    made = {pool: trained(texts, labels, pool=pool) for pool in ("mean", "max")}
    good = " ".join(sample(40)[0][::2])
    bad = " ".join(sample(40)[0][1::2])
    mixed = good[:600] + " " + bad[:199]
    assert made["max"].score(mixed) > 0.5 > made["mean"].score(mixed)
    assert made["max"].score(good) < 0.3


def test_same_bytes_again_and_after_load(tmp_path):
    texts, labels = sample(200)
    for name in "ab":
        trained(texts, labels).save(tmp_path / name)
    files = {name: {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())} for name in "ab"}
    assert files["a"] == files["b"] and set(files["a"]) == {"weights.npy", "model.json"}
    trained(texts, labels, seed=2).save(tmp_path / "c")
    assert (tmp_path / "c/weights.npy").read_bytes() != files["a"]["weights.npy"]
    loaded = classifier.load(tmp_path / "a")
    assert loaded.scores(texts).tobytes() == trained(texts, labels).scores(texts).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=1000))
def test_any_text_has_a_score_and_bounded_passages(text):
    pieces = list(classifier.passages(text, FEATURES))
    assert 1 <= len(pieces) <= 4 and all(len(piece) <= 200 for piece in pieces)
    assert text.startswith(pieces[0]) and text.endswith(pieces[-1])
    assert sum(map(len, pieces)) >= min(len(text), 800)  # all of a text that fits
    found = classifier.passage_features(text, FEATURES)
    assert all((row[:-1] < row[1:]).all() and (not len(row) or 0 <= row[0] and row[-1] < 1 << 14) for row in found)
    weights = np.linspace(-50, 50, 1 << 14, dtype=np.float32)
    made = classifier.Classifier(weights, classifier.Calibrated(
        features=FEATURES, pool="mean", intercept=0.0, slope=100.0, offset=0.0))
    assert 0 <= made.score(text) <= 1


def test_features_by_hand():
    one = classifier.Features(bits=20, words=2, characters=0, passage=100, passages=1)
    rows = classifier.hashed("The cat 猫", one)
    assert len(rows) == 5  # the, cat, 猫, "the cat", "cat 猫"
    assert set(classifier.hashed("ＴＨＥ cat", one)) < set(rows)          # width and case do not count
    assert not set(classifier.hashed("猫cat", one)) >= set(classifier.hashed("cat猫", one))  # order does
    assert len(classifier.hashed("abcd", one.model_copy(update={"words": 0, "characters": 3}))) == 2
    assert rows.tolist() == [55723, 174660, 515314, 941092, 964569]  # stable from version to version


def test_hostile_text():
    made = trained(*sample(60))
    for text in ("", " \n", "\ud800 lone \udfff", "\0" * 5000, "😀" * 3000, "مرحبا بالعالم " * 400, "a" * 10**6):
        assert 0 <= made.score(text) <= 1
    began = time.process_time()
    made.score("word " * 10_000_000)  # 50 MB
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(("texts", "labels", "says"), [
    ([], [], "0 positive and 0 negative"),
    (["a b"] * 30, [1] * 30, "30 positive and 0 negative"),
    (["a"], [1, 0], "1 texts and 2 labels"),
    ([str(n) for n in range(40)], [0, 2] * 20, "label is 2"),
    (["same"] * 40, [0, 1] * 20, "leave one class out"),
])
def test_bad_examples_are_refused(texts, labels, says):
    with pytest.raises(StageError, match=says) as error:
        trained(texts, labels)
    assert "\n" not in str(error.value)


def spoil(folder, change):
    """Apply one fault to a saved classifier."""
    weights, model = folder / "weights.npy", folder / "model.json"
    content = json.loads(model.read_text())
    if change == "no weights":
        weights.unlink()
    elif change == "no folder":
        weights.unlink(), model.unlink(), folder.rmdir()
    elif change == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif change == "garbage":
        weights.write_bytes(b"\x93NUMPY garbage")
    elif change == "empty":
        weights.write_bytes(b"")
    elif change == "pickle":
        np.save(weights, np.array([{"os": "system"}], dtype=object), allow_pickle=True)
    elif change == "shape":
        np.save(weights, np.zeros(100, np.float32))
    elif change == "type":
        np.save(weights, np.zeros(1 << 14, np.float64))
    elif change == "nan":
        np.save(weights, np.full(1 << 14, np.nan, np.float32))
    elif change == "key":
        model.write_text(json.dumps(content | {"colour": "red"}))
    elif change == "bounds":
        model.write_text(json.dumps(content | {"slope": "1e999"}))
    elif change == "not json":
        model.write_bytes(b"\xff\xfe{")
    elif change == "infinite":
        model.write_text(json.dumps(content).replace(json.dumps(content["slope"]), "Infinity"))
    elif change == "zip":
        np.savez(weights.with_suffix(".npz"), a=np.zeros(3))
        weights.with_suffix(".npz").rename(weights)


@pytest.mark.parametrize("change", ["no weights", "no folder", "truncated", "garbage", "empty", "pickle", "shape",
                                    "type", "nan", "key", "bounds", "not json", "infinite", "zip"])
def test_a_spoiled_folder_is_refused_in_one_line(tmp_path, change):
    trained(*sample(60)).save(tmp_path / "model")
    spoil(tmp_path / "model", change)
    with pytest.raises(StageError, match="model") as error:
        classifier.load(tmp_path / "model")
    assert "\n" not in str(error.value)
