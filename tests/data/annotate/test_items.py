"""Items: drawn over all strata, the same by seed, frozen, pre-labelled by the pipeline; bad rows are named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flows import annotate as command
from tasks.data.annotate import items
from tasks.data.annotate.labels import PREFERENCE, QUALITY, SAFETY
from tasks.stage import StageError

FROZEN = Path("annotations/quality/items.jsonl")


def drawn(task, n, seed=7, path=FROZEN):
    return items.chosen(path, task, n, seed, items.documents_of_chain(task))


def test_strata_are_drawn_evenly_and_prelabelled(chain):
    found = drawn(QUALITY, 20)
    strata = Counter(item["stratum"] for item in found)
    assert set(strata) == {"kept, zh", "kept low, en", "kept middle, en", "kept high, en", "dropped short_lines, en",
                           "dropped broken_encoding, en", "dropped ads, en", "dropped unheard_of, en"}
    assert max(strata.values()) - min(strata.values()) <= 1  # every stratum has three documents at least
    labels = {item["stratum"].split(",")[0]: item["suggestion"]["label"] for item in found}
    assert labels == {"kept": "good", "kept low": "good", "kept middle": "good", "kept high": "good", "dropped ads": "ads",
                      "dropped short_lines": "thin", "dropped broken_encoding": "broken", "dropped unheard_of": None}
    assert not {"twin", "rude"} & {item["id"] for item in found}
    by = {item["id"]: item for item in found}
    assert all("reason" not in item["metadata"] and item["metadata"]["source"] == "test" for item in found)
    low = next(item for item in found if item["stratum"] == "kept low, en")
    assert low["suggestion"]["why"] == f"kept, score {low['metadata']['scores']['fluency']:.2f}" and by[low["id"]] is low


def test_safety_draws_its_own_rejects_and_risks(chain):
    found = {item["id"]: item for item in drawn(SAFETY, 100, path=Path("annotations/safety/items.jsonl"))}
    assert found["rude"]["suggestion"] == {"label": "toxic", "why": "dropped: toxic"}
    assert found["en:00"]["stratum"] == "kept high, en" and not any(name.startswith("no:") for name in found)


def test_same_by_seed_frozen_and_grown_without_change(chain, tmp_path):
    first = drawn(QUALITY, 12)
    whole = FROZEN.read_bytes()
    assert drawn(QUALITY, 12, path=tmp_path / "b.jsonl") == first
    assert [i["id"] for i in drawn(QUALITY, 12, 8, tmp_path / "c.jsonl")] != [i["id"] for i in first]
    assert items.chosen(FROZEN, QUALITY, 12, 7, iter(["the source is not read"])) == first
    grown = drawn(QUALITY, 20)
    assert grown[:12] == first and FROZEN.read_bytes().startswith(whole) and len({i["id"] for i in grown}) == 20
    assert drawn(QUALITY, 5) == grown  # fewer takes none away


def test_two_that_choose_at_once_do_not_overwrite_each_other(chain):
    def source():
        yield from items.documents_of_chain(QUALITY)
        drawn(QUALITY, 8)  # the other one, done first

    with pytest.raises(StageError, match=r"items\.jsonl has just been written by another \./run annotate"):
        items.chosen(FROZEN, QUALITY, 12, 7, source())
    assert len(items.load(FROZEN)) == 8


def test_the_order_tells_nothing_of_the_strata(chain):
    ranks = [at for at, item in enumerate(drawn(QUALITY, 36)) if item["stratum"].startswith("dropped")]
    assert ranks != list(range(len(ranks))) and min(ranks) < 8 and max(ranks) > 20


def test_own_items_with_labels_and_without_ids(chain, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"text": "buy", "label": "ads"}, {"text": "buy"}, {"text": "  "}, {"text": "half \ud83d a character"},
            {"text": "x" * (items.LONGEST + 1)}, {"text": "other label", "label": "none of ours"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = items.chosen(FROZEN, QUALITY, 50, 1, items.rows(path))
    assert sorted(item["text"] for item in found) == ["buy", "half � a character", "other label"]
    assert {i["text"]: i["suggestion"]["label"] for i in found} == {"buy": "ads", "half � a character": "good",
                                                                    "other label": "good"}
    assert items.load(FROZEN) == found


@pytest.mark.parametrize(("line", "message"), [
    (b'{"text": 5}', r"text is int"), (b"{}", r"text is NoneType"), (b'{"text": "a", "metadata": []}', "metadata is list"),
    (b"[1]", "is a list, not an object"), (b'{"text": "cut', "is not JSON"), (b'{"text": "\xff"}', "is not JSON"),
    (b"[" * 100000, "is not JSON")])
def test_bad_documents_are_named(chain, tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(StageError, match=rf"mine\.jsonl:2:? {message}"):
        items.chosen(FROZEN, QUALITY, 50, 1, items.rows(path))
    assert not FROZEN.exists()


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a", "chosen": "b"}, "rejected must be"), ({"chosen": "b", "rejected": "c"}, "prompt must be"),
    ({"prompt": [], "chosen": "b", "rejected": "c"}, "prompt must be"),
    ({"prompt": [{"role": "king", "content": "a"}], "chosen": "b", "rejected": "c"}, "prompt must be"),
    ({"prompt": "a", "chosen": [{"content": "b"}] * 2, "rejected": "c"}, "chosen must be")])
def test_bad_pairs_are_named(row, message):
    with pytest.raises(StageError, match=f"f:3: {message}"):
        items.pair("f:3", row, 1)


def test_pairs_take_either_side_by_seed_alone():
    rows = [{"prompt": f"question {n}", "chosen": {"role": "assistant", "content": "好"}, "rejected": [{"content": "坏"}]}
            for n in range(400)]
    made = [items.pair("f", row, 3) for row in rows]
    sides = Counter(item["suggestion"]["label"] for item in made)
    assert 160 < sides["left"] < 240  # within four standard deviations of a half
    assert all(item[item["suggestion"]["label"]] == "好" for item in made)
    assert made == [items.pair("f", row, 3) for row in rows] != [items.pair("f", row, 4) for row in rows]


def test_the_chains_own_pairs_are_items(workspace):
    found = items.chosen(Path("items.jsonl"), PREFERENCE, 24, 7, command.chain_pairs(24, 7))
    assert 20 <= len(found) <= 24 and {item["stratum"] for item in found} == {"argument", "tool", "malformed", "silent"}
    for item in found:
        assert item["left"] != item["right"] and item["prompt"][-1]["role"] == "user" and item["tools"]


def test_nothing_made_yet_and_nothing_there(workspace, tmp_path):
    with pytest.raises(StageError, match=r"no documents yet .*\./run makes them"):
        drawn(QUALITY, 5)
    with pytest.raises(StageError, match=r"--items .*no such \.jsonl file"):
        list(items.rows(tmp_path / "absent.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(StageError, match="there is no item"):
        items.chosen(FROZEN, QUALITY, 5, 1, items.rows(tmp_path / "empty.jsonl"))
    FROZEN.parent.mkdir(parents=True)
    FROZEN.write_text('{"id": "x", "text": "edited"}\n')
    with pytest.raises(StageError, match=r"items\.jsonl:1: stratum is missing"):
        items.load(FROZEN)
