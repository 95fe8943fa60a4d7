"""`./run adapt`: wrong task sets end in one line, and a tiny random model goes the whole way by real processes."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from flows import adapt, decisions, taskset, trial, way
from flows.taskset import TaskSetError
from tasks import stage
from tasks.finetune import tune
from tests.serve import tiny

TOOL = {"type": "function", "function": {"name": "route", "description": "send to a queue", "parameters": {
    "type": "object", "properties": {"queue": {"type": "string", "enum": ["fox", "dog"]}}, "required": ["queue"],
    "additionalProperties": False}}}
WORDS = "one two three four five six seven eight nine ten eleven twelve red blue green cat hat sun moon tea".split()


def values(**changed):
    items = [{"question": f"The {word} {animal} came today", "call": {"name": "route", "arguments": {"queue": animal}}}
             for word in WORDS[:10] for animal in ("fox", "dog")]
    return {"name": "animals", "system": "", "metric": "call", "target": 0.9, "tools": [TOOL], "items": items,
            "budget": {"memory_gib": 8, "minutes": 60}, "candidates": ["tiny"]} | changed


def written(folder: Path, **changed) -> Path:
    file = folder / "set.yaml"
    file.write_text(yaml.safe_dump(values(**changed)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random chat model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.write_chat(folder)
    return folder


def conversation(question: str, queue: str) -> str:
    call = {"type": "function", "function": {"name": "route", "arguments": {"queue": queue}}}
    return json.dumps({"messages": [{"role": "user", "content": question},
                                    {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": [TOOL]})


@pytest.mark.parametrize("changed, shown", [
    ({"items": []}, "items = []"), ({"target": 1.5}, "target = 1.5"), ({"target": 0}, "target = 0"),
    ({"name": "a/b"}, "name = 'a/b'"), ({"metric": "exact", "tools": []}, "has no `expected`"),
    ({"items": [{"question": "q"}] * 9}, "has no `call`"), ({"candidates": []}, "candidates = []"),
    ({"tools": ["telephone"]}, "no action 'telephone'"), ({"unknown": 1}, "no such key"),
    ({"patience": -1}, "patience = -1"),
    ({"budget": {"memory_gib": -1, "minutes": 1}}, "budget.memory_gib = -1"), ({"tools": []}, "not among `tools`"),
    ({"metric": "regex", "tools": [], "items": [{"question": f"q{n}", "expected": "("} for n in range(9)]},
     "no pattern"),
    ({"items": values()["items"] + values()["items"][:1]}, "asks what an earlier one asks"),
])
def test_wrong_task_sets_are_one_line(tmp_path, changed, shown):
    with pytest.raises(TaskSetError) as caught:
        taskset.read(written(tmp_path, **changed))
    assert shown in str(caught.value) and "\n" not in str(caught.value) and "set.yaml" in str(caught.value)


@pytest.mark.parametrize("content, shown", [
    (b"name: [", "not readable YAML"), (b"- 1", "must be a mapping"), ("name: café".encode("latin-1"), "not UTF-8"),
    (None, "cannot be read"), (b"", "must be a mapping")])
def test_a_file_that_is_no_task_set(tmp_path, content, shown):
    file = tmp_path / "set.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TaskSetError, match=shown):
        taskset.read(file)


def test_training_data_with_a_question_of_the_trial_is_refused_by_name(tmp_path):
    given = taskset.read(written(tmp_path, training="learn.jsonl"))
    asked = given.part(True)[0].question
    data = tmp_path / "learn.jsonl"
    for text in (asked, asked.upper() + "!", asked + " again"):
        data.write_text(conversation("Nothing alike at all", "fox") + "\n" + conversation(text, "fox") + "\n")
        with pytest.raises(TaskSetError, match="learn.jsonl:2 asks .*" + asked.split()[1]):
            taskset.training(tmp_path / "set.yaml", given)
    data.write_text(conversation("Nothing alike at all", "fox") + "\n")
    assert len(taskset.training(tmp_path / "set.yaml", given)) == 1


@pytest.mark.parametrize("line, shown", [
    ("{", "learn.jsonl:1 is no conversation"), ('{"messages": []}', "is no conversation"), ("", "is empty"),
    ('{"messages": [{"role": "robot", "content": "x"}]}', "a role is not"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "nothing to learn"),
    ('{"question": "x"}', "no `call`, which metric call compares with"), ('{"question": ""}', "question = ''"),
    ('{"question": "x", "call": {"name": "route"}}', "is neither a conversation nor an item: .*arguments"),
    ("[1]", "is neither a conversation nor an item"), ('{"asked": "x"}', "question is missing")])
def test_broken_training_data_is_one_line(tmp_path, line, shown):
    given = taskset.read(written(tmp_path, training="learn.jsonl"))
    (tmp_path / "learn.jsonl").write_text(line)
    with pytest.raises(TaskSetError, match=shown):
        taskset.training(tmp_path / "set.yaml", given)


def test_a_line_of_training_may_be_an_item(tmp_path):
    given = taskset.read(written(tmp_path, training="learn.jsonl", system="Route it."))
    item = {"question": "Nothing alike at all", "call": {"name": "route", "arguments": {"queue": "fox"}}}
    (tmp_path / "learn.jsonl").write_text(json.dumps(item) + "\n")
    [made] = taskset.training(tmp_path / "set.yaml", given)
    assert [m["role"] for m in made["messages"]] == ["system", "user", "assistant"] and made["tools"] == [TOOL]
    assert made["messages"][2]["tool_calls"][0]["function"] == item["call"]


def test_the_committed_example_is_what_its_script_makes(tmp_path):
    folder = Path(__file__).resolve().parents[2] / "examples"
    names = runpy.run_path(str(folder / "shop.py"), run_name="shop")
    names["main"].__globals__["HERE"] = tmp_path
    names["main"]()
    for name in ("shop.yaml", "shop.jsonl"):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), "python examples/shop.py makes it anew"
    assert len(taskset.training(folder / "shop.yaml", taskset.read(folder / "shop.yaml"))) == 640


@pytest.mark.parametrize("metric, expected, right, wrong", [
    ("exact", "Paris", "paris.", "In Paris"), ("contains", "42", "It is 42, I think", "It is 420"),
    ("number", "1200", "1,200 km", "12000"), ("regex", r"^\d+ km$", "12 km", "12 kms")])
def test_metrics(metric, expected, right, wrong):
    items = [{"question": f"q {word}", "expected": expected} for word in WORDS]
    given = taskset.TaskSet.model_validate(values(metric=metric, tools=[], items=items))
    item = given.items[0]
    assert given.passes(item, right, []) and not given.passes(item, wrong, []) and not given.passes(item, None, [])


def test_calls_are_compared_whole():
    given = taskset.TaskSet.model_validate(values())
    item = given.items[0]
    assert given.passes(item, None, [("route", '{"queue": "fox"}')])
    for call in (("route", '{"queue": "dog"}'), ("route", '{"queue": "fox", "n": 1}'), ("go", '{"queue": "fox"}'),
                 ("route", "{")):
        assert not given.passes(item, None, [call])


@pytest.mark.parametrize("changed, shown", [({"candidates": ["nosuch"]}, "'nosuch' is neither a track"),
                                            ({"items": []}, "items")])
def test_the_command_line_ends_in_one_line_and_2(tmp_path, monkeypatch, capsys, changed, shown):
    monkeypatch.setattr(sys, "argv", ["adapt", str(written(tmp_path, **changed))])
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert adapt.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and shown in said and said.count("\n") == 1


def test_no_memory_for_any_method_is_one_line(tmp_path, model, monkeypatch):
    monkeypatch.setattr(way.trial, "ask", lambda _, given, items, *__: [trial.Outcome(False, "", [])] * len(items))
    file = written(tmp_path, candidates=[str(model)], budget={"memory_gib": 0.01, "minutes": 9})
    with pytest.raises(TaskSetError, match="budget: no method fits 0.01 GiB .* the smallest need is"):
        adapt.run(file, root=tmp_path)


def test_a_node_is_kept_until_its_inputs_or_its_artifact_change(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "thing").write_text("x")
        return {"choice": "a", "reason": "b", "artifact": "thing"}

    decisions.Decisions(tmp_path).node("one", {"x": 1}, make)
    decisions.Decisions(tmp_path).node("one", {"x": 1}, make)
    assert len(made) == 1
    (tmp_path / "thing").unlink()
    decisions.Decisions(tmp_path).node("one", {"x": 1}, make)
    decisions.Decisions(tmp_path).node("one", {"x": 2}, make)
    assert len(made) == 3
    (tmp_path / "decisions.json").write_text("{broken")
    decisions.Decisions(tmp_path).node("one", {"x": 2}, make)
    assert len(made) == 4


def test_a_tiny_model_goes_the_whole_way(tmp_path, model, monkeypatch):
    """Untuned it is at a low target; so it is quantized, deployed, and answers over HTTP; again, nothing is done."""
    file, seen = written(tmp_path, target=0.05, candidates=[str(model)]), []
    link = adapt.run(file, lambda entry, kept: seen.append((entry["node"], entry["choice"], kept)), tmp_path)
    assert [node for node, _, _ in seen] == ["contamination", "candidate", "gap", "quantize", "deploy", "smoke"], seen
    assert ("gap", "none", False) in seen and link.is_symlink() and (link / "config.json").is_file()
    record = json.loads((link.parent / "decisions.json").read_text(encoding="utf-8"))
    assert all(entry["reason"] and entry["inputs"] for entry in record)
    again = []
    monkeypatch.setattr(way.trial, "ask", lambda *_: pytest.fail("asked again"))
    adapt.run(file, lambda entry, kept: again.append(kept), tmp_path)
    assert all(again)


def here(command: list[str], _: Path) -> None:
    """The tuning job in this process: what it computes is the same, torch is loaded already."""
    job = tune.Job.model_validate_json(Path(command[-1]).read_text(encoding="utf-8"))
    stage.execute(tune.tune, {"base": ("input", Path(job.base)), "conversations": ("input", Path(job.conversations)),
                              "model": ("output", Path(job.model)), "metrics": ("output", Path(job.metrics))},
                  {"tune": job.tune, "seed": job.seed, "resume": Path(job.resume), "runtime": tiny.RUNTIME})


def test_a_trial_that_is_failed_goes_on_with_the_next_method_and_deploys_nothing(tmp_path, model, monkeypatch):
    """Every method is trained for real; the trial's answers are given here: none is ever right."""
    monkeypatch.setattr(way.trial, "ask", lambda _, given, items, *__: [trial.Outcome(False, "", [])] * len(items))
    monkeypatch.setattr(way.making, "started", here)
    seen = {}
    with pytest.raises(way.NotReached, match="full: 0.000 is below the target .*; lora: .*; qlora: .* includes none"):
        adapt.run(written(tmp_path, candidates=[str(model)], patience=3),
                  lambda entry, _: seen.update({entry["node"]: entry}), tmp_path)
    for number, kind in enumerate(("full", "lora", "qlora"), 1):
        made = seen[f"tune {number}"]
        assert made["choice"] == f"tuned-{kind}" and seen[f"trial {number}"]["choice"] == "failed"
        assert made["numbers"]["loss after"]["given"] < made["numbers"]["loss before"]["given"]
        assert (tmp_path / f"animals/tuned-{kind}/model.safetensors").is_file()
        assert json.loads((tmp_path / f"animals/tuned-{kind}.json").read_text())["kept_step"] > 0
    assert not (tmp_path / "animals/deployed").exists()


