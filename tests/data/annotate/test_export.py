"""What training reads: resolved labels, pairs in the very form that DPO renders, nothing disputed."""

from __future__ import annotations

import json

import pytest
from trl.data_utils import apply_chat_template

from flows import annotate as command
from tasks import chat
from tasks.data.annotate import export, items
from tasks.data.annotate.labels import PREFERENCE, QUALITY
from tasks.data.annotate.store import Answer
from tasks.finetune import pairs
from tests.finetune.conftest import byte_tokenizer


def said(**labels):
    return {item: Answer(item, label) for item, label in labels.items()}


def documents(*names):
    return [items.document("f", {"text": f"text of {name}", "id": name, "metadata": {"language": "zh"}}, QUALITY)
            for name in names]


def test_adjudication_then_majority_then_out():
    answers = {"bob": said(a="good", b="good", c="ads", d=None), "amy": said(a="good", b="ads", c="good", d=None),
               "cat": said(b="good")}
    rows, counts = export.export(QUALITY, documents("e", "d", "c", "b", "a"), answers, said(c="thin"))
    assert counts == {"exported": 3, "disputed": 0, "unanswered": 2, "tie": 0}
    assert rows[0] == {"text": "text of a", "label": "good", "id": "a", "language": "zh", "annotators": ["amy", "bob"],
                       "adjudicated": False}
    assert [(row["id"], row["label"], row["adjudicated"]) for row in rows[1:]] == [("b", "good", False),
                                                                                ("c", "thin", True)]
    rows, counts = export.export(QUALITY, documents("c"), answers, {})
    assert rows == [] and counts["disputed"] == 1


def test_pairs_render_as_preference_training_renders_its_own():
    """Chosen and rejected by the annotator's side, through trl's own template code, against tasks.finetune.pairs."""
    tokenizer = byte_tokenizer()
    made = [items.pair(place, row, 7) for place, row in command.chain_pairs(12, 7)]
    answers = {"amy": {item["id"]: Answer(item["id"], item["suggestion"]["label"]) for item in made}}
    rows, counts = export.export(PREFERENCE, made, answers, {})
    assert counts["exported"] == len(made) == 12
    expected = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs.pairs(12, "train", 9, [""], tokenizer)}
    rendered = set()
    for row in map(json.loads, export.lines(rows).splitlines()):
        texts = apply_chat_template({key: row[key] for key in ("prompt", "chosen", "rejected")}, tokenizer,
                                    tools=json.loads(row["tools"]))
        assert texts["chosen"].endswith(chat.END + "\n")
        rendered.add((texts["prompt"], texts["chosen"][:-1], texts["rejected"][:-1]))
    assert {whole for whole in rendered} == expected


@pytest.mark.parametrize("label", ["left", "right", "tie"])
def test_the_side_chosen_is_the_side_exported(label):
    item = items.pair("f", {"prompt": "问", "chosen": "甲", "rejected": "乙", "id": "x"}, 1)
    rows, counts = export.export(PREFERENCE, [item], {"amy": said(x=label)}, {})
    if label == "tie":
        assert rows == [] and counts["tie"] == 1
    else:
        assert rows[0]["chosen"] == [{"role": "assistant", "content": item[label]}] and rows[0]["prompt"] == [
            {"role": "user", "content": "问"}]
        assert rows[0]["rejected"][0]["content"] != item[label] and "tools" not in rows[0]


def test_a_file_is_written_whole(tmp_path):
    rows, _ = export.export(QUALITY, documents("a"), {"amy": said(a="good")}, {})
    export.write(tmp_path / "new" / "q.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "new/q.jsonl").read_text("utf-8").splitlines()] == rows
