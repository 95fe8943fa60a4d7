"""The stage on a corpus of its own: what it learns, what it measures, the same bytes again, and its gate."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tasks import params, stage
from tasks.data import classifier, classifiers

FAULTS = ["shuffled", "dropped", "scanned", "misread", "cluttered", "repeated"]


def section(data, train, sets):
    features = {"bits": 14, "words": 2, "characters": 3, "passage": 600, "passages": 4}
    values = {"features": features, "regularization": 0.1, "held_out": 0.25, "sets": sets, "train": train}
    return params.section(classifiers.ClassifiersParams, "classifiers", {"classifiers": values})


SETS = {
    "documents": {"kind": "corpus"},
    "garbled": {"kind": "garbled", "base": {"documents": 300}, "faults": FAULTS},
    "phrases": {"kind": "templated", "base": {"documents": 300},
                "templates": ["{} now!", "{}，先到先得", "big {}!", "今日{}"],
                "words": ["sale", "offer", "coupon", "prize", "discount", "bargain", "特价", "包邮", "优惠", "返现", "大奖",
                          "折扣"]},
}
TRAIN = {
    "ads": {"positive": {"phrases": 200}, "negative": {"documents": 200}, "pool": "mean", "threshold": 0.5,
            "min_auc": 0.5},
    "fluency": {"positive": {"documents": 300}, "negative": {"garbled": 300}, "pool": "mean", "threshold": 0.5,
                "min_auc": 0.5},
}


@pytest.fixture
def corpus(data, workspace):
    """Real English documentation and made Chinese."""
    return data.write_shards(workspace / "deduped", data.pages()[::2])


def run(corpus, made, name="a", seed=1):
    (corpus.parent / "packages").mkdir(exist_ok=True)
    folder = corpus.parent / name
    paths = {"packages": ("input", corpus.parent / "packages"), "deduped": ("input", corpus),
             "models": ("output", folder / "models"), "metrics": ("output", folder / "m.json")}
    stage.execute(classifiers.classifiers, paths, {"classifiers": made, "seed": seed})
    return folder


def test_it_learns_measures_and_repeats(data, corpus):
    made = section(data, TRAIN, SETS)
    folder, again = run(corpus, made), run(corpus, made, "b")
    assert data.tree(folder) == data.tree(again)
    table = json.loads((folder / "m.json").read_text())
    assert table["fluency"]["auc"] > 0.75 and table["ads"]["auc"] > 0.75
    assert table["fluency"]["weak"] == ["garbled"] and table["ads"]["weak"] == ["phrases"]
    assert set(table["fluency"]["accuracy_by_language"]) == {"en", "zh"}
    counted = table["fluency"]["examples"]
    assert sum(counted["positive"].values()) + sum(counted["negative"].values()) > 200
    rows = table["fluency"]["corpus"]["test"]
    assert rows["documents"] == len(data.read_all(corpus)) and rows["positive"] > 0.8
    fluency = classifier.load(folder / "models/fluency")
    page = next(text for text in (d.text for d in data.read_all(corpus).values()) if text.isascii())
    noise = "".join(random.Random(1).choices("qzxvkj ;|{}", k=3000))
    assert fluency.score(page) > 0.5 > fluency.score(noise)


def test_the_gate_stops_and_leaves_what_was_there(data, corpus):
    folder = run(corpus, section(data, TRAIN, SETS))
    before = data.tree(folder)
    strict = {"fluency": TRAIN["fluency"] | {"min_auc": 1.0}}
    with pytest.raises(stage.StageError, match="min_auc = 1.0"):
        run(corpus, section(data, strict, SETS))
    assert data.tree(folder) == before


def test_labels_that_mean_nothing_give_half(data, corpus):
    draw = random.Random(1)
    lines = [f"{draw.randint(0, 1)}\t" + " ".join(draw.choices(["cat", "dog", "sun", "sea", "猫", "海"], k=20))
             for _ in range(1200)]
    (corpus.parent / "x.tsv").write_text("\n".join(lines), "utf-8")
    sets = {half: {"kind": "file", "path": "x.tsv", "form": "tsv", "where": half} for half in "01"}
    train = {"noise": TRAIN["ads"] | {"positive": {"1": 600}, "negative": {"0": 600}, "min_auc": 0.0}}
    table = json.loads((run(corpus, section(data, train, sets)) / "m.json").read_text())
    assert abs(table["noise"]["auc"] - 0.5) < 0.12  # standard error 0.033


def test_measures_against_counts_by_hand():
    row = classifiers.share(np.array([True, True, False, True]))
    assert row == {"value": 0.75, "standard_error": 0.2165, "examples": 4}
    assert classifiers.share(np.array([]))["value"] is None
    # two bins, [0.2, 0.3) and [0.8, 0.9), each off by 0.25: (0.5 - 0.25) and (0.85 - 0.6)
    scores = np.array([0.25, 0.25, 0.85, 0.85, 0.85, 0.85, 0.85])
    truth = np.array([1, 0, 1, 1, 1, 0, 0])
    assert abs(classifiers.calibration_error(scores, truth) - 0.25) < 1e-9
    assert classifiers.calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == 0.0


def test_the_same_texts_on_both_sides_are_refused(data, corpus):
    same = {"x": TRAIN["ads"] | {"positive": {"documents": 10}, "negative": {"documents": 10}}}
    with pytest.raises(stage.StageError, match="same texts"):
        run(corpus, section(data, same, SETS))


@pytest.mark.parametrize("change", [{"pool": "median"}, {"threshold": 1.5}, {"positive": {}}, {"positive": {"x": 0}},
                                    {"colour": 1}])
def test_bad_params_are_refused_by_key(data, change):
    with pytest.raises(params.ParamsError, match=r"classifiers\.train\.ads\." + next(iter(change))):
        section(data, {"ads": TRAIN["ads"] | change}, SETS)


def test_the_committed_section_names_sets_that_are_there(data):
    made = params.section(classifiers.ClassifiersParams, "classifiers", data.values)
    used = {name for wanted in made.train.values() for name in wanted.positive | wanted.negative}
    used |= {name for of in made.sets.values() for name in getattr(of, "base", {})}
    assert used == set(made.sets) and set(made.train) == {"toxicity", "adult", "ads", "fluency", "education"}
    packages = {package["name"] for package in data.values["sources"]["packages"]}
    assert {of.package for of in made.sets.values() if getattr(of, "package", None)} <= packages
