"""The safety stage on small shards: order and reasons, masks and counts, equal bytes, bad input."""

import json

import pytest
from pydantic import ValidationError

from tasks.data import classifier
from tasks.data.safety import SafetyParams, safety
from tasks.stage import StageError

INSULTS = ("you are a stupid worthless idiot and everyone hates you", "shut up you pathetic ugly loser",
           "你这个愚蠢的废物给我闭嘴", "what a disgusting moron get lost")
CALM = ("the index of the table is rebuilt at night", "please read the chapter on transactions",
        "数据库的索引在夜间重建", "a lamp stands in the garden of the house")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small classifiers, trained here: abuse against calm text, and a topic for adult pages."""
    folder = tmp_path_factory.mktemp("models")
    features = classifier.Features(bits=14, words=2, characters=3, passage=1000, passages=4)
    for name, good, bad in (("toxicity", CALM, INSULTS),
                            ("adult", CALM, ("velvet boudoir night", "boudoir of desire"))):
        texts = [f"{line} {number}" for line in good + bad for number in range(30)]
        labels = [int(text.rpartition(" ")[0] in bad) for text in texts]
        classifier.train(texts, labels, features=features, pool="mean", regularization=1.0, seed=1).save(folder / name)
    return folder


def run(data, models, source, out, workers=1, **changes):
    safety(source, models, out / "kept", out / "rejected", out / "m.json",
           safety=data.section(SafetyParams, "safety", **changes), runtime=data.runtime(workers))
    return json.loads((out / "m.json").read_text())


def made(data):
    spam = "Free porn videos, hot milf, blowjob and cumshot clips, live sex cam girls! " * 5
    calm = "\n".join(CALM[:2]) + " Write to li.wei@northwind.io or 13800138001 (电话)."
    return [data.document("calm", calm, url="https://a.example/"),
            data.document("listed", CALM[0] + " " + spam + "mail mary@northwind.io", url="https://www.xvideos.com/1"),
            data.document("spam", spam, url="https://b.example/"),
            data.document("rude", " ".join(INSULTS), url=None),
            data.document("night", "velvet boudoir night, boudoir of desire, velvet boudoir"),
            data.document("zh", CALM[2] + "身份证11010519491231002X，" + data.chinese(1), "zh", scores={"other": 0.5})]


def test_reasons_masks_and_counts(data, models, workspace):
    table = run(data, models, data.write_shards(workspace / "in", made(data), 2), workspace / "out")
    kept, rejected = data.read_all(workspace / "out/kept"), data.read_all(workspace / "out/rejected")
    assert {name: d.metadata["reason"] for name, d in rejected.items()} == {
        "listed": "domain", "spam": "words", "rude": "toxic", "night": "adult"}
    assert set(kept) == {"calm", "zh"}
    assert "<email> or <phone>" in kept["calm"].text and kept["calm"].metadata["masked"] == {"email": 1, "phone": 1}
    assert "身份证<resident_id>，" in kept["zh"].text
    assert set(kept["zh"].metadata["scores"]) == {"other", "toxicity", "adult"}
    assert "mary@" not in rejected["listed"].text
    none = dict.fromkeys(data.values["safety"]["mask"], 0)
    assert table["masked"] == none | {"email": 1, "phone": 1, "resident_id": 1}
    assert table["read"] == 6 == table["kept"] + sum(table["dropped"].values())


def test_equal_bytes_whatever_the_workers(data, models, workspace):
    source = data.write_shards(workspace / "in", made(data), 3)
    for workers in (1, 2, 4):
        data.forget()
        run(data, models, source, workspace / f"out{workers}", workers)
    assert data.tree(workspace / "out1") == data.tree(workspace / "out2") == data.tree(workspace / "out4")


def test_thresholds_decide(data, models, workspace):
    source = data.write_shards(workspace / "in", made(data), 1)
    loose = {"toxicity": {"reason": "toxic", "max_score": 1.0}, "adult": {"reason": "adult", "max_score": 1.0}}
    table = run(data, models, source, workspace / "out", classifiers=loose, mask=[],
                words={"lists": [], "max_density": 1e6, "min_different": 1})
    assert table["dropped"] == {"domain": 1} and table["masked"] == {}
    assert "li.wei@northwind.io" in data.read_all(workspace / "out/kept")["calm"].text


def test_strange_text_passes(data, models, workspace):
    strange = [data.document("null", "a\0b\u202e\U0001f600 " * 50), data.document("empty", ""),
               data.document("huge", "13800138001 " * 200_000), data.document("number", "text", url=7)]
    table = run(data, models, data.write_shards(workspace / "in", strange, 1), workspace / "out")
    assert table["read"] == 4 == table["kept"] + sum(table["dropped"].values())


def test_bad_input_is_one_line(data, models, workspace):
    source = data.write_shards(workspace / "in", made(data), 1)
    with pytest.raises(StageError, match="not there: train it again"):
        run(data, workspace, source, workspace / "out")
    with pytest.raises(StageError, match="the list .*gone cannot be read"):
        run(data, models, source, workspace / "out", domains=[{"path": "gone", "sha256": "0" * 64}])
    with pytest.raises(ValidationError, match="no such class: name"):
        data.section(SafetyParams, "safety", mask=["email", "name"])
    (workspace / "none").mkdir()
    (workspace / "none/00000.jsonl").write_text("")
    with pytest.raises(StageError, match="safety dropped all 0 documents"):
        run(data, models, workspace / "none", workspace / "out")
