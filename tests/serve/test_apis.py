"""The Responses, Messages and embeddings APIs and guided decoding, through their own clients where there are any."""

import json
import re

import anthropic
import httpx
import numpy as np
import openai
import pytest

from tasks.serve import client
from tests.serve.test_api import TOOL, USER

FLAT = {"type": "function", "name": "calculator", "parameters": TOOL["function"]["parameters"]}
USE = {"name": "calculator", "description": "computes", "input_schema": TOOL["function"]["parameters"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def ai(server):
    return openai.OpenAI(base_url=server[1], api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server[1].removesuffix("/v1"), api_key="none", max_retries=0, timeout=60)


def test_a_response_whole_and_streamed_agree(ai):
    ask = {"model": "default", "input": "Hi there", "instructions": "Be brief.", "max_output_tokens": 12,
           "temperature": 0}
    whole = ai.responses.create(**ask)
    events = list(ai.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    last = events[-1].response
    assert last.output_text == whole.output_text == "".join(e.delta for e in events if e.type.endswith("text.delta"))
    assert last.usage == whole.usage and last.usage.output_tokens <= 12 and last.status == whole.status
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def test_a_response_calls_a_tool_and_reads_its_output(ai):
    ask = {"model": "default", "input": "12 * 7?", "tools": [FLAT], "tool_choice": "required", "temperature": 0,
           "max_output_tokens": 200}
    (call,) = ai.responses.create(**ask).output
    assert call.type == "function_call" and list(json.loads(call.arguments)) == ["expression"]
    with ai.responses.stream(**ask) as events:
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert events.get_final_response().output[0].arguments == "".join(deltas) == call.arguments
    back = [{"role": "user", "content": "12 * 7?"}, call, {"type": "function_call_output", "call_id": call.call_id,
                                                            "output": "84"}]
    assert ai.responses.create(model="default", input=back, tools=[FLAT], max_output_tokens=2).output
    echoed = ai.responses.create(model="default", input=[call.model_dump(), *back[2:]], max_output_tokens=2)
    assert echoed.status in ("completed", "incomplete")


def test_a_response_has_the_form_asked_for(ai):
    answer = ai.responses.create(model="default", input="x", max_output_tokens=60, text={
        "format": {"type": "json_schema", "name": "x", "schema": SCHEMA}})
    assert isinstance(json.loads(answer.output_text)["a"], int) and answer.status == "completed"


def test_a_message_whole_and_streamed_agree(claude):
    ask = {"model": "default", "max_tokens": 20, "messages": USER, "system": "Be brief.",
           "extra_body": {"temperature": 0}}
    whole = claude.messages.create(**ask)
    with claude.messages.stream(**ask) as events:
        text = "".join(events.text_stream)
        last = events.get_final_message()
    assert text == whole.content[0].text == last.content[0].text and whole.usage.output_tokens <= 20
    assert (last.stop_reason, last.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert claude.messages.count_tokens(model="default", messages=USER,
                                        system="Be brief.").input_tokens == whole.usage.input_tokens
    letter = next(character for character in text if character.isalnum())
    cut = claude.messages.create(**ask, stop_sequences=[letter])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", letter)
    assert cut.content[0].text == text.partition(letter)[0]


def test_a_message_uses_a_tool_and_reads_its_result(claude):
    ask = {"model": "default", "max_tokens": 200, "messages": USER, "tools": [USE],
           "tool_choice": {"type": "tool", "name": "calculator"}, "extra_body": {"temperature": 0}}
    whole = claude.messages.create(**ask)
    (use,) = whole.content
    assert whole.stop_reason == "tool_use" and use.name == "calculator" and list(use.input) == ["expression"]
    with claude.messages.stream(**ask) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        assert events.get_final_message().content[0].input == use.input == json.loads("".join(pieces))
    back = [*USER, {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "84"}]}]
    assert claude.messages.create(model="default", max_tokens=2, messages=back, tools=[USE]).content


@pytest.mark.parametrize("body, named", [
    ({}, "model"), ({"model": "gpt", "max_tokens": 1, "messages": USER}, "model"),
    ({"model": "default", "messages": USER}, "max_tokens"),
    ({"model": "default", "max_tokens": 1, "messages": [{"role": "system", "content": "a"}]}, "messages.0.role"),
    ({"model": "default", "max_tokens": 9999, "messages": USER}, "messages"),
    ({"model": "default", "max_tokens": 1, "messages": USER, "tool_choice": {"type": "any"}}, "tool_choice")])
def test_messages_are_refused_in_their_own_shape(server, body, named):
    answer = httpx.post(f"{server[1]}/messages", json=body)
    told = answer.json()
    assert answer.status_code in (400, 404) and told["type"] == "error"
    assert told["error"]["message"].startswith(f"{named}:") and told["error"]["type"] != "server_error"


@pytest.mark.parametrize("asked, form", [
    ({"guided_regex": "[0-9]{3}-[0-9]{2}"}, r"\d{3}-\d{2}"), ({"guided_choice": ["yes", 'no "x"']}, 'yes|no "x"'),
    ({"guided_json": {"type": "boolean"}}, "true|false"), ({"guided_json": '{"type": "boolean"}'}, "true|false"),
    ({"guided_grammar": 'start: "a" | "b" "c"+ "d"'}, "a|bc+d"), ({"guided_grammar": 'root ::= "x" | "y"'}, "x|y"),
    ({"structured_outputs": {"regex": "ab*c"}}, "ab*c"), ({"structured_outputs": {"choice": ["é中"]}}, "é中"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 5}}}}, "5")])
