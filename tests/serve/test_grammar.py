"""Under a grammar even a random model says nothing but whole calls: uniform random tokens through the masks."""

import json

import jsonschema
import numpy as np
import pytest

from tasks.chat import CALL_END, CALL_START, call_text, parse_call
from tasks.serve.engine.grammar import GrammarError, Grammars, bounded, schema_grammar, tool_grammar
from tasks.serve.engine.text import Vocabulary

TOOLS = {
    "calculator": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    "weather": {"type": "object", "required": ["city", "days", "scale"], "properties": {
        "city": {"enum": ["Paris", "北京"]}, "days": {"type": "integer"}, "scale": {"type": "number"}}},
    "nothing": {"type": "object", "properties": {}},
}


@pytest.fixture(scope="module")
def grammars(tiny):
    words = Vocabulary(tiny / "onnx")
    return Grammars(words, words.size, frozenset({2}))


def babble(grammars, grammar, seed, limit=900):
    """Text of uniformly random allowed tokens until the grammar ends."""
    chance, matcher, out = np.random.default_rng(seed), grammars.matcher(grammar), b""
    for _ in range(limit):
        token = int(chance.choice(np.flatnonzero(matcher.allowed())))
        if token == 2:
            return out.decode()
        out += grammars.vocabulary.piece(token)
        if matcher.accept(token):
            return out.decode()
    raise AssertionError(f"no end within {limit} tokens")


@pytest.mark.parametrize("seed", range(12))
def test_a_required_call_parses_and_obeys_its_schema(grammars, seed):
    text = babble(grammars, tool_grammar(TOOLS, required=True, several=False), seed)
    name, arguments = parse_call(text)
    jsonschema.validate(arguments, TOOLS[name])
    assert text == call_text(name, arguments) or "scale" in arguments or "\\" in text  # 1.50, \u001A
    assert text.startswith(CALL_START) and text.endswith(CALL_END)


def test_every_tool_can_be_chosen_and_a_named_one_is(grammars):
    found = {parse_call(babble(grammars, tool_grammar(TOOLS, required=True, several=False), seed))[0]
             for seed in range(30)}
    assert found == set(TOOLS)
    only = tool_grammar({"weather": TOOLS["weather"]}, required=True, several=False)
    assert {parse_call(babble(grammars, only, seed))[0] for seed in range(5)} == {"weather"}


def drive(grammars, grammar, text):
    """Feed `text` in the tokenizer's tokens; the matcher after it, or None where the grammar refuses."""
    matcher = grammars.matcher(grammar)
    for token in grammars.vocabulary.encode(text, special=False):
        if not matcher.allowed()[token]:
            return None
        matcher.accept(token)
    return matcher


def test_exactly_the_templates_form_is_decodable(grammars):
    grammar = tool_grammar(TOOLS, required=True, several=False)
    assert drive(grammars, grammar, call_text("calculator", {"expression": "12 * 7"})) is not None
    assert drive(grammars, grammar, call_text("weather", {"city": "北京", "days": 3, "scale": 0.5})) is not None
    for wrong in (call_text("absent", {}), call_text("calculator", {"expression": 3}),
                  '<tool_call>{"name":"calculator"', call_text("weather", {"city": "Rome"}), "text"):
        assert drive(grammars, grammar, wrong) is None


def test_auto_is_free_text_until_the_call_opens(grammars):
    grammar = tool_grammar(TOOLS, required=False, several=False)
    free = drive(grammars, grammar, "Any text, even <tool or {\"name\": 1} 中文.\n")
    assert free.allowed()[2]                                    # a turn may end as text
    opened = drive(grammars, grammar, "I compute. " + CALL_START)
    assert not opened.allowed()[2]                              # but not inside a call
    assert drive(grammars, grammar, f"So {CALL_START}nonsense") is None
    done = drive(grammars, grammar, "So " + call_text("nothing", {}))
    assert not done.allowed()[5:].any()                         # and after it nothing but the end


def test_several_calls_only_where_asked(grammars):
    two = call_text("nothing", {}) * 2
    assert drive(grammars, tool_grammar(TOOLS, required=True, several=True), two) is not None
    assert drive(grammars, tool_grammar(TOOLS, required=True, several=False), two) is None


@pytest.mark.parametrize("schema", [
    {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "maxLength": 3}},
                                      "b": {"type": ["integer", "null"]}}, "required": ["a", "b"]},
    {"$defs": {"p": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
     "type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "required": ["p"]},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 4}]},
])
@pytest.mark.parametrize("seed", range(4))
def test_schemas_are_obeyed(grammars, schema, seed):
    value = json.loads(babble(grammars, schema_grammar(schema), seed))
    jsonschema.validate(value, schema)


def test_bounds_are_added_only_where_there_are_none():
    found = bounded({"type": "object", "properties": {
        "s": {"type": "string"}, "t": {"type": "string", "maxLength": 2}, "e": {"type": "string", "enum": ["x"]},
        "i": {"type": "integer", "maximum": 3}, "type": {"type": "array", "items": {"type": "string"}}}})
    assert found["properties"]["s"] == {"type": "string", "maxLength": 256}
    assert found["properties"]["t"]["maxLength"] == 2 and "maxLength" not in found["properties"]["e"]
    assert found["properties"]["i"] == {"type": "integer", "maximum": 3, "minimum": -10 ** 12}
    assert found["properties"]["type"]["maxItems"] == 32 and found["additionalProperties"] is False


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "string", "pattern": "("},
                                    {"type": "integer", "minimum": 3, "maximum": 1}])
def test_a_schema_that_cannot_be_decoded_is_refused(grammars, schema):
    with pytest.raises(GrammarError):
        grammars.matcher(schema_grammar(schema))
