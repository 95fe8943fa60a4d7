"""lm-eval's tasks by name: one's own YAML is found, scored and told; what cannot be had is one line."""

from __future__ import annotations

import json

import pytest
from lm_eval.api.model import LM

from tasks.evaluate import named
from tasks.evaluate.harness import EvaluateParams
from tasks.params import ParamsError, section
from tasks.stage import StageError

TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: evalsets/capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
COUNTS = dict.fromkeys(["held_out", "pairs", "safety", "cloze", "recall", "tools", "arithmetic"], 2)


class First(LM):
    """Likes the first choice best."""

    def loglikelihood(self, requests):
        return [(-float(request.doc["choices"].index(request.args[1].strip())), False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("a task of choices asks no whole text")

    def generate_until(self, requests):
        raise AssertionError("a task of choices asks no answer")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalsets").mkdir()
    (tmp_path / "evalsets/capitals.yaml").write_text(TASK)
    (tmp_path / "evalsets/capitals.jsonl").write_text("".join(json.dumps(
        {"country": f"C{n}", "choices": ["Oslo", "Rome", "Lima"], "answer": int(n >= 6)}) + "\n"
        for n in range(8)))
    return tmp_path


def given(**tasks):
    return section(EvaluateParams, "evaluate", {"evaluate": COUNTS | {
        "window": 64, "batch": 1, "held_out_bytes": 200, "tasks": tasks}}).tasks


def test_a_task_of_ones_own_is_asked_scored_and_told(folder):
    known = {"pairs": "language"}
    samples = named.run(First(), given(capitals={"dimension": "knowledge"}), known)
    assert known == {"pairs": "language", "capitals": "knowledge"}
    found = named.scored("capitals", samples["capitals"])
    assert found.keys() == {"acc", "acc_norm"} and found["acc"]["value"] == 0.75 and found["acc"]["n"] == 8
    assert found["acc"]["baselines"] == {"chance": pytest.approx(1 / 3, abs=1e-6)} and found["acc"]["detectable"] > 0.1
    lines = named.told("capitals", samples["capitals"])
    assert [line["right"] for line in lines] == [1] * 6 + [0] * 2 and lines[0]["prompt"] == "The capital of C0 is"
    assert lines[0]["answer"].strip() == "Oslo"
    assert [text.strip() for text in lines[0]["options"]] == ["Oslo", "Rome", "Lima"]
    assert len(named.items(lines)) == 8


def test_fewer_items_are_chosen_by_hash(folder):
    def asked(count):
        return {line["id"] for line in named.told("capitals", named.run(
            First(), given(capitals={"dimension": "knowledge", "items": count}), {})["capitals"])}

    assert len(asked(3)) == 3 and asked(3) < asked(6) and asked(3) != {f"capitals-{n:06d}" for n in range(3)}


@pytest.mark.parametrize("tasks, known, line", [
    ({"capitals": {"dimension": "knowledge"}}, {"capitals": "x"}, "capitals is the name of another set"),
    ({"capitols": {"dimension": "knowledge"}}, {}, "evaluate.tasks.capitols: no such task in evalsets"),
])
def test_what_cannot_be_asked_is_one_line(folder, monkeypatch, tasks, known, line):
    from lm_eval import tasks as lm_tasks

    whole = lm_tasks.TaskManager      # reading lm-eval's fourteen thousand files takes twenty seconds: not needed here
    monkeypatch.setattr(lm_tasks, "TaskManager", lambda **more: whole(**more | {"include_defaults": False}))
    with pytest.raises(StageError, match=line) as error:
        named.run(First(), given(**tasks), known)
    assert "\n" not in str(error.value)


def test_data_that_is_not_there_is_one_line(folder):
    (folder / "evalsets/capitals.jsonl").unlink()
    with pytest.raises(StageError, match="evaluate.tasks.capitals cannot be asked .*hub within reach") as error:
        named.run(First(), given(capitals={"dimension": "knowledge"}), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("entry", [{}, {"dimension": "taste"}, {"dimension": "tools", "items": 1},
                                   {"dimension": "tools", "x": 1}])
def test_a_bad_entry_is_named(entry):
    with pytest.raises(ParamsError, match=r"evaluate\.tasks\.t\."):
        given(t=entry)