def test_guided_decoding(ai, asked, form):
    chat = ai.chat.completions.create(model="default", messages=USER, max_completion_tokens=120, seed=3,
                                      extra_body=asked).choices[0]
    plain = ai.completions.create(model="default", prompt="x", max_tokens=120, seed=3, extra_body=asked).choices[0]
    assert chat.finish_reason == plain.finish_reason == "stop"
    assert re.fullmatch(form, chat.message.content) and re.fullmatch(form, plain.text)


@pytest.mark.parametrize("asked, field", [
    ({"guided_regex": "("}, "guided_regex"), ({"guided_json": "{"}, "guided_json"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_grammar": "nonsense"}, "guided_grammar"), ({"guided_grammar": "start: " + "(" * 3000}, "guided_grammar"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs")])
def test_a_form_that_cannot_be_is_refused(server, asked, field):
    answer = httpx.post(f"{server[1]}/completions", json={"prompt": "x", "max_tokens": 2} | asked)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field


def test_sampling_knobs_do_what_they_say(ai):
    ask = {"model": "default", "prompt": "The quick", "max_tokens": 12, "extra_body": {"ignore_eos": True}}
    greedy = ai.completions.create(**ask, temperature=0).choices[0].text
    narrow = ask | {"extra_body": {"ignore_eos": True, "min_p": 1.0}}
    assert ai.completions.create(**narrow, temperature=2, seed=1).choices[0].text == greedy
    varied = ask | {"extra_body": {"ignore_eos": True, "repetition_penalty": 2.0}}
    assert len(set(ai.completions.create(**varied, temperature=0, logprobs=0).choices[0].logprobs.tokens)) == 12


def test_every_answer_carries_the_models_digest(server):
    root = server[1]
    (card,) = httpx.get(f"{root}/models").json()["data"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", card["digest"])
    for path, body in (("completions", {"prompt": "a"}), ("chat/completions", {"messages": USER, "stream": True}),
                       ("responses", {"input": "a"}), ("messages", {"model": card["id"], "messages": USER})):
        answer = httpx.post(f"{root}/{path}", json=body | {"max_output_tokens" if path == "responses" else
                                                           "max_tokens": 1})
        assert answer.status_code == 200 and answer.headers["x-model-digest"] == card["digest"], answer.text


def test_an_export_without_hidden_states_says_so(ai):
    with pytest.raises(openai.BadRequestError, match="hidden states"):
        ai.embeddings.create(model="default", input="a")


def test_embeddings(tiny, monkeypatch):
    monkeypatch.setenv("CATENA_BACKEND", "torch")
    with client.running(tiny / "chat", threads=1, slots=2) as url:
        ai = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        found = ai.embeddings.create(model="default", input=["The quick", "brown fox", "The quick"])  # base64
        first, second, third = (np.array(one.embedding) for one in found.data)
        plain = httpx.post(f"{url}/embeddings", json={"input": "The quick", "dimensions": 8}).json()
        assert first == pytest.approx(third, abs=1e-5) and abs(first @ second) < 0.999 and len(first) == 128
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5) and found.usage.total_tokens > 0
        assert plain["data"][0]["embedding"] == pytest.approx(first[:8] / np.linalg.norm(first[:8]), abs=1e-5)
        for body, field in (({"input": []}, "input"), ({"input": [10 ** 6]}, "input"),
                            ({"input": "a", "dimensions": 4096}, "dimensions"), ({"input": "a " * 4000}, "input")):
            refused = httpx.post(f"{url}/embeddings", json=body)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == field
