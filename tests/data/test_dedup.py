"""Dedup on planted duplicates of real pages: what must go goes, with the id of what it repeats, and nothing else."""

import json
import random

import pytest

from tasks.data import words
from tasks.data.dedup import DedupParams, Fingerprint, dedup
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
    lost = {name for name, d in rejected.items() if d.metadata["reason"] == "repeated" and "+" not in name}
    assert set(kept) - {d.id for d in near} == {d.id for d in base} - lost  # no page is lost, no copy is left
    assert len(truth) > 20 and len(truth - set(rejected)) <= 0.02 * len(truth)
    assert all(d.metadata["duplicate_of"] == d.id.split("+")[0] for d in rejected.values() if "+" in d.id)
    assert rejected["z:moved"].metadata == moved.metadata | {"reason": "url", "duplicate_of": base[0].id}
    assert table["dropped"]["exact"] == len(base) and table["read"] == 3 * len(base) + 1
    assert table["read"] == table["kept"] + sum(table["dropped"].values())


def test_any_number_of_workers_and_any_sharding_keep_the_same(data, workspace, base):
    made = base + [data.document(f"{d.id}+copy", d.text, d.metadata["language"]) for d in base[:5]]
    made += [data.document(f"{d.id}+part", base[3].text[:3000] + d.text, snapshot="2020") for d in base[5:9]]
    source = data.write_shards(workspace / "in", made)
    for workers in (1, 2, 4):
        data.forget()
        run(data, source, workspace / f"out{workers}", workers)
    assert data.tree(workspace / "out1") == data.tree(workspace / "out2") == data.tree(workspace / "out4")
    run(data, data.write_shards(workspace / "other", made, 2), workspace / "out3")
    assert set(data.read_all(workspace / "out3/kept")) == set(data.read_all(workspace / "out1/kept"))
    assert [path.name for path in workspace.glob("out*/.*")] == []  # no fingerprints are left behind


def test_the_newest_snapshot_wins(data, workspace):
    text, other = data.chinese(1), data.chinese(2)
    made = [data.document("a-old", text), data.document("b-mid", text, snapshot="2023-05"),
            data.document("c-new", text + "。", snapshot="2024-01"),
            data.document("d-old", other, url="http://x.org/p", snapshot="2023-05"),
            data.document("e-new", data.chinese(3), url="https://x.org/p/", snapshot="2024-01"),
            data.document("f-new", changed(data.chinese(3), 0.01, 4), url="https://x.org/q", snapshot="2024-01"),
            data.document("g-old", data.chinese(5), url="https://x.org/q", snapshot="2021")]
    table = run(data, data.write_shards(workspace / "in", made), workspace / "out")
    rejected = {name: (d.metadata["reason"], d.metadata["duplicate_of"])
                for name, d in data.read_all(workspace / "out/rejected").items()}
    assert set(data.read_all(workspace / "out/kept")) == {"c-new", "e-new"}
    assert rejected == {"a-old": ("exact", "c-new"), "b-mid": ("exact", "c-new"), "d-old": ("url", "e-new"),
                        "f-new": ("near", "e-new"),
                        "g-old": ("url", "e-new")}  # stale, though the newer page at its address went too
    assert table["dropped"] == {"exact": 2, "near": 1, "url": 2}


def test_a_run_over_a_grown_corpus_equals_one_that_never_saw_the_old(data, workspace, base, monkeypatch):
    """Fingerprints remembered from the run over the first snapshot serve the second; only new texts are asked for one."""
    old = [data.document(f"old:{d.id}", d.text, d.metadata["language"], url=d.metadata.get("url"), snapshot="2023")
           for d in base[:12]]
    new = [data.document(f"new:{d.id}", changed(d.text, 0.01 * n, n), d.metadata["language"],
                         url=d.metadata.get("url"), snapshot="2024") for n, d in enumerate(base[6:18])]
    first, both = data.write_shards(workspace / "a", old), data.write_shards(workspace / "ab", old + new)
    run(data, both, workspace / "full")
    data.forget()
    asked, made = [], Fingerprint.made
    monkeypatch.setattr(Fingerprint, "made", lambda step, document: asked.append(document.id) or made(step, document))
    run(data, first, workspace / "first")
    assert set(asked) == {d.id for d in old}
    asked.clear()
    run(data, both, workspace / "second")
    assert set(asked) == {d.id for d in new} - {d.id for d in new if d.text in {o.text for o in old}}
    assert data.tree(workspace / "second") == data.tree(workspace / "full")
    stale = data.read_all(workspace / "full/rejected")
    assert all(stale[d.id].metadata["duplicate_of"].startswith("new:") for d in old[6:])


def test_repeated_passages_are_cut_and_what_they_repeat_is_named(data, workspace):
    notice = "\n".join(f"Clause {n} of this licence lets every reader copy part {n} of the work." for n in range(6))
    own = ["\n".join(f"On page {n} line {line} speaks of {n * line}." for line in range(20)) for n in (5, 7, 11)]
    pages = [data.document(f"p{n}", f"{text}\n{notice}\nThe end of page {n}.") for n, text in enumerate(own)]
    mostly = data.document("q", f"Little else.\n{notice}")
    source = data.write_shards(workspace / "in", [*pages, mostly])
    table = run(data, source, workspace / "out", threshold=0.95)
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    assert kept["p0"].text == pages[0].text
    assert kept["p1"].text == f"{own[1]}\nThe end of page 1."
    assert rejected["q"].metadata["reason"] == "repeated" and rejected["q"].metadata["duplicate_of"] == "p0"
    assert rejected["q"].text == mostly.text and rejected["q"].metadata["repeated"] > 0.9
    assert rejected["p1"].text == notice and rejected["p1"].metadata["reason"] == "passage"  # in passages.jsonl
    assert table["dropped"] == {"repeated": 1} and table["documents_cut"] == 2
    assert table["characters_cut"] == 2 * len(notice + "\n")
    assert table["read"] == table["kept"] + 1
    off = run(data, source, workspace / "off", threshold=0.95, repeat_words=None)
    assert off["kept"] == 4 and off["characters_cut"] == 0


def test_bad_input(data, workspace):
    twice = [data.document("same", "one text of some words"), data.document("same", "another text of some words")]
    with pytest.raises(StageError, match="two documents have the id same"):
        run(data, data.write_shards(workspace / "twice", twice, 2), workspace / "out")
    (workspace / "in").mkdir()
    (workspace / "in/00000.jsonl").write_text('{"id": "a", "text": "b", "metadata": {}}\n{"id": 5}\n')
    with pytest.raises(StageError, match=r"00000\.jsonl:2 is not a document"):
        run(data, workspace / "in", workspace / "out", 2)
    odd = [data.document("a", "", snapshot=None), data.document("b", "...", url=5),
           data.document("c", "x", url="http://[")]
    table = run(data, data.write_shards(workspace / "odd", odd + [data.document("d", "\0\ud800".encode(
        "utf-8", "replace").decode() * 9, snapshot=["list"])]), workspace / "out-odd")
    assert table["read"] == 4 and table["dropped"] == {"exact": 2}
    (workspace / "in/00000.jsonl").write_text("")
    assert run(data, workspace / "in", workspace / "out")["read"] == 0


