"""Tools across libraries, against the real LangChain and smolagents: ours in their agents, theirs in our loop."""

from __future__ import annotations

import json

import pytest

from tasks.agents import loop
from tasks.agents.actions.calculator import calculator
from tasks.agents.actions.units import convert
from tasks.agents.react import ReAct
from tasks.agents.remote.langchain import from_langchain, to_langchain
from tasks.agents.remote.smolagents import from_smolagents, to_smolagents
from tasks.agents.tools import Action, ActionError
from tests.agents import scripted

CALCULATOR, CONVERT = Action.of(calculator), Action.of(convert)
BUDGET = loop.Budget(steps=4, tokens=10_000, seconds=600, turn=64)


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    if a == 13:
        raise RuntimeError("bad luck")
    return a + b


def answered(action: Action, arguments: dict) -> list[str]:
    """What our loop shows a model of a call, in a run whose model is scripted."""
    script = [scripted.call(action.name, json.dumps(arguments)), scripted.says("done")]
    with scripted.endpoint(script) as (client, requests):
        run = loop.run(client, "m", "add 2 and 3", [action], ReAct("s", examples=False, first="auto"), BUDGET)
    assert run.reason == "answered" and requests[0]["tools"] == [action.schema]
    return [event["text"] for event in run.events if event["event"] in ("result", "error")]


def test_our_actions_as_langchain_tools():
    pytest.importorskip("langchain_core", reason="langchain-core is a test dependency")
    from langchain_core.utils.function_calling import convert_to_openai_tool

    tool = to_langchain(CALCULATOR)
    assert tool.invoke({"expression": "12 * 7"}) == "84"
    assert tool.invoke({"expression": "1 / 0"}) == "division by zero", "an error is an answer"
    said = tool.invoke({"type": "tool_call", "id": "1", "name": "calculator", "args": {"expression": "rm -rf"}})
    assert said.status == "error" and "pattern" in said.content
    told = convert_to_openai_tool(to_langchain(CONVERT))["function"]
    assert told["name"] == "convert" and set(told["parameters"]["required"]) == {"value", "unit", "to"}
    assert to_langchain(CONVERT).invoke({"value": 1, "unit": "mile", "to": "km"}) == "1.609344 km"


def test_langchain_tools_as_ours():
    pytest.importorskip("langchain_core", reason="langchain-core is a test dependency")
    from langchain_core.tools import tool

    action = from_langchain(tool(add), scope="read")
    assert action.outside and action.scope == "read"
    assert answered(action, {"a": 2, "b": 3}) == ["5"]
    assert "'a' is a required" in answered(action, {"b": 3})[0]
    assert "bad luck" in answered(action, {"a": 13})[0]


def test_langchains_model_calls_our_tools():
    pytest.importorskip("langchain_openai", reason="langchain-openai is a test dependency")
    from langchain_openai import ChatOpenAI

    with scripted.endpoint([scripted.call("calculator", '{"expression": "12 * 7"}'), scripted.says("84")]
                           ) as (client, requests):
        tool = to_langchain(CALCULATOR)
        model = ChatOpenAI(model="m", base_url=str(client.base_url), api_key="none").bind_tools([tool])
        said = model.invoke("What is 12 * 7?")
        result = tool.invoke(said.tool_calls[0])
        assert model.invoke([("user", "What is 12 * 7?"), said, result]).content == "84"
    assert requests[0]["tools"][0]["function"]["parameters"]["properties"].keys() == {"expression"}
    assert requests[1]["messages"][-1]["content"] == "84"


def test_our_actions_in_a_smolagents_agent():
    pytest.importorskip("smolagents", reason="smolagents is a test dependency")
    from smolagents import LogLevel, OpenAIModel, ToolCallingAgent

    tool = to_smolagents(CALCULATOR)
    assert tool(expression="12 * 7") == "84" and tool({"expression": "12 * 7"}) == "84"
    with pytest.raises(ActionError, match="pattern"):
        tool(expression="import os")
    script = [scripted.call("calculator", '{"expression": "1 / 0"}'),
              scripted.call("calculator", '{"expression": "12 * 7"}'),
              scripted.call("final_answer", '{"answer": "84"}')]
    with scripted.endpoint(script) as (client, requests):
        model = OpenAIModel("m", api_base=str(client.base_url), api_key="none")
        agent = ToolCallingAgent([tool], model, verbosity_level=LogLevel.OFF, max_steps=4)
        assert agent.run("What is 12 * 7?") == "84"
    assert "division by zero" in json.dumps(requests[1]["messages"]), "the model is shown what went wrong"


def test_smolagents_tools_as_ours():
    pytest.importorskip("smolagents", reason="smolagents is a test dependency")
    from smolagents import tool

    action = from_smolagents(tool(add))
    assert action.scope == "write", "unless its author says otherwise"
    assert action.schema["function"]["parameters"]["required"] == ["a"]
    assert answered(action, {"a": 2, "b": 3}) == ["5"] and answered(action, {"a": 2}) == ["3"]
    assert "is not of type" in answered(action, {"a": "two"})[0] and "bad luck" in answered(action, {"a": 13})[0]


def test_there_and_back_is_the_same_tool():
    for package in ("langchain_core", "smolagents"):
        pytest.importorskip(package, reason=f"{package} is a test dependency")
    for there, back in ((to_langchain, from_langchain), (to_smolagents, from_smolagents)):
        action = back(there(CONVERT))
        assert action.name == "convert" and action.schema["function"]["description"] == \
            CONVERT.schema["function"]["description"]
        assert action.call('{"value": 1, "unit": "mile", "to": "km"}') == "1.609344 km"
        properties = action.schema["function"]["parameters"]["properties"]
        assert list(properties) == ["value", "unit", "to"] and properties["unit"]["type"] == "string"