def with_actions(folder: Path, model: Path, target: float) -> Path:
    """A task set of sums with the calculator, which the tiny model cannot do: its answers are given by the tests."""
    items = [{"question": f"What is {number} plus {word}?", "expected": str(number)} for number, word in
             enumerate(WORDS[:16], 100)]
    return written(folder, metric="number", tools=["calculator"], items=items, target=target, candidates=[str(model)])


def acted(rate: float):
    """In place of trial.ask: with tools this share of the items is right, after a call; without, none."""
    def ask(_, given, items, tools, *__):
        outcomes = []
        for number, item in enumerate(items):
            right = tools and number < rate * len(items)
            asked = {"name": "calculator", "arguments": '{"expression": "1"}'}
            outcomes.append(trial.Outcome(right, "It is 1", [
                {"role": "user", "content": item.question},
                {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": asked}]},
                {"role": "tool", "tool_call_id": "1", "content": "1"}, {"role": "assistant", "content": "It is 1"}]))
        return outcomes
    return ask


def test_tools_that_suffice_are_tried_on_the_held_out_half_and_nothing_is_tuned(tmp_path, model, monkeypatch):
    monkeypatch.setattr(way.trial, "ask", acted(1.0))
    monkeypatch.setattr(adapt, "tuned", lambda *_: pytest.fail("tuned all the same"))
    monkeypatch.setattr(adapt, "compress", lambda way, model, tools: (model, tools))
    monkeypatch.setattr(adapt, "deploy", lambda way, made, _: made)
    seen = {}
    got = adapt.run(with_actions(tmp_path, model, 0.8), lambda entry, _: seen.update({entry["node"]: entry}), tmp_path)
    assert got == (model, True) and seen["tools"]["choice"] == "with" and seen["trial 0"]["choice"] == "passed"
    assert seen["trial 0"]["numbers"]["gain"]["low"] > 0 and seen["trial 0"]["numbers"]["untuned"]["value"] == 0
    assert "method" not in seen


def test_tools_that_help_but_do_not_suffice_teach_the_runs_that_ended_right(tmp_path, model, monkeypatch):
    """What is learned is the agent's own right runs, calls and all; the tuning is real."""
    monkeypatch.setattr(way.trial, "ask", acted(0.6))
    monkeypatch.setattr(way.making, "started", here)
    monkeypatch.setattr(way.planner, "recommend", lambda plans, _=None: plans[:1])
    seen = {}
    with pytest.raises(way.NotReached, match="full: 0.[56]"):
        adapt.run(with_actions(tmp_path, model, 0.8), lambda entry, _: seen.update({entry["node"]: entry}), tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "animals/agent.jsonl").read_text().splitlines()]
    right = seen["tools"]["numbers"]["agent conversations"]
    assert "trial 0" not in seen and right == len(kept) >= 3
    assert all(one["messages"][1]["tool_calls"] and one["tools"][0]["function"]["name"] == "calculator" for one in kept)
    made = seen["tune 1"]["numbers"]
    assert made["loss after"]["given"] < made["loss before"]["given"]


