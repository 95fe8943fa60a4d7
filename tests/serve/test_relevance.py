"""Under `relevance` the gain in the question's likelihood decides: the sums of torch, a call above and text below."""

import asyncio
import json

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.serve import relevance
from tasks.serve.schemas import Function
from tasks.serve.service import Service
from tasks.serve.turn import Turn

ASKED = [{"role": "system", "content": "Be brief. What is 12 * 7?"}, {"role": "user", "content": "What is 12 * 7?"}]
TOOL = {"type": "function", "function": {"name": "calculator", "description": "Calculate.", "parameters": {
    "type": "object", "properties": {"expression": {"type": "string", "enum": ["12 * 7"]}}, "required": ["expression"]}}}


@pytest.fixture(scope="module")
def ai(server):
    return openai.OpenAI(base_url=server[1], api_key="none", max_retries=0)


def by_torch(tiny):
    """The gain by transformers and torch, in double precision, over the float directory."""
    model = AutoModelForCausalLM.from_pretrained(tiny / "chat", dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny / "chat")
    sums = []
    for tools in ([TOOL], None):
        text = tokenizer.apply_chat_template(ASKED, tools=tools, tokenize=False, add_generation_prompt=True)
        at = text.rindex("What is 12 * 7?")
        head = tokenizer(text[:at], add_special_tokens=False).input_ids
        said = tokenizer("What is 12 * 7?", add_special_tokens=False).input_ids
        with torch.inference_mode():
            scores = model(torch.tensor([head + said])).logits[0].log_softmax(-1)
        sums.append(sum(scores[place - 1, token].item() for place, token in enumerate(said, len(head))))
    return sums[0] - sums[1]


def ask(ai, threshold, **more):
    body = {"model": "default", "messages": ASKED, "tools": [TOOL], "max_completion_tokens": 60, "temperature": 0,
            "extra_body": {"relevance": threshold}} | more
    return ai.chat.completions.create(**body)


def test_the_last_message_is_parted_off_even_where_it_was_said_before():
    assert relevance.parted("a: hi\nb: x\na: hi", "hi") == ("a: hi\nb: x\na: ", "hi")
    with pytest.raises(ValueError):
        relevance.parted("a: HI", "hi")


def test_the_gain_is_a_difference_of_sums():
    assert relevance.gain([-1.0, -0.5], [-2.0, -1.25]) == 1.75
    assert type(relevance.gain(np.array([-1.0, -0.5]), np.array([-2.0]))) is float


def test_the_engine_reads_the_same_gain_as_torch(tiny):
    service = Service("tiny", tiny / "chat", threads=1, slots=2)
    try:
        turn = Turn(ASKED, tools=(Function(**TOOL["function"]),))
        [found] = asyncio.run(service.gains(turn, None))
        assert found == pytest.approx(by_torch(tiny), abs=0.02) and abs(found) > 1
        assert service.users == 0
    finally:
        service.engine.close()


def test_a_call_where_the_gain_reaches_the_threshold_and_text_below_it(ai):
    called = ask(ai, -999).choices[0].message
    assert [call.function.name for call in called.tool_calls] == ["calculator"]
    refused = ask(ai, 999)
    assert refused.choices[0].message.tool_calls is None
    none = ask(ai, None, tool_choice="none", extra_body={})
    assert refused.choices[0].message.content == none.choices[0].message.content
    assert refused.usage.prompt_tokens == none.usage.prompt_tokens


def test_streams_and_ends_of_a_conversation(ai):
    chunks = list(ask(ai, -999, stream=True))
    assert any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    back = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "calculator", "arguments": json.dumps({"expression": "12*7"})}}]},
        {"role": "tool", "tool_call_id": "1", "content": "84"}]
    after = ask(ai, 999, messages=back, max_completion_tokens=4)       # the tool spoke last: the model decides
    assert after.usage.prompt_tokens > ask(ai, None, messages=back, tool_choice="none", extra_body={},
                                           max_completion_tokens=4).usage.prompt_tokens


def test_the_tool_that_gains_most_is_called_and_alone_offered(ai):
    """Three tools whose calls the grammar would allow alike; the fitting one is found in either order."""
    def tool(name, says):
        return {"type": "function", "function": {"name": name, "description": says, "parameters": {
            "type": "object", "properties": {"x": {"type": "string", "enum": ["1"]}}, "required": ["x"]}}}

    offered = [tool("a", "Paint."), tool("b", "What is 12 * 7? What is 12 * 7? What is 12 * 7?"), tool("c", "Sing.")]
    named = []
    for tools in (offered, offered[::-1], offered[:1], offered[2:]):
        answer = ask(ai, -999, tools=tools, tool_choice="required")
        named.append(answer.choices[0].message.tool_calls[0].function.name)
        alone = [each for each in tools if each["function"]["name"] == named[-1]]
        assert answer.usage.prompt_tokens == ask(ai, None, tools=alone, tool_choice="required",
                                                 extra_body={}).usage.prompt_tokens
    assert named[0] == named[1] and named[2:] == ["a", "c"]


def test_the_best_tool_is_one_whose_numbers_are_stated():
    assert relevance.best([3.0, 9.0, 5.0], [True, True, True]) == 1
    assert relevance.best([3.0, 9.0, 5.0], [True, False, True]) == 2
    assert relevance.best([3.0, 9.0], [False, False]) == 1


@pytest.mark.parametrize("parameters, text, enough", [
    ({"properties": {"a": {"type": "integer"}, "b": {"type": "number"}}, "required": ["a", "b"]}, "3 and four", True),
    ({"properties": {"a": {"type": "integer"}, "b": {"type": "number"}}, "required": ["a", "b"]}, "3 of them", False),
    ({"properties": {"a": {"type": "integer"}, "b": {"type": "number"}}, "required": ["a"]}, "3 of them", True),
    ({"properties": {"a": {"type": "array", "items": {"type": "number"}}}, "required": ["a"]}, "the mean", False),
    ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, "the mean", True),
    ({"properties": {"a": {"type": "integer", "enum": [2, 3]}}, "required": ["a"]}, "the mean", True),
    ({"properties": {"a": True}, "required": ["a", "gone"]}, "the mean", True), ({}, "", True)])
def test_a_question_must_state_the_numbers_that_a_call_takes(parameters, text, enough):
    assert relevance.stated(parameters, text) is enough


def test_with_copied_arguments_a_missing_number_is_no_call(ai):
    tool = {"type": "function", "function": {"name": "double", "description": "Twice a number.", "parameters": {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}
    body = {"tools": [tool], "extra_body": {"relevance": -999, "copied_arguments": True}}
    assert ask(ai, None, **body).choices[0].message.tool_calls
    assert not ask(ai, None, messages=[{"role": "user", "content": "How are you?"}], **body).choices[0].message.tool_calls


@pytest.mark.parametrize("more, says", [
    ({"tool_choice": "none"}, "relevance"), ({"tools": openai.NOT_GIVEN}, "relevance"),
    ({"extra_body": {"relevance": "much"}}, "relevance"), ({"extra_body": {"relevance": 1e9}}, "relevance"),
    ({"messages": [{"role": "user", "content": "x " * 5000}]}, "messages")])
def test_bad_input_is_one_error_that_names_the_field(ai, more, says):
    with pytest.raises(openai.BadRequestError, match=says):
        ask(ai, 1.0, **more)
