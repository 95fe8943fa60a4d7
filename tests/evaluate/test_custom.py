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
CHOICES = {"text": ["a", "b"], "label": ["1", "2"]}
LINES = {
    "hellaswag": {"activity_label": "Sitting", "ctx_a": "A man sits.", "ctx_b": "he", "label": "2",
                  "endings": ["is down.", "is up.", "is in.", "is out."]},
    "arc_easy": {"question": "Why?", "choices": CHOICES, "answerKey": "2"},
    "arc_challenge": {"question": "Why?", "choices": CHOICES, "answerKey": "1"},
    "openbookqa": {"question_stem": "The sun is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]},
                   "answerKey": "A"},
    "winogrande": {"sentence": "The cup fits as _ is big.", "option1": "it", "option2": "he", "answer": "2"},
    "gsm8k": {"question": "1+1?", "answer": "one and one\n#### 1,002"},
    "piqa": {"goal": "Sit", "sol1": "on it", "sol2": "in it", "label": 1},
}
ANSWERS = {"hellaswag": (2, "is in."), "arc_easy": (1, "b"), "arc_challenge": (0, "a"), "openbookqa": (0, "hot"),
           "winogrande": (1, "The cup fits as he"), "piqa": (1, "in it")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the README's sets, two lines each, and its params."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalsets").mkdir()
    stated = yaml.safe_load(README.read_text().split("```yaml\n")[1].split("```")[0])["evaluate"]["custom"]
    for name, entry in stated.items():
        Path(entry["data"]).write_text(2 * (json.dumps(LINES[name]) + "\n"))
    Path("evalsets/gsm8k_train.jsonl").write_text("".join(
        json.dumps({"question": f"{n}?", "answer": f"It is\n#### {n}"}) + "\n" for n in range(9)))
    return stated


def section(entries):
    counts = dict.fromkeys(["held_out", "pairs", "safety", "cloze", "recall", "tools", "arithmetic"], 2)
    return params.section(harness.EvaluateParams, "evaluate", {"evaluate": counts | {
        "window": 256, "batch": 4, "held_out_bytes": 300, "custom": entries}})


def test_the_readmes_examples_read_their_benchmarks_lines(folder):
    for name, given in section(folder).custom.items():
        one, other = custom.read(name, given)
        assert one["id"] != other["id"] and given.dimension in ("reasoning", "knowledge", "mathematics")
        if name == "gsm8k":
            assert one["prompt"].endswith("\n\nQuestion: 1+1?\nAnswer:") and one["target"] == "1,002"
            assert one["prompt"].count("?\nAnswer: It is\n#### ") == 5 and one["prompt"] != other["prompt"]
        else:
            assert (one["gold"], one["choices"][one["gold"]]) == ANSWERS[name]


class Oracle(LM):
    """Prefers the right choice and writes the target among other numbers."""

    def loglikelihood(self, requests):
        return [(-float(request.doc["choices"][request.doc["gold"]] not in request.args), True)
                if "then" in request.doc else
                (-float(request.args[1] != " " + request.doc["choices"][request.doc["gold"]]), True)
                for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no custom set is scored by rolling")

    def generate_until(self, requests):
        assert all(request.args[1]["until"][0] == "Question:" for request in requests)
        return ["7\n#### $1002." if n == 0 else "#### 7\n#### 1002" for n, _ in enumerate(requests)]


def test_scores_baselines_and_dimensions(folder):
    given = section(folder).custom
    tables = {name: custom.read(name, entry) for name, entry in given.items()}
    samples = harness.run_tasks(Oracle(), tables, {name: custom.task(entry) for name, entry in given.items()})
    chosen = tables | {"held_out": [{"text": "a b"}]}
    scores = {name: harness.scored(name, samples[name], tables[name], chosen, (1, 1)) for name in tables}
    assert {name: (metric, found["value"]) for name, of in scores.items() for metric, found in of.items()} == {
        "hellaswag": ("acc_norm", 1), "arc_easy": ("acc_norm", 1), "arc_challenge": ("acc_norm", 1),
        "openbookqa": ("acc_norm", 1), "winogrande": ("acc", 1), "piqa": ("acc_norm", 1), "gsm8k": ("exact_match", 0)}
    assert scores["hellaswag"]["acc_norm"]["baselines"]["chance"] == 0.25
    table = dimensions.table(samples, {name: entry.dimension for name, entry in given.items()})
    assert set(table) == {"reasoning", "knowledge", "mathematics"}
    assert table["mathematics"]["gsm8k"]["en"]["value"] == 0 and table["reasoning"]["hellaswag"]["en"]["n"] == 2
    told = [line for name in tables for line in harness.told(name, samples[name])]
    assert len(told) == 14 and sum(line["right"] for line in told) == 12


@pytest.mark.parametrize("metric, said, right", [
    ("exact_match", " 12 \n", 1), ("exact_match", "12.", 0), (r"regex \d+", "1 or 12", 1), (r"regex \d+", "none", 0),
    (r"regex = (\d+)", "x = 12, 13", 1), (r"regex_first \d+", "12 or 1", 1), (r"regex_first \d+", "1 or 12", 0),
    (r"regex (\$)?x|(\d+)", "12", 1), (r"regex .+", "$12", 1)])
def test_written_answers_are_judged(metric, said, right):
    assert custom.matcher(metric, [r"\$"])({"target": "12"}, [said]) == {"exact_match": right}


@pytest.mark.parametrize("change, line", [
    ({"metric": "f1"}, "evaluate.custom.gsm8k.metric = 'f1'"), ({"dimension": "looks"}, "gsm8k.dimension = 'looks'"),
    ({"metric": "acc"}, "metric acc: template.choices is needed"), ({"metric": "regex ("}, "does not compile"),
    ({"template": {"prompt": "a", "answer": "b", "ignore": ["("]}}, "template.ignore = ['(']"),
    ({"metric": "acc_norm", "template": {"prompt": "", "answer": "b", "choices": "c", "then": "d"}},
     "metric acc_norm: template.then goes with acc"),
    ({"template": {"prompt": "a", "answer": "b", "shots": {"count": 1, "data": "x.jsonl"}}}, "into evalsets/"),
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
    ("", "has no items"), ("{", "piqa.jsonl:1 is no JSON"), ("[1]", "the line is no object"),
    ('{"goal": "a", "sol1": "b", "sol2": "c"}', "evaluate.custom.piqa.template.answer: 'label' is undefined"),
    ('{"goal": "a", "sol1": "", "sol2": "c", "label": 0}', "template.choices: ['', 'c'] where two texts"),
    ('{"goal": "a", "sol1": "b", "sol2": "c", "label": 2}', "template.answer: 2 is no place 0 to 1"),
    ('{"sol1": "b", "sol2": "c", "label": 0}', "template.prompt: 'goal' is undefined; the line has label, sol1")])
def test_a_bad_line_is_named(folder, text, line):
    Path("evalsets/piqa.jsonl").write_text(text)
    with pytest.raises(harness.StageError) as caught:
        custom.read("piqa", section(folder).custom["piqa"])
    assert line in str(caught.value)


def test_a_template_reaches_nothing_outside_its_line(folder):
    entry = folder["hellaswag"] | {"template": {"prompt": "{{ctx_a.__class__.__mro__}}", "choices": "endings",
                                                "answer": "label"}}
    with pytest.raises(harness.StageError, match="unsafe|undefined"):
        custom.read("hellaswag", section({"hellaswag": entry}).custom["hellaswag"])


def test_examples_must_be_enough_and_a_question_is_none_of_its_own(folder):
    template = folder["gsm8k"]["template"]
    few = folder["gsm8k"] | {"template": template | {"shots": {"count": 9, "data": "evalsets/gsm8k_train.jsonl"}}}
    with pytest.raises(harness.StageError, match="shots.count: 9 examples .* has 9 lines"):
        custom.read("gsm8k", section({"gsm8k": few}).custom["gsm8k"])
    own = few | {"data": "evalsets/gsm8k_train.jsonl",
                 "template": template | {"shots": {"count": 8, "data": "evalsets/gsm8k_train.jsonl"}}}
    for at, found in enumerate(custom.read("gsm8k", section({"gsm8k": own}).custom["gsm8k"])):
        assert found["prompt"].count(f"Question: {at}?") == 1 and found["prompt"].count("Question: ") == 9
    broken = few | {"template": template | {"shots": {"count": 2, "data": "evalsets/gsm8k_train.jsonl",
                                                      "answer": "solution"}}}
    with pytest.raises(harness.StageError, match=r"gsm8k_train.jsonl:\d: .*shots.answer: 'solution' is undefined"):
        custom.read("gsm8k", section({"gsm8k": broken}).custom["gsm8k"])
