"""Dedup on planted duplicates of real pages: what must go goes, with the id of what it repeats, and nothing else."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import minhash, words
from tasks.data.dedup import DedupParams, canonical, dedup
from tasks.stage import StageError


def run(data, source, out, workers=1, **changes):
    out.mkdir(exist_ok=True)
    dedup(source, out / "kept", out / "rejected", out / "m.json", dedup=data.section(DedupParams, "dedup", **changes),
          seed=1, runtime=data.runtime(workers))
    return json.loads((out / "m.json").read_text())


def changed(text, share, seed):
    """`text` with a share of its words, or Chinese characters, replaced."""
    draw = random.Random(seed)
    gap = " " if " " in text else ""
    units = text.split(" ") if gap else list(text)
    other = (lambda: f"w{draw.randrange(10**6)}") if gap else (lambda: draw.choice("甲乙丙丁戊己庚辛"))
    return gap.join(other() if unit.strip() and draw.random() < share else unit for unit in units)


def shingles(text, n):
    return set(words.ngrams(words.normal_words(text), n))


@pytest.fixture(scope="module")
def base(data):
    return [d for d in data.pages() if len(d.text) < 60_000]


def test_planted_duplicates_are_found_and_name_what_they_repeat(data, workspace, base):
    copies = [data.document(f"{d.id}+copy", d.text.replace(".", " .") + "\n", d.metadata["language"]) for d in base]
    near = [data.document(f"{d.id}+near", changed(d.text, 0.01, n), d.metadata["language"])
            for n, d in enumerate(base)]
    page = base[0].metadata["url"]
    moved = data.document("z:moved", data.chinese(77), url=page.replace("https", "http") + "#top")
    table = run(data, data.write_shards(workspace / "in", base + copies + near + [moved]), workspace / "out")
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    truth = {d.id for d, original in zip(near, base)
             if (a := shingles(d.text, 5)) and len(a & (b := shingles(original.text, 5))) / len(a | b) >= 0.8}
    assert set(kept) - {d.id for d in near} == {d.id for d in base}  # no page is lost, no copy is left
    assert len(truth) > 20 and len(truth - set(rejected)) <= 0.02 * len(truth)
    assert all(d.metadata["duplicate_of"] == d.id.split("+")[0] for d in rejected.values() if "+" in d.id)
    assert rejected["z:moved"].metadata == moved.metadata | {"reason": "url", "duplicate_of": base[0].id}
    assert table["dropped"]["exact"] == len(base) and table["read"] == 3 * len(base) + 1
    assert table["read"] == table["kept"] + sum(table["dropped"].values())


def test_one_and_two_workers_and_any_sharding_keep_the_same(data, workspace, base):
    made = base + [data.document(f"{d.id}+copy", d.text, d.metadata["language"]) for d in base[:5]]
    source = data.write_shards(workspace / "in", made)
    for workers in (1, 2):
        run(data, source, workspace / f"out{workers}", workers)
    assert data.tree(workspace / "out1") == data.tree(workspace / "out2")
    run(data, data.write_shards(workspace / "other", made, 2), workspace / "out3")
    assert set(data.read_all(workspace / "out3/kept")) == set(data.read_all(workspace / "out1/kept"))
    assert [path.name for path in workspace.glob("out*/.*")] == []  # no fingerprints are left behind


def test_bad_input(data, workspace):
    twice = [data.document("same", "one text of some words"), data.document("same", "another text of some words")]
    with pytest.raises(StageError, match="two documents have the id same"):
        run(data, data.write_shards(workspace / "twice", twice, 2), workspace / "out")
    (workspace / "in").mkdir()
    (workspace / "in/00000.jsonl").write_text('{"id": "a", "text": "b", "metadata": {}}\n{"id": 5}\n')
    with pytest.raises(StageError, match=r"00000\.jsonl:2 is not a document"):
        run(data, workspace / "in", workspace / "out", 2)
    (workspace / "in/00000.jsonl").write_text("")
    assert run(data, workspace / "in", workspace / "out")["read"] == 0


@pytest.mark.parametrize("url, same", [
    ("HTTPS://Docs.Example:443/a/index.html#part", "docs.example/a"), ("http://docs.example/a/", "docs.example/a"),
    ("http://docs.example:8080/a", "docs.example:8080/a"), ("http://x.org/p?id=2", "x.org/p?id=2"),
    ("pypi:package/1.0/models.py#1", "pypi:package/1.0/models.py#1"), ("", ""), ("http://[broken", ""),
    ("http://x.org:99999/", ""),
])
def test_canonical_addresses(url, same):
    assert canonical(url) == same


@settings(max_examples=60, deadline=None)
@given(*[st.sets(st.integers(0, 300), min_size=40, max_size=200)] * 2)
def test_signatures_estimate_the_jaccard_similarity(a, b):
    left, right = (minhash.signature([f"w{n}" for n in sorted(s)], 512, 1, 7) for s in (a, b))
    true = len(a & b) / len(a | b)
    assert abs((left == right).mean() - true) <= 5 * (true * (1 - true) / 512) ** 0.5 + 0.01


@given(st.lists(st.sampled_from("alpha beta gamma delta".split()), max_size=30))
def test_a_signature_depends_on_the_words_alone(tokens):
    first, again = (minhash.signature(tokens, 64, 3, 7) for _ in range(2))
    assert (first == again).all() and first.shape == (64,) and first.dtype == "uint32"


@given(st.floats(0.05, 1), st.sampled_from([16, 64, 128, 256]))
def test_bands_reach_the_recall_they_promise(threshold, permutations):
    rows = minhash.rows_for(threshold, permutations)
    assert permutations % rows == 0
    assert rows == 1 or 1 - (1 - threshold**rows) ** (permutations // rows) >= 0.99


def test_the_index_returns_the_most_similar_and_never_one_below_the_threshold():
    index = minhash.Index(0.7, 128)
    text = [f"w{n}" for n in range(200)]
    for tokens in (text[:150] + ["x"] * 50, text[:190] + ["y"], ["other"] * 20):
        index.add(minhash.signature(tokens, 128, 1, 7))
    number, similarity = index.nearest(minhash.signature(text, 128, 1, 7))
    assert number == 1 and similarity > 0.85
    assert index.nearest(minhash.signature([f"v{n}" for n in range(99)], 128, 1, 7)) is None
