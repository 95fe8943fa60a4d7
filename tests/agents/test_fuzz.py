"""Whatever a model or its server writes, every strategy ends, with a reason, and what it keeps can be written down."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.agents import loop, planner, rewoo
from tasks.agents.actions.calculator import calculator
from tasks.agents.actions.units import convert
from tasks.agents.loop import Budget, Run
from tasks.agents.react import ReAct
from tasks.agents.text import TextClient
from tasks.agents.tools import Action
from tests.agents import scripted

BUDGET = Budget(steps=4, tokens=100_000, seconds=60, turn=64, memory=500)
REACT = ReAct("Use tools.", examples=False, first="auto")
ACTIONS = [Action.of(calculator), Action.of(convert), Action.of(calculator, "other", outside=True)]
RUNS = {
    "react": lambda client: loop.run(client, "m", "q", ACTIONS, REACT, BUDGET, state=Run()),
    "text": lambda client: loop.run(TextClient(client), "m", "q", ACTIONS, REACT, BUDGET),
    "rewoo": lambda client: rewoo.run(client, "m", "q", ACTIONS, "s", BUDGET),
    "planner": lambda client: planner.run(client, "m", "q", ACTIONS, REACT, BUDGET),
}

surrogates = st.text(st.characters(categories=["Cs", "Ll", "Cc", "Zs"]), max_size=20)
texts = st.one_of(st.text(max_size=80), surrogates, st.sampled_from([
    "", "<tool_call>", "</tool_call>", '<tool_call>{"name": "calculator"', "Action: calculator\nAction Input: {",
    "Action: calculator\nAction Input: {}}}", "Final Answer:", "#E1", "<|im_start|>system", "\x00", "[" * 50_000,
    '{"a":' * 50_000, '{"steps": ' * 3, '{"parts": null}', '{"parts": {"a": 1}}', '{"steps": [{"tool": null}]}']))
data = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | texts, lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["steps", "parts", "tool", "done", "arguments", "answer", "name", "expression", "value", "unit", "to"]), inner,
        max_size=3), max_leaves=6)
arguments = st.one_of(texts, data.map(lambda value: json.dumps(value)), st.sampled_from([
    "{}", "null", "NaN", '{"expression": "' + "9" * 1_000_000 + '"}', '{"expression": ' + "[" * 5_000,
    '{"expression": "\\ud800"}', '{"value": 1e999, "unit": "km", "to": "m"}', '{"expression": "9**9**9**9"}']))
names = surrogates | st.sampled_from(["calculator", "convert", "other", "rm", "", "calculator ", "__class__",
                                       "x" * 5_000])
calls = st.fixed_dictionaries({"id": st.one_of(st.text(max_size=5), st.none(), st.integers()),
                               "type": st.just("function"), "function": st.one_of(
    st.fixed_dictionaries({"name": names, "arguments": arguments}), data)})
messages = st.one_of(
    texts.map(scripted.says), data.map(json.dumps).map(scripted.says),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.one_of(texts, st.none(), data),
                           "tool_calls": st.one_of(st.lists(calls, max_size=6), data)}))
replies = st.one_of(messages, st.sampled_from([500, 404, 429, "", "null", "[]", "{", '{"choices": [{}]}',
                                               '{"choices": 5}',
                                               '{"choices": [{"message": null}], "usage": "many"}', "[" * 100_000]))


@pytest.fixture(scope="module")
def server():
    """(client, script): the replies of one scripted server, put in by each example; the last one for ever."""
    script: list = []
    with scripted.endpoint(lambda _: script.pop(0) if len(script) > 1 else script[0]) as (client, requests):
        yield client, script, requests


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(replies, min_size=1, max_size=4))
def test_any_reply_ends_with_a_reason(server, name, script):
    client, held, requests = server
    held[:] = script
    requests.clear()
    run = RUNS[name](client)
    assert run.reason and run.events[-1] == {"event": "end", "reason": run.reason, "answer": run.answer}
    assert (run.answer is not None) == (run.reason == "answered")
    kept = json.dumps(run.saved(), ensure_ascii=False).encode()     # a lone surrogate could not be written
    assert len(kept) < 400_000, "what is huge is not kept"
    assert Run(**json.loads(kept)).saved() == run.saved()
    assert len(requests) <= 30 and all(len(json.dumps(request)) < 200_000 for request in requests)


@given(st.text(max_size=300) | surrogates, st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_what_is_kept_of_a_text_can_be_written(text, limit):
    kept = loop.whole(text, limit)
    assert len(kept) <= limit and kept.encode().decode() == kept
    assert loop.whole(text, limit, "no") == ("no" if len(text) > limit else kept)


def test_a_tool_that_breaks_is_told_to_the_model():
    def breaks() -> str:
        """breaks"""
        raise OSError("disk\nfull")

    def gives(text: str) -> str:
        """gives"""
        return "half a pair: \ud83d"

    script = [scripted.call("breaks", "{}"), scripted.call("gives", '{"text": "x"}'), scripted.says("done")]
    with scripted.endpoint(script) as (client, requests):
        run = loop.run(client, "m", "q", [Action.of(breaks), Action.of(gives)], REACT, BUDGET)
    assert run.answer == "done"
    assert [event["text"] for event in run.events if event["event"] in ("error", "result")] == [
        "error: breaks: OSError disk full", "half a pair: ?"]
