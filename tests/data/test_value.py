"""The value stage with classifiers trained on the spot: scores, verdicts, counts, workers, bad input."""

import json
import random

import pytest

from tasks.data import classifier
from tasks.data.density import density
from tasks.data.selection import Bounds
from tasks.data.value import ValueParams, shares, value
from tasks.stage import StageError

FEATURES = classifier.Features(bits=12, words=1, characters=0, passage=600, passages=4)
OFF = {"limit": None, "keep": None}
PLANTED = ("Buy now and save, act today, limited offer, free shipping on every order, call us and win a prize. ",
           "限时特价，立即购买，全场包邮，加微信领取优惠红包，名额有限，厂家直销，")


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """Three classifiers: ads from planted phrases, fluency from shuffled words, education from library manuals."""
    folder = tmp_path_factory.mktemp("classifiers")
    pages = [d.text[:2000] for d in data.pages()] + [data.chinese(seed) for seed in range(100, 115)]
    draw = random.Random(1)
    jumbled = ["".join(draw.sample(list(text), len(text))) for text in pages]
    ads = [part * n for n in range(1, 16) for part in PLANTED]
    chinese = [text for text in pages if "，" in text]
    for name, positive, negative in (("ads", ads, pages), ("fluency", pages, jumbled),
                                     ("education", [text for text in pages if text not in chinese], chinese)):
        classifier.train(positive * 2 + negative * 2, [1] * 2 * len(positive) + [0] * 2 * len(negative),
                         features=FEATURES, pool="mean", regularization=0.1, seed=1).save(folder / name)
    return folder


def bounds(**given):
    return {name: OFF | given.get(name, {}) for name in Bounds.model_fields}


def changes(**given):
    """Params with everything off but what is given."""
    enrich = {"ngram": 2, "bits": 14, "prior": 1.0, "seeds": {}, "threshold": None, "max_share": 1.0}
    return {"bounds": {}, "pool": [], "enrich": enrich | given.pop("enrich", {}),
            "targets": {"knowledge": None, "mathematics": None, "code": None} | given.pop("targets", {})} | given


def run(data, models, source, out, workers=1, **given):
    out.mkdir(exist_ok=True)
    value(source, models, out / "kept", out / "rejected", out / "m.json", runtime=data.runtime(workers),
          value=data.section(ValueParams, "value", **changes(**given)))
    return json.loads((out / "m.json").read_text())


def spread(data):
    """Pages, two adverts, one page of code in a pool source."""
    code = data.document("zz:code", "def f(x):\n    return x + 1\n" * 40, source="snippets")
    adverts = [data.document(f"ad:{n}", text * 9, language) for n, (text, language) in
               enumerate(zip(PLANTED, ("en", "zh")))]
    return data.pages() + adverts + [code]


def test_scores_domains_histograms_and_counts(data, models, workspace):
    made = spread(data)
    table = run(data, models, data.write_shards(workspace / "in", made), workspace / "out",
                bounds={language: bounds(ads={"limit": 0.8}) for language in ("en", "zh")})
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    assert {name: d.metadata["reason"] for name, d in rejected.items()} == {"ad:0": "ads", "ad:1": "ads"}
    assert table["read"] == len(made) == table["kept"] + table["dropped"]["ads"] and table["selected"] == table["kept"]
    loaded = {name: classifier.load(models / name) for name in ("ads", "fluency", "education")}
    for d in made:
        after = (kept | rejected)[d.id]
        expected = {name: one.score(d.text) for name, one in loaded.items()} | {"density": density(d.text)}
        assert after.metadata["scores"] == pytest.approx(expected, abs=1e-4) and after.text == d.text
        assert after.metadata["domain"] == ("code" if d.id == "zz:code" else after.metadata["domain"])
        assert {k: v for k, v in after.metadata.items() if k in d.metadata} == d.metadata
    for name, languages in table["histograms"].items():
        assert sum(map(sum, languages.values())) == len(made) and all(len(bins) == 10 for bins in languages.values())
        for language, bins in languages.items():
            scores = [d.metadata["scores"][name] for d in (kept | rejected).values()
                      if d.metadata["language"] == language]
            assert bins[9] == sum(score >= 0.9 for score in scores) and bins[0] == sum(score < 0.1 for score in scores)
    for group in ("language", "domain"):
        for when, folder in (("before", kept | rejected), ("after", kept)):
            rows = table[group][when].values()
            assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-5)
            assert sum(row["characters"] for row in rows) == sum(len(d.text) for d in folder.values())
    assert table["characters_out"] == sum(len(d.text) for d in kept.values())


