"""Sets of the user's own: four lines of params to scored items; each fault names its key, or its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from lm_eval.api.model import LM

from tasks import params
from tasks.evaluate import custom, dimensions, harness

README = Path(__file__).resolve().parents[2] / "evalsets/README.md"
LINES = {
    "hellaswag": {"ctx": "A man sits", "endings": ["down.", "up.", "in.", "out."], "label": 2},
    "arc_challenge": {"question": {"stem": "Why?", "choices": [{"text": "a", "label": "1"},
                                                               {"text": "b", "label": "2"}]},
                      "answerKey": "2"},
    "openbookqa": {"question": {"stem": "The sun is", "choices": [{"text": "hot", "label": "A"},
                                                                 {"text": "cold", "label": "B"}]}, "answerKey": "A"},
    "winogrande": {"sentence": "The cup fits as _ is big.", "option1": "it", "option2": "he", "answer": "2"},
    "gsm8k": {"question": "1+1?", "answer": "one and one\n#### 1,002"},
}
ANSWERS = {"hellaswag": (2, " in."), "arc_challenge": (1, " b"), "openbookqa": (0, " hot"),
           "winogrande": (1, "The cup fits as he is big.")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the README's sets, two lines each, and its params."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalsets").mkdir()
    stated = yaml.safe_load(README.read_text().split("```yaml\n")[1].split("```")[0])["evaluate"]["custom"]
    for name, entry in stated.items():
        Path(entry["data"]).write_text(2 * (json.dumps(LINES[name]) + "\n"))
    return stated


def section(entries):
    counts = dict.fromkeys(["held_out", "pairs", "cloze", "recall", "tools", "arithmetic"], 2)
    return params.section(harness.EvaluateParams, "evaluate", {"evaluate": counts | {
        "window": 256, "batch": 4, "held_out_bytes": 300, "custom": entries}})


def test_the_readmes_examples_read_their_benchmarks_lines(folder):
    for name, given in section(folder).custom.items():
        one, other = custom.read(name, given)
        assert one["id"] != other["id"] and given.dimension in ("reasoning", "knowledge", "mathematics")
        if name == "gsm8k":
            assert (one["prompt"], one["target"]) == ("Question: 1+1?\nAnswer:", "1,002")
        else:
            assert (one["gold"], one["choices"][one["gold"]]) == ANSWERS[name]


class Oracle(LM):
    """Prefers the right choice and writes the target among other numbers."""

    def loglikelihood(self, requests):
        return [(-float(request.args[1] != request.doc["choices"][request.doc["gold"]]), True) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no custom set is scored by rolling")

    def generate_until(self, requests):
        assert all(request.args[1]["until"] == ["Question:"] for request in requests)
        return ["first 7 then 1002." if n == 0 else "1002 then 7" for n, _ in enumerate(requests)]


def test_scores_baselines_and_dimensions(folder):
    given = section(folder).custom
    tables = {name: custom.read(name, entry) for name, entry in given.items()}
    samples = harness.run_tasks(Oracle(), tables, {name: custom.task(entry) for name, entry in given.items()})
    chosen = tables | {"held_out": [{"text": "a b"}]}
    scores = {name: harness.scored(name, samples[name], tables[name], chosen, (1, 1)) for name in tables}
    assert {name: (metric, found["value"]) for name, of in scores.items() for metric, found in of.items()} == {
        "hellaswag": ("acc_norm", 1), "arc_challenge": ("acc_norm", 1), "openbookqa": ("acc_norm", 1),
        "winogrande": ("acc", 1), "gsm8k": ("exact_match", 0.5)}
    assert scores["hellaswag"]["acc_norm"]["baselines"]["chance"] == 0.25
    table = dimensions.table(samples, {name: entry.dimension for name, entry in given.items()})
    assert set(table) == {"reasoning", "knowledge", "mathematics"}
    assert table["mathematics"]["gsm8k"]["en"]["value"] == 0.5 and table["reasoning"]["hellaswag"]["en"]["n"] == 2
    told = [line for name in tables for line in harness.told(name, samples[name])]
    assert len(told) == 10 and sum(line["right"] for line in told) == 9


@pytest.mark.parametrize("metric, said, right", [
    ("exact_match", " 12 \n", 1), ("exact_match", "12.", 0), (r"regex \d+", "1 or 12", 1), (r"regex \d+", "none", 0),
    (r"regex = (\d+)", "x = 12, 13", 1)])
def test_written_answers_are_judged(metric, said, right):
    assert custom.matcher(metric)({"target": "12"}, [said]) == {"exact_match": right}


@pytest.mark.parametrize("change, line", [
    ({"metric": "f1"}, "evaluate.custom.gsm8k.metric = 'f1'"), ({"dimension": "looks"}, "gsm8k.dimension = 'looks'"),
    ({"metric": "acc"}, "metric acc: template.choices is needed"), ({"metric": "regex ("}, "does not compile"),
    ({"data": "/etc/x.jsonl"}, "put the file, or a link to it, into evalsets/"),
    ({"date": 1}, "gsm8k.date = 1: no such key"),
    ({"template": {"prompt": "{{a", "answer": "b"}}, "template.prompt = '{{a'"),
    ({"template": {"prompt": "a", "answer": "{{b}}"}}, "template.answer = '{{b}}'")])
def test_a_bad_entry_is_named(folder, change, line):
    with pytest.raises(params.ParamsError, match="params.yaml: ") as caught:
        section({"gsm8k": folder["gsm8k"] | change})
    assert line in str(caught.value)


@pytest.mark.parametrize("name", ["pairs", "Grade School"])
def test_a_bad_name_is_refused(folder, name):
    with pytest.raises(params.ParamsError, match="cannot name a set"):
        section({name: folder["gsm8k"]})


@pytest.mark.parametrize("text, line", [
    ("", "has no items"), ("{", "hellaswag_val.jsonl:1 is no JSON"), ("[1]", "the line is no object"),
    ('{"ctx": "a", "endings": ["b", "c"]}', "evaluate.custom.hellaswag.template.answer: 'label' is undefined"),
    ('{"ctx": "a", "endings": ["b"], "label": 0}', "template.choices: ['b'] where two texts"),
    ('{"ctx": "a", "endings": ["b", "c"], "label": 2}', "template.answer: 2 is no place 0 to 1"),
    ('{"endings": ["b", "c"], "label": 0}', "template.prompt: 'ctx' is undefined; the line has endings, label")])
def test_a_bad_line_is_named(folder, text, line):
    Path("evalsets/hellaswag_val.jsonl").write_text(text)
    with pytest.raises(harness.StageError) as caught:
        custom.read("hellaswag", section(folder).custom["hellaswag"])
    assert line in str(caught.value)


def test_a_template_reaches_nothing_outside_its_line(folder):
    Path("evalsets/hellaswag_val.jsonl").write_text(json.dumps(LINES["hellaswag"]))
    entry = folder["hellaswag"] | {"template": {"prompt": "{{ctx.__class__.__mro__}}", "choices": "endings",
                                                "answer": "label"}}
    with pytest.raises(harness.StageError, match="unsafe|undefined"):
        custom.read("hellaswag", section({"hellaswag": entry}).custom["hellaswag"])
