"""Reading the evaluation sets: what the data link writes is read, and each fault is named with its line."""

from __future__ import annotations

import json

import pytest

from tasks import exercises
from tasks.data import evalsets as made
from tasks.data import harms
from tasks.data import items as data_items
from tasks.evaluate.items import read_items
from tasks.stage import StageError

COUNTS = {"held_out": 2, "pairs": 5, "safety": 6, "cloze": 3, "recall": 4, "tools": 6, "arithmetic": 4}


def sets(folder):
    """Evaluation sets in the form of tasks/data/evalsets.py, from its own functions where they need no corpus."""
    (folder / "held_out.jsonl").write_text("".join(
        json.dumps({"id": f"d{n}", "text": f"数 {n} " + "word " * 200, "metadata": {}}) + "\n" for n in range(4)))
    made.write(folder / "pairs.jsonl", [{"id": f"p{n}", "good": f"good {n}", "bad": f"bad {n}", "kind": "swap",
                                         "language": "en", "document": "d1"} for n in range(20)])
    made.write(folder / "safety.jsonl", harms.pairs(40, 0))
    made.write(folder / "cloze.jsonl", [{"id": f"c{n}", "prompt": f"the {n} is", "choices": [" a", " b", " c"],
                                         "gold": n % 3, "kind": "fact", "language": "en"} for n in range(9)])
    made.write(folder / "recall.jsonl", data_items.recall(8, 4, 0))
    made.write(folder / "tools.jsonl", made.exercise_items(exercises.tool_calls(12, "held_out", 0)))
    made.write(folder / "arithmetic.jsonl", made.exercise_items(exercises.arithmetic(8, "held_out", 0)))
    return folder


def test_counts_sizes_and_shapes(tmp_path):
    found = read_items(sets(tmp_path), COUNTS, 200)
    assert {name: len(items) for name, items in found.items()} == COUNTS | {"tools_grammar": 6}
    assert all(150 < len(item["text"].encode()) <= 200 for item in found["held_out"])
    assert all(item["choices"][item["gold"]].startswith("good") for item in found["pairs"])
    assert {item["gold"] for item in read_items(tmp_path, COUNTS | {"pairs": 20}, 200)["pairs"]} == {0, 1}
    assert all(json.loads(item["arguments"]) and item["tool"] in item["offered"] for item in found["tools"])
    assert all(isinstance(value, (str, int, float, list)) for items in found.values() for item in items
               for value in item.values()), "nested objects would be padded by the dataset reader"


def test_a_smaller_count_is_a_subset(tmp_path):
    few = read_items(sets(tmp_path), COUNTS, 200)["pairs"]
    many = read_items(tmp_path, COUNTS | {"pairs": 11}, 200)["pairs"]
    assert {item["id"] for item in few} < {item["id"] for item in many}


@pytest.mark.parametrize("name, line", [
    ("pairs", '{"id": "x", "good": "a"}'), ("pairs", "{"), ("pairs", "[]"),
    ("pairs", '{"id": "x", "good": "", "bad": "b"}'),
    ("cloze", '{"id": "x", "prompt": "p", "choices": ["a"], "gold": 0}'),
    ("cloze", '{"id": "x", "prompt": "p", "choices": ["a", "b"], "gold": 2}'),
    ("recall", '{"id": "x", "prompt": "p", "choices": ["a", "b"], "gold": true}'),
    ("tools", '{"id": "x", "question": "q", "tool": "rm", "tools": ["rm"], "arguments": {}, "chance": 0}'),
    ("tools", '{"id": "x", "question": "q", "tool": "timer", "tools": ["timer"], "arguments": {}, "chance": 0}'),
    ("arithmetic", '{"id": "x", "question": "q", "answer": "seven"}'), ("held_out", '{"id": "x"}'),
])
def test_a_broken_line_is_named(tmp_path, name, line):
    path = sets(tmp_path) / f"{name}.jsonl"
    path.write_text(path.read_text() + line + "\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(StageError, match=rf"{name}\.jsonl:{number} is no item of {name}") as error:
        read_items(tmp_path, COUNTS, 200)
    assert "\n" not in str(error.value)


def test_absent_and_empty(tmp_path):
    sets(tmp_path)
    (tmp_path / "cloze.jsonl").write_text("")
    with pytest.raises(StageError, match="cloze.jsonl has no items"):
        read_items(tmp_path, COUNTS, 200)
    (tmp_path / "cloze.jsonl").unlink()
    with pytest.raises(StageError, match="cloze.jsonl cannot be read"):
        read_items(tmp_path, COUNTS, 200)
