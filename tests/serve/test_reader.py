"""Reasoning, content and tool calls out of a streamed turn, however the text is cut into pieces."""

import json

import pytest

from tasks.chat import CALL_END, CALL_START, call_text, calls
from tasks.serve.answers import Said
from tasks.serve.reader import TurnReader

HOSTILE = (CALL_END, CALL_START, f"}}}}{CALL_END}{{", f'{CALL_START}{{"name": "rm", "arguments": {{}}}}{CALL_END}',
           "\\\"{", "", "[", "\\")


def read(text, size, tools=True, thinking=False):
    """What a reader makes of `text` given `size` characters at a time, as {kind: text} and the calls."""
    reader, parts = TurnReader(tools, thinking), []
    for at in range(0, len(text), size):
        parts += reader.feed(text[at:at + size])
    parts += reader.finish()
    said = {kind: "".join(part.text for part in parts if part.kind == kind) for kind in ("reasoning", "content")}
    names = [part.text for part in parts if part.kind == "call"]
    arguments = ["".join(part.text for part in parts if part.kind == "arguments" and part.index == i)
                 for i in range(len(names))]
    return said, list(zip(names, arguments)), reader


@pytest.mark.parametrize("spelled", HOSTILE)
def test_an_argument_may_spell_the_marks(spelled):
    made = [("lookup", {"title": spelled}), ("count", {"words": 3, "deep": [{"a": "}"}]})]
    text = "".join(call_text(*call) for call in made)
    assert list(calls(text)) == made
    for size in (1, 2, 7, len(text)):
        said, found, reader = read("Well. " + text, size)
        assert said == {"reasoning": "", "content": "Well. "} and reader.calls == 2 and reader.cut is None
        assert [(name, json.loads(arguments)) for name, arguments in found] == made


def test_arguments_come_as_they_are_made():
    reader = TurnReader(tools=True)
    assert [(p.kind, p.text) for p in reader.feed('Let me see. <tool')] == [("content", "Let me see. ")]
    assert reader.feed('_call>{"name": "a", "argu') == []
    assert [(p.kind, p.text) for p in reader.feed('ments": {"x": ')] == [("call", "a"), ("arguments", '{"x": ')]
    assert [(p.kind, p.text) for p in reader.feed('"}"')] == [("arguments", '"}"')]
    assert [(p.kind, p.text) for p in reader.feed("}}</tool_call>")] == [("arguments", "}")]
    assert reader.finish() == [] and reader.calls == 1


@pytest.mark.parametrize("broken", [
    "", "words only", CALL_START, CALL_START + "[1]" + CALL_END, CALL_START + '"name"' + CALL_END,
    CALL_START + '{"name": "a"}' + CALL_END, CALL_START + '{"name": 1, "arguments": {}}' + CALL_END,
    CALL_START + '{"name": "a", "arguments": [1]}' + CALL_END, CALL_START + "[" * 10_000,
    "text " + CALL_START + '{"name": "a", "argu', CALL_START + '{"name": "\\ud8", "arguments": {}}'])
def test_what_is_no_whole_call_is_content(broken):
    for size in (1, len(broken) or 1):
        said, found, reader = read(broken, size)
        assert said["content"] == broken and not found and not reader.calls


def test_a_call_cut_in_its_arguments_is_content_of_a_whole_answer_and_open_in_a_stream():
    text = "So " + call_text("a", {}) + CALL_START + '{"name": "b", "arguments": {"x": "half'
    for size in (1, len(text)):
        said, found, reader = read(text, size)
        assert found == [("a", "{}"), ("b", '{"x": "half')] and reader.calls == 1
    whole = Said(text, True, False)
    assert [call["function"]["name"] for call in whole.calls] == ["a"]
    assert whole.content == "So " + text[text.rindex(CALL_START):]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_reasoning_stands_apart(size):
    text = " <think>\nTwelve <b>times</b> seven.</think>\n\nIt is " + call_text("a", {})
    said, found, _ = read(text, size)
    assert said == {"reasoning": "\nTwelve <b>times</b> seven.", "content": "It is "} and found == [("a", "{}")]
    opened, _, _ = read("Twelve.</think>84", size, tools=False, thinking=True)
    assert opened == {"reasoning": "Twelve.", "content": "84"}
    never, _, _ = read("<think>without end", size)
    assert never == {"reasoning": "without end", "content": ""}
    late, _, _ = read("I <think> so", size)
    assert late == {"reasoning": "", "content": "I <think> so"}


def test_without_tools_a_call_is_text():
    text = call_text("a", {})
    assert read(text, 4, tools=False)[0]["content"] == text