@pytest.mark.parametrize("scores, chosen, reason", [
    ({"small": 0, "big": 9}, "big", "scores"), ({"small": 4, "big": 5}, "small", "not told apart from")])
def test_the_smallest_of_those_not_told_apart_is_chosen(tmp_path, model, monkeypatch, scores, chosen, reason):
    big = tmp_path / "big"
    shutil.copytree(model, big)
    config = json.loads((big / "config.json").read_text())
    (big / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))  # counted, never loaded here
    small = tmp_path / "small"
    shutil.copytree(model, small)
    monkeypatch.setattr(way.trial, "ask", lambda place, given, items, *_: [
        trial.Outcome(n < scores[place.name], "", []) for n, _ in enumerate(items)])
    monkeypatch.setattr(adapt, "gap", lambda *_: pytest.fail("seen enough"))
    seen = {}
    with pytest.raises(pytest.fail.Exception):
        adapt.run(written(tmp_path, candidates=[str(big), str(small)]),
                  lambda entry, _: seen.update({entry["node"]: entry}), tmp_path)
    assert seen["candidate"]["choice"].endswith(chosen) and reason in seen["candidate"]["reason"]


def test_a_candidate_that_uses_its_tools_is_preferred_to_a_smaller_one_that_cannot(tmp_path, model, monkeypatch):
    able = tmp_path / "able"
    shutil.copytree(model, able)
    config = json.loads((able / "config.json").read_text())
    (able / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    asked = acted(1.0)
    monkeypatch.setattr(way.trial, "ask", lambda place, given, items, tools, *_: asked(
        place, given, items, tools and place.name == "able"))
    monkeypatch.setattr(adapt, "gap", lambda *_: pytest.fail("seen enough"))
    seen = {}
    file = with_actions(tmp_path, model, 0.8)
    given = yaml.safe_load(file.read_text()) | {"candidates": [str(model), str(able)]}
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(pytest.fail.Exception):
        adapt.run(file, lambda entry, _: seen.update({entry["node"]: entry}), tmp_path)
    made = seen["candidate"]
    assert made["choice"] == str(able) and "with its tools" in made["reason"]
    assert made["numbers"]["with tools"][str(able)] == 1 and made["numbers"][str(able)]["value"] == 0
