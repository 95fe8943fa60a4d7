"""The agent stage over a scripted server: what it scores, keeps and refuses; and the check of answers."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from tasks import exercises, params
from tasks.agents import floor, smoke
from tasks.agents.actions.calculator import calculator
from tasks.agents.tools import Action
from tasks.agents.trials import PLAIN, Trial, passes, read_trials
from tasks.data.evalsets import exercise_items, write
from tasks.serve.client import ServerError
from tasks.stage import StageError
from tests.agents import scripted


SECTION = smoke.AgentsParams(arithmetic=6, python=2, lookup=1, system="s", plain_system="p", examples=False,
                             first="required", calls=1, turn=32, seconds=30.0)
RUNTIME = params.Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=1,
                         api_key=None, log_level="INFO", hostfile=None)


@pytest.fixture
def folder(tmp_path):
    sets, corpus = tmp_path / "sets", tmp_path / "corpus"
    sets.mkdir()
    corpus.mkdir()
    write(sets / "arithmetic.jsonl", exercise_items(exercises.arithmetic(9, "held_out", 0)))
    write(sets / "tools.jsonl", exercise_items(exercises.tool_calls(12, "held_out", 0)))
    write(sets / "lookup.jsonl", [{"id": "lookup-1", "question": "What does Engine.dispose() do?", "query": "x",
                                   "answer": "Close every pooled connection"}])
    document = {"id": "d", "text": "Engine.dispose() Close every pooled connection."}
    (corpus / "0.jsonl").write_text(json.dumps(document))
    return tmp_path


def clever(request):
    """A model that calls the calculator on a sum it is asked, copies a result, and without tools says nothing."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        return scripted.says(f"The answer is {last['content']}.")
    found = re.fullmatch(r".*?(\d+) ([-+*]) (\d+).*", last["content"])
    if "tools" not in request:
        return scripted.says("I do not know.")
    if found:
        return scripted.call("calculator", json.dumps({"expression": " ".join(found.groups())}))
    return scripted.call("search", json.dumps({"query": last["content"][:60]}))


@pytest.fixture
def served(monkeypatch):
    """The stage's server replaced by a scripted one."""
    @contextlib.contextmanager
    def running(model, *, threads, slots):
        with scripted.endpoint(clever) as (client, _):
            yield str(client.base_url)
    monkeypatch.setattr(smoke.client, "running", running)
    monkeypatch.setattr(smoke.stage, "write_timing", lambda name, value: None)


def run(folder, section=SECTION):
    smoke.agents(folder / "m" / "onnx", folder / "corpus", folder / "sets", folder / "t.jsonl", folder / "m.json",
                 agents=section, seed=0, runtime=RUNTIME)
    return json.loads((folder / "m.json").read_text()), (folder / "t.jsonl").read_bytes()


def test_scores_and_transcripts(folder, served):
    found, transcripts = run(folder)
    lines = [json.loads(line) for line in transcripts.splitlines()]
    trials = read_trials(folder / "sets", {"arithmetic": 6, "python": 2, "lookup": 1})
    written = sum(bool(re.search(r"\d [-+*] \d", t.question)) for t in trials if t.family == "arithmetic")
    assert found["families"]["arithmetic"]["with_tools"]["value"] == pytest.approx(written / 6, abs=1e-6)
    assert found["families"]["lookup"]["with_tools"]["value"] == 1
    assert found["without_tools"]["value"] == 0
    assert found["difference"]["value"] == pytest.approx(found["with_tools"]["value"])
    assert found["calls"]["made"] == len(trials) == found["calls"]["done"]
    assert len(lines) == 2 * len(trials) and all(line["events"][-1]["event"] == "end" for line in lines)
    assert sum(line["passed"] for line in lines) == round(found["with_tools"]["value"] * len(trials))
    assert run(folder)[1] == transcripts, "the same run writes the same bytes"