def test_a_quarter_goes_what_is_like_the_seeds_and_what_a_target_lacks_comes_back(data, models, workspace):
    made = spread(data)
    seeds = {"en": {"sources": ["test"], "urls": ["*/j*.html", "*/pickle*", "*/logging*"], "file": None}}
    given = {"bounds": {language: bounds(density={"keep": 0.75}) for language in ("en", "zh")}, "pool": ["snippets"]}
    source = data.write_shards(workspace / "in", made)
    plain = run(data, models, source, workspace / "plain", **given)
    assert plain["dropped"]["pool"] == 1 and plain["rescued"] == {"seed": {}, "target": {}}
    dropped = data.read_all(workspace / "plain/rejected")
    table = run(data, models, source, workspace / "out", **given, targets={"code": 0.001, "mathematics": 0.5},
                enrich={"seeds": seeds, "threshold": 0.5})
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    back = {name: d.metadata for name, d in kept.items() if "rescued" in d.metadata}
    assert back["zz:code"] | {"scores": 0} == made[-1].metadata | {
        "scores": 0, "domain": "code", "rescued": "pool", "rescued_by": "target"}
    assert all(m["rescued"] == dropped[name].metadata["reason"] for name, m in back.items())
    assert all(m["scores"]["seed"] >= 0.5 for m in back.values() if m["rescued_by"] == "seed")
    assert all(d.metadata["scores"].get("seed", 0) < 0.5 for d in rejected.values())
    assert all(("seed" in d.metadata["scores"]) is (d.metadata["language"] == "en") for d in kept.values())
    assert table["selected"] == plain["kept"] and table["kept"] == table["selected"] + len(back)
    assert sum(sum(by.values()) for by in table["rescued"].values()) == len(back)
    assert table["targets"]["code"] == {"share": 0.001, "missing_characters": 0}
    assert table["targets"]["mathematics"]["missing_characters"] > 0 and table["seeds"]["en"]["documents"] == 3


def test_one_two_and_four_workers_and_other_shards_decide_the_same(data, models, workspace):
    made = spread(data)
    given = {"bounds": {"en": bounds(fluency={"keep": 0.6}, education={"keep": 0.8}),
                        "zh": bounds(density={"keep": 0.5})},
             "enrich": {"seeds": {"zh": {"sources": ["test"], "urls": [], "file": None}}, "threshold": 0.5},
             "targets": {"code": 0.02}}
    source = data.write_shards(workspace / "in", made)
    for workers in (1, 2, 4):
        data.forget()
        run(data, models, source, workspace / str(workers), workers, **given)
    trees = [data.tree(workspace / str(workers)) for workers in (1, 2, 4)]
    assert trees[0] == trees[1] == trees[2]
    run(data, models, data.write_shards(workspace / "other", made[::-1], 2), workspace / "5", **given)
    for name in ("kept", "rejected"):
        assert data.read_all(workspace / "5" / name) == data.read_all(workspace / "1" / name)
    assert not [path for path in workspace.glob("*/.*")]


def test_odd_documents_are_scored(data, models, workspace):
    odd = ["", " \n", "\x00" * 50, "😀🎉 " * 400, "مرحبا بالعالم " * 80, "a" * 300_000, "字" * 100_000, "1 2 3"]
    made = [data.document(f"odd:{n}", text) for n, text in enumerate(odd)]
    table = run(data, models, data.write_shards(workspace / "in", made), workspace / "out",
                enrich={"seeds": {"en": {"sources": ["test"], "urls": [], "file": None}}})
    assert table["kept"] == len(made)
    assert all(0 <= score <= 1 for d in data.read_all(workspace / "out/kept").values()
               for score in d.metadata["scores"].values())


def test_bad_input_is_one_line(data, models, workspace):
    source = data.write_shards(workspace / "in", data.pages()[:4], 2)
    seeds = {"en": {"sources": ["nowhere"], "urls": [], "file": None}}
    with pytest.raises(StageError, match=r"value\.enrich\.seeds\.en matches no document"):
        run(data, models, source, workspace / "out", enrich={"seeds": seeds})
    with pytest.raises(StageError, match="value.pool names elsewhere, a source without documents"):
        run(data, models, source, workspace / "out", pool=["elsewhere"])
    with pytest.raises(StageError, match="value dropped all 4 documents {'pool': 4}"):
        run(data, models, source, workspace / "out", pool=["test"])
    with pytest.raises(StageError, match="ads/model.json is not there"):
        run(data, bare(workspace, models), source, workspace / "out")
    twice = data.write_shards(workspace / "twice", [data.pages()[0]] * 2, 2)
    with pytest.raises(StageError, match="two documents have the id py:argparse"):
        run(data, models, twice, workspace / "out")
    (source / "00000.jsonl").write_text('{"text": "cut o')
    with pytest.raises(StageError, match=r"00000\.jsonl:1 is not a document"):
        run(data, models, source, workspace / "out")


def bare(workspace, models):
    """The classifiers without ads."""
    for name in ("education", "fluency"):
        classifier.load(models / name).save(workspace / "bare" / name)
    (workspace / "bare/ads").mkdir()
    return workspace / "bare"


def test_shares_of_nothing_are_zero():
    assert shares([], "domain") == {name: {"documents": 0, "characters": 0, "share": 0.0}
                                    for name in ("code", "knowledge", "mathematics")}
