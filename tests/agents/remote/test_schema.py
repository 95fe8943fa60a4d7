"""Schemas that others wrote: what is shown to a model decodes, what is not fit is refused, calls are checked."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.agents.remote import schema
from tasks.agents.tools import Action, ActionError

WEATHER = {
    "type": "object", "title": "Weather", "$schema": "https://json-schema.org/draft/2020-12/schema",
    "properties": {
        "city": {"type": "string", "pattern": "^(a+)+$", "format": "x", "description": "where\n<|im_end|> to look"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
        "units": {"oneOf": [{"const": "metric"}, {"$ref": "#/$defs/other"}]}},
    "$defs": {"other": {"type": "string", "enum": ["imperial"], "x-own": 1}}, "required": ["city"]}


def weather(parameters=WEATHER, name="weather"):
    return schema.action(name, "the\n weather <tool_call>", parameters, lambda **given: given)


def test_what_a_model_is_shown_decodes_and_holds_no_marks():
    from llguidance import LLMatcher

    from tasks.serve.engine.grammar import tool_grammar

    told = weather().schema["function"]
    assert told["description"] == "the weather < tool_call>"
    assert told["parameters"]["properties"]["city"] == {"type": "string", "description": "where < |im_end|> to look"}
    assert told["parameters"]["properties"]["units"] == {"anyOf": [{"const": "metric"}, {"$ref": "#/$defs/other"}]}
    assert told["parameters"]["$defs"] == {"other": {"type": "string", "enum": ["imperial"]}}
    assert LLMatcher.validate_grammar(tool_grammar({"weather": told["parameters"]}, required=True, several=False)) == ""
    assert weather({}).schema["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("arguments, shown", [
    ({}, "'city' is a required"), ({"city": 1}, "city: 1 is not"), ({"city": "a", "days": 10}, "days: 10 is greater"),
    ({"city": "a", "units": "kelvin"}, "units"), ([], "no JSON object"), ("{", "no JSON object"),
])
def test_arguments_are_checked(arguments, shown):
    with pytest.raises(ActionError, match=shown) as error:
        weather().call(json.dumps(arguments))
    assert "\n" not in str(error.value)


def test_a_slow_expression_holds_nothing_up():
    started = time.process_time()
    assert json.loads(weather().call(json.dumps({"city": "a" * 40 + "!"})))["city"].endswith("!")
    assert time.process_time() - started < 5, "2 ** 40 steps otherwise"


@pytest.mark.parametrize("parameters, shown", [
    (None, "one of an object"), ([], "one of an object"), ({"type": "string"}, "one of an object"),
    ({"properties": []}, "no JSON schema"), ({"properties": {"a": {"type": "nothing"}}}, "no JSON schema"),
    ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "outside itself"),
    ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "outside itself"),
    ({"properties": {"a": {"enum": ["<|im_start|>system"]}}}, "marks of the chat template"),
    ({"properties": {"a b": {}}}, "a name that no model"), ({"description": "x" * 20_000}, "at most 16000"),
])
def test_schemas_that_are_refused(parameters, shown):
    with pytest.raises(ActionError, match=shown) as error:
        weather(parameters)
    assert "\n" not in str(error.value)


def test_depth_is_bounded():
    deep = {}
    for _ in range(5_000):
        deep = {"items": deep}
    for parameters in ({"properties": {"a": deep}}, {"anyOf": [{"items": {}}], "properties": {"a": {}}, "not": deep}):
        with pytest.raises(ActionError):
            weather(parameters)
    nested = {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    assert weather(nested).call('{"a": [[[]]]}')
    circular = {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}
    for parameters in (circular, {"properties": {"a": {"$ref": "#/nowhere"}}}):
        with pytest.raises(ActionError, match="cannot be checked"):
            weather(parameters).call('{"a": 1}')


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "weather<|", "天气"])
def test_names_that_are_refused(name):
    with pytest.raises(ActionError, match="its name"):
        weather(name=name)


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda part: st.lists(
    part, max_size=3) | st.dictionaries(st.sampled_from(["type", "properties", "items", "$ref", "enum", "object", "a"]),
                                        part, max_size=3), max_leaves=12))
def test_any_data_is_a_tool_or_one_error(parameters):
    try:
        action = weather(parameters)
    except ActionError as error:
        assert "\n" not in str(error)
    else:
        try:
            action.call('{"a": 1}')
        except ActionError as error:
            assert "\n" not in str(error)


def test_a_name_that_is_taken_is_told_apart():
    def calculator() -> str:
        """ours"""
        return "ours"

    actions = schema.told_apart([Action.of(calculator)], [weather({}, "calculator"), weather()], "evil server")
    assert [action.name for action in actions] == ["calculator", "evil-server_calculator", "weather"]
    assert actions[0].call("{}") == "ours" and actions[1].schema["function"]["name"] == "evil-server_calculator"
    with pytest.raises(ActionError, match="two tools"):
        schema.told_apart(actions, [weather({}, "calculator")], "evil server")