def test_random_calls_solve_next_to_nothing(folder):
    trials = [trial for trial in read_trials(folder / "sets", {"arithmetic": 6, "python": 0, "lookup": 0})
              if trial.family == "arithmetic"]
    assert floor.random_rate(trials, [Action.of(calculator)], passes, ["x"], 0) <= 0.02
    always = [Trial("a", "plain", "?", "0|1|2|3|4|5|6|7|8|9")]
    assert floor.random_rate(always, [Action.of(calculator)], passes, ["x"], 0) == 1


@pytest.mark.parametrize("trial, answer, right", [
    (Trial("", "arithmetic", "12 + 30?", "42"), "The answer is 42.", True),
    (Trial("", "arithmetic", "12 + 30?", "42"), "142", False),
    (Trial("", "arithmetic", "12 + 30?", "42"), "420", False),
    (Trial("", "arithmetic", "9 * 999?", "8991"), "It is 8,991.", True),
    (Trial("", "arithmetic", "1 - 3?", "-2"), "-2", True),
    (Trial("", "arithmetic", "1 - 3?", "-2"), "2", False),
    (Trial("", "lookup", "Version?", "2.0.2"), "Added in 2.0.2.", True),
    (Trial("", "lookup", "刘备的字是什么？", "玄德"), "字玄德。", True),
    (Trial("", "lookup", "What does f() do?", "Return all materialized view names"),
     "f() returns all the materialized view names.", True),
    (Trial("", "lookup", "What does f() do?", "Return all materialized view names"), "It names all.", False),
    (Trial("", "plain", "Days?", "7|seven"), "There are Seven days.", True),
    (Trial("", "plain", "Days?", "7|seven"), None, False),
    (Trial("", "plain", "Days?", "7|seven"), "", False),
])
def test_check(trial, answer, right):
    assert passes(trial, answer) is right


def test_the_question_alone_never_passes(folder):
    write(folder / "sets/tools.jsonl", exercise_items(exercises.tool_calls(40, "held_out", 0, ["python"])))
    trials = read_trials(folder / "sets", {"arithmetic": 9, "python": 40, "lookup": 1})
    assert 14 + 10 < len(trials) < 14 + 40, "the largest of three is said in its question"
    for trial in trials:
        assert not passes(trial, trial.question), trial
    assert len(PLAIN) == 4


def test_bad_input_in_one_line(folder, served, monkeypatch):
    with pytest.raises(StageError, match="has 9 tasks of arithmetic, 50 are asked"):
        run(folder, SECTION.model_copy(update={"arithmetic": 50}))
    (folder / "corpus/0.jsonl").write_text("{")
    with pytest.raises(StageError, match="0.jsonl:1 is no document"):
        run(folder)
    (folder / "corpus/0.jsonl").write_text('{"id": "a", "text": "b"}')
    (folder / "sets/lookup.jsonl").write_text("{")
    with pytest.raises(StageError, match="lookup.jsonl cannot be read"):
        run(folder)
    write(folder / "sets/lookup.jsonl", [{"id": "1", "question": "q", "answer": "a"}])

    @contextlib.contextmanager
    def down(model, *, threads, slots):
        raise ServerError("the server ended: no model.onnx")
        yield

    monkeypatch.setattr(smoke.client, "running", down)
    with pytest.raises(StageError, match="no model.onnx"):
        run(folder)
    assert not (folder / "t.jsonl").exists()


def test_a_failing_server_fails_the_stage(folder, monkeypatch):
    @contextlib.contextmanager
    def running(model, *, threads, slots):
        with scripted.endpoint([500]) as (client, _):
            yield str(client.base_url)
    monkeypatch.setattr(smoke.client, "running", running)
    monkeypatch.setattr(smoke, "OpenAI", lambda **given: scripted.OpenAI(**given | {"max_retries": 0}))
    with pytest.raises(StageError, match="runs were cut off .the server failed: InternalServerError"):
        run(folder)
