"""The sets of evalsets/README.md ask, request by request, what lm-eval's own tasks ask, and judge as these do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from tasks import params
from tasks.evaluate import custom, harness

README = Path(__file__).resolve().parents[2] / "evalsets/README.md"
TASKS = Path(lm_eval.__file__).parent / "tasks"
ARC = [{"id": f"Mercury_{n}", "question": question, "choices": {"text": choices, "label": labels}, "answerKey": key}
       for n, (question, choices, labels, key) in enumerate([
           ("Which gas do plants take in?", ["oxygen", "carbon dioxide", "helium", "neon"], list("ABCD"), "B"),
           ("What melts first? ", ["ice", "iron", "a long bar of steel"], list("123"), "1"),
           ("Energy of a {{moving}} body?", ["kinetic", " potential"], list("AB"), "A")])]
LINES = {
    "hellaswag": [
        {"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
         "ctx": "A man is sitting on a roof. he", "split": "val", "split_type": "indomain", "label": "3",
         "endings": ["is using wrap to wrap skis.", "is ripping  level tiles off.", "is holding a cube.",
                     "starts pulling up roofing."], "source_id": "activitynet~v_-JhWjGDPHMY"},
        {"ind": 8, "activity_label": "Health", "ctx_a": "[header] How to sleep [title] Go to bed early.  [step] Do it",
         "ctx_b": "", "ctx": "", "split": "val", "split_type": "zeroshot", "label": "0", "source_id": "wikihow~1",
         "endings": [" [title] Read. [step] A book.", "Not at all [substeps].", "x", "Ärger [title] y"]}],
    "arc_easy": ARC, "arc_challenge": ARC[::-1],
    "openbookqa": [{"id": "7-980", "question_stem": stem, "choices": {"text": list(choices), "label": list("ABCD")},
                    "answerKey": key} for stem, choices, key in [
        ("The sun is responsible for", ("puppies learning", "children growing", "flowers wilting", "rain"), "C"),
        ("A stem that ends in a space ", ("one", "two two", "three", "four"), " A")]],
    "winogrande": [{"sentence": sentence, "option1": one, "option2": other, "answer": answer}
                   for sentence, one, other, answer in [
        ("Sarah was better than Maria so _ got the easier cases.", "Sarah", "Maria", "2"),
        ("The cup fits as the _ is big, not a _ of it. ", "cup", "box", "1")]],
    "gsm8k": [{"question": f"Tom has {n} eggs at ${n}. How much?", "answer": f"{n}*{n}=<<{n}*{n}={n * n}>>\n#### {n * n:,}"}
              for n in (3, 40, 5, 6)],
    "piqa": [{"goal": "Boil butter", "sol1": "Use a pan, when it's ready.", "sol2": "Use a cold pan", "label": 0},
             {"goal": "Sit", "sol1": "on a chair", "sol2": "in a chair of glass", "label": 1}],
}
TRAIN = [{"question": f"What is {n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(12)]
SPLITS = {"arc_easy": "test", "arc_challenge": "test", "openbookqa": "test", "gsm8k": "test"}
FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc"}


class Noting(LM):
    """Answers by a hash of what is asked, and notes it."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def loglikelihood(self, requests):
        self.asked += [request.args for request in requests]
        return [(-int(hashlib.sha256(repr(request.args).encode()).hexdigest()[:4], 16) / 1e3, False)
                for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no such request here")

    def generate_until(self, requests):
        self.asked += [(request.args[0], request.args[1]["until"], request.args[1].get("max_gen_toks", 256))
                       for request in requests]
        return ["#### 9", "so $1,600.", "#### 24 or #### 25", "It is 36\n#### 36."]


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """The README's sets as they are read in a working directory with their files."""
    monkeypatch.chdir(tmp_path)
    Path("evalsets").mkdir()
    for name, lines in {**LINES, "gsm8k_train": TRAIN}.items():
        Path(f"evalsets/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stated = yaml.safe_load(README.read_text().split("```yaml\n")[1].split("```")[0])["evaluate"]["custom"]
    return {name: params.section(custom.CustomSet, name, {name: entry}) for name, entry in stated.items()}


def theirs(names, folder):
    """(requests, samples by task and filter) of lm-eval's own tasks over the same files."""
    lm, samples = Noting(), {}
    for name in names:
        manager = TaskManager(include_path=str(TASKS / FOLDERS.get(name, name)), include_defaults=False)
        files = {SPLITS.get(name, "validation"): f"evalsets/{name}.jsonl"}
        train = {"train": "evalsets/gsm8k_train.jsonl"} if name == "gsm8k" else {}
        loaded = manager.load([{"group": "g", "task": [{
            "task": name, "dataset_path": "json", "dataset_name": None, "training_split": "train" if train else None,
            **({"validation_split": None} if name in SPLITS else {}),
            "dataset_kwargs": {"data_files": files | train, "cache_dir": str(folder)}}]}])
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(1234)     # what simple_evaluate does
        found = evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)["samples"][name]
        samples[name] = sorted(found, key=lambda sample: sample["doc_id"])
    return lm.asked, samples


def test_requests_and_scores_are_those_of_lm_evals_own_tasks(entries, tmp_path):
    asked, expected = theirs(entries, tmp_path / "cache")
    lm, samples = Noting(), {}
    for name, entry in entries.items():
        samples |= harness.run_tasks(lm, {name: custom.read(name, entry)}, {name: custom.task(entry)})
    assert len(asked) == len(lm.asked) == 46
    for own, other in zip(lm.asked, asked):
        assert own == other
    for name, entry in entries.items():
        metric = entry.metric if entry.metric in custom.CHOICE else "exact_match"
        kept = [one for one in expected[name] if one["filter"] in ("none", "strict-match")]
        assert [sample[metric] for sample in samples[name]] == [sample[metric] for sample in kept], name
    assert [sample["exact_match"] for sample in samples["gsm8k"]] == [1, 0, 0, 1]


def test_gsm8ks_flexible_match_is_lm_evals(entries, tmp_path):
    _, expected = theirs(["gsm8k"], tmp_path / "cache")
    metric = README.read_text().split("flexible match: `metric: '")[1].split("'`")[0]
    entry = entries["gsm8k"].model_copy(update={"metric": metric})
    samples = harness.run_tasks(Noting(), {"gsm8k": custom.read("gsm8k", entry)}, {"gsm8k": custom.task(entry)})
    kept = [one["exact_match"] for one in expected["gsm8k"] if one["filter"] == "flexible-extract"]
    assert [sample["exact_match"] for sample in samples["gsm8k"]] == kept == [1, 1, 1, 1]
