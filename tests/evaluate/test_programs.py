"""Programs: pass@k against its definition, the set's own solutions pass, what should not pass does not, and harms
nothing."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from lm_eval.api.model import LM

from tasks import params
from tasks.evaluate import custom, harness, programs
from tasks.stage import StageError

GIVEN = {"problems": 5, "samples": 2, "k": [1, 2], "temperature": 0.5, "tokens": 32, "seed": 0}
HUMANEVAL = {"task_id": "Test/0", "prompt": 'from typing import List\n\n\ndef f(x: List[int]) -> int:\n    """Sum."""\n',
             "entry_point": "f", "canonical_solution": "    return sum(x)\n",
             "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n"}
jailed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap: whole CPython is refused")


@pytest.fixture(scope="module")
def inside():
    with programs.Execution(whole=False) as execution:
        yield execution


@pytest.mark.parametrize("n, c, k", [(1, 0, 1), (1, 1, 1), (5, 2, 3), (6, 1, 2), (7, 7, 4), (8, 0, 8), (8, 5, 4)])
def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_pass(n, c, k):
    outcomes = [1] * c + [0] * (n - c)
    chosen = list(itertools.combinations(outcomes, k))
    assert programs.pass_at_k(n, c, k) == pytest.approx(sum(map(max, chosen)) / len(chosen), abs=1e-12)


def test_pass_at_k_of_too_few_samples_is_refused():
    with pytest.raises(ValueError, match="pass@3 cannot be told from 2 samples"):
        programs.pass_at_k(2, 1, 3)


def sampled(*passed):
    return [{"doc": {"document": f"p{at}"}, "passed": value} for at, of in enumerate(passed) for value in of]


def test_an_estimate_counts_problems_not_samples():
    found = programs.estimate(sampled([1, 0], [0, 0], [1, 1], [0, 0]), 1)
    assert found.value == pytest.approx(0.375) and found.n == 4
    assert found.stderr == pytest.approx((sum((x - 0.375) ** 2 for x in (0.5, 0, 1, 0)) / 3 / 4) ** 0.5)
    assert programs.estimate(sampled([1, 0], [0, 0], [1, 1], [0, 0]), 2).value == 0.5
    none = programs.estimate(sampled(*[[0, 0]] * 20), 1)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(0.161, abs=1e-3), "Wilson's of 0 in 20"


def test_the_built_in_sets_own_solutions_pass_and_trivial_ones_do_not(inside):
    problems = programs.built_in()
    assert len(problems) == 20 == len({one["id"] for one in problems}) and {one["language"] for one in problems} == {
        "en", "zh"}
    for one in problems:
        assert inside.failure(one, one["target"]) == ""
        assert inside.failure(one, "\n    pass") and inside.failure(one, programs.first_argument(one))
        assert inside.failure(one, "\n    raise SystemExit") and inside.failure(one, "\n    )")


@jailed
def test_whole_python_gives_the_built_in_set_the_same_verdicts(inside):
    with programs.Execution(whole=True) as execution:
        for one in programs.built_in()[::5]:
            for answer in (one["target"], programs.first_argument(one)):
                assert bool(execution.failure(one, answer)) == bool(inside.failure(one, answer))


ATTACKS = {"    open('stolen', 'w').write('x')": "", "    import os; os._exit(0)": "it ended before its checks",
           "    raise SystemExit(0)": "it ended before its checks",
           "    print('every check passed'); import os; os._exit(0)": "ended before its checks",
           "    return open('/etc/passwd').read()": "FileNotFoundError",
           "    import socket; socket.create_connection(('127.0.0.1', 80))": "Error",
           "    return 'x' * 10**10": "MemoryError", "    print('x' * 10**6)": "wrote more than"}


@jailed
def test_attacks_in_an_answer_fail_and_reach_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    item = programs.problem(HUMANEVAL)
    with programs.Execution(whole=True) as execution:
        assert execution.failure(item, "\n    return sum(x)") == ""
        for answer, reason in ATTACKS.items():
            assert reason in execution.failure(item, f"\n{answer}") != "", answer
        assert execution.failure(item, "\n    while True: pass").startswith("stopped after")
    assert not list(tmp_path.iterdir())


def test_without_a_sandbox_nothing_is_run_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StageError, match="code is not scored: no sandbox for model-written Python: bwrap not found; "
                                         "install bubblewrap .*or remove the pass@k sets"):
        programs.Execution(whole=True)


@jailed
def test_a_sandbox_that_does_not_start_is_no_failure_of_the_model(monkeypatch):
    with programs.Execution(whole=True) as execution:
        from tasks.jail import Finished

        monkeypatch.setattr(programs.time, "sleep", lambda seconds: None)
        ends = iter([Finished(1, "bwrap: Can't fork for pid 1\n")] * 2)
        real = execution.jail.run
        monkeypatch.setattr(execution.jail, "run", lambda code: next(ends, None) or real(code))
        assert execution.failure(programs.problem(HUMANEVAL), "\n    return sum(x)") == "", "it was tried again"
        monkeypatch.setattr(execution.jail, "run", lambda code: Finished(1, "bwrap: Can't fork for pid 1\n"))
        with pytest.raises(StageError, match="the sandbox does not start: bwrap: Can't fork"):
            execution.failure(programs.problem(HUMANEVAL), "\n    return 0")


class Writer(LM):
    """Writes the right solution to every second sample."""

    def generate_until(self, requests):
        assert all(request.args[1]["do_sample"] and request.args[1]["temperature"] == 0.5 for request in requests)
        assert len({request.doc["seed"] for request in requests}) == len(requests), "every sample has its own seed"
        return [request.doc["target"] if request.doc["id"].endswith("#1") else "\n    return None" for request in requests]

    def loglikelihood(self, requests):
        raise AssertionError

    loglikelihood_rolling = loglikelihood


def test_through_lm_eval_half_of_the_samples_pass(inside):
    asked = programs.Asked([1, 2], 32, programs.STOPS, inside)
    items = programs.repeated(programs.built_in()[:6], 2, 0)
    samples = harness.run_tasks(Writer(), {"code": items}, {"code": programs.task(asked, 0.5)})
    found = programs.scored(samples["code"], asked)
    assert {name: score["value"] for name, score in found.items()} == {"pass@1": 0.5, "pass@2": 1.0}
    assert found["pass@1"]["canonical"] == 1 and found["pass@1"]["baselines"] == {"empty_body": 0, "first_argument": 0}
    assert found["pass@1"]["samples"] == 12 and found["pass@1"]["failures"] == {"AssertionError": 6}
    told = harness.told("code", samples["code"])
    assert sum(line["right"] for line in told) == 6
    assert all(bool(line.get("reason")) != bool(line["right"]) and line["document"] in line["id"] for line in told)
    from tasks.evaluate import dimensions
    assert dimensions.table(samples, {"code": "code"})["code"]["code"]["en"]["n"] == 6


def section(entry, code=GIVEN):
    counts = dict.fromkeys(["held_out", "pairs", "safety", "cloze", "recall", "tools", "arithmetic"], 2)
    return params.section(harness.EvaluateParams, "evaluate", {"evaluate": counts | {
        "window": 256, "batch": 4, "held_out_bytes": 300, "custom": {"humaneval": entry}, "code": code}})


def test_the_readmes_entry_is_one(monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "evalsets/README.md").read_text()
    stated = yaml.safe_load(text.split("```yaml\n")[2].split("```")[0])["evaluate"]
    given = section(stated["custom"]["humaneval"], GIVEN | stated["code"]).custom["humaneval"]
    assert given.k == 10 and given.until(programs.STOPS) == programs.STOPS and given.template.tokens == 384


FOUR = {"data": "evalsets/HumanEval.jsonl", "template": {"prompt": "{{prompt}}", "answer": "canonical_solution"},
        "metric": "pass@2", "dimension": "code"}


def test_four_lines_read_humaneval(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evalsets").mkdir()
    Path("evalsets/HumanEval.jsonl").write_text(json.dumps(HUMANEVAL) + "\n")
    one, = custom.read("humaneval", section(FOUR).custom["humaneval"])
    assert (one["id"], one["prompt"] + one["target"]) == ("Test/0", HUMANEVAL["prompt"] + "    return sum(x)\n")
    assert one["prompt"].endswith('"""'), "the line's end is the model's to write"
    Path("evalsets/HumanEval.jsonl").write_text(2 * (json.dumps(HUMANEVAL) + "\n"))
    with pytest.raises(StageError, match="task_id 'Test/0' stands in two lines"):
        custom.read("humaneval", section(FOUR).custom["humaneval"])
    Path("evalsets/HumanEval.jsonl").write_text(json.dumps(HUMANEVAL | {"test": "pass"}) + "\n")
    with pytest.raises(StageError, match=r"HumanEval.jsonl:1: evaluate.custom.humaneval.template.a problem of HumanEval's "
                                         r"form: test defines no check\(candidate\)"):
        custom.read("humaneval", section(FOUR).custom["humaneval"])


@pytest.mark.parametrize("entry, code, line", [
    (FOUR | {"metric": "pass@0"}, GIVEN, "humaneval.metric = 'pass@0'"),
    (FOUR | {"metric": "pass@3"}, GIVEN, "custom.humaneval.metric: pass@3 needs code.samples of 3 at least"),
    (FOUR | {"template": FOUR["template"] | {"shots": {"count": 1, "data": "evalsets/a.jsonl", "answer": "b"}}}, GIVEN,
     "template.shots does not go with programs"),
    (FOUR, None, "custom.humaneval.metric: pass@2 needs code.samples of 2 at least"),
    (FOUR, GIVEN | {"k": [1, 4]}, "code.k: pass@4 needs code.samples of 4 at least"),
    (FOUR, GIVEN | {"temperature": 0.0}, "code.temperature = 0.0")])
def test_a_k_of_more_samples_than_are_written_is_refused(entry, code, line):
    with pytest.raises(params.ParamsError) as caught:
        section(entry, code)
    assert line in str(caught.value)
