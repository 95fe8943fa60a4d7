"""The server as a process, through the openai client and raw HTTP."""

import concurrent.futures
import json
import math
import time

import httpx
import openai
import pytest
import torch

from tasks.quantize import formats
from tests.serve.tiny import tokenizer

TOOL = {"type": "function", "function": {"name": "calculator", "description": "computes", "parameters": {
    "type": "object", "properties": {"expression": {"type": "string", "maxLength": 12}},
    "required": ["expression"]}}}
USER = [{"role": "user", "content": "What is 12 * 7?"}]


@pytest.fixture(scope="module")
def ai(server):
    return openai.OpenAI(base_url=server[1], api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server[1].removesuffix("/v1"), timeout=60) as http:
        yield http


def metric(http, name):
    return next(float(line.split()[-1]) for line in http.get("/metrics").text.splitlines()
                if line.startswith((f"catena:{name} ", f"catena:{name}{{")))


def settle(http):
    deadline = time.monotonic() + 60
    while metric(http, "num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.02)


def test_models_health_tokenize(ai, http):
    (model,) = ai.models.list().data
    assert ai.models.retrieve(model.id).id == model.id and model.id.endswith("/onnx")
    assert http.get("/health").json() == {"status": "ok"}
    found = http.post("/tokenize", json={"prompt": "Grüße 中文"}).json()
    assert found == {"tokens": tokenizer().encode("Grüße 中文").ids, "count": len(found["tokens"]),
                     "max_model_len": 512}
    chat = http.post("/tokenize", json={"messages": USER}).json()["tokens"]
    assert chat[0] == 1 and chat.count(2) == 1


def test_completion_streamed_and_whole_agree(ai):
    ask = {"model": "default", "prompt": "The quick", "max_tokens": 20, "temperature": 0,
           "extra_body": {"ignore_eos": True}}
    whole = ai.completions.create(**ask)
    chunks = list(ai.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens == 20
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
    assert len({c.id for c in chunks}) == 1


def test_sse_bytes(http):
    with http.stream("POST", "/v1/completions", json={"prompt": "The", "max_tokens": 3, "temperature": 0,
                                                      "stream": True, "ignore_eos": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(e.startswith("data: ") for e in events[:-1])
    assert json.loads(events[0][6:])["object"] == "text_completion"


def test_echo_logprobs_for_token_ids_as_lm_eval_asks(ai, tiny):
    """token_logprobs[0] null, one generated token, top_logprobs holding the maximum; values near transformers'."""
    prompt = tokenizer().encode("The quick brown fox, 中文 😀").ids
    answer = ai.completions.create(model="default", prompt=[prompt, prompt[:5]], max_tokens=1, temperature=0,
                                   logprobs=1, echo=True).choices
    assert [choice.index for choice in answer] == [0, 1]
    logprobs = answer[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(prompt) + 1
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    with torch.no_grad():
        rows = formats.load_dequantized(tiny / "int4")(torch.tensor([prompt])).logits[0].log_softmax(-1)
    expected = [float(rows[i, token]) for i, token in enumerate(prompt[1:])]
    errors = [abs(a - b) for a, b in zip(logprobs.token_logprobs[1:-1], expected)]
    assert sum(errors) / len(errors) < 0.05 * torch.tensor(expected).std()
    for token, value, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
        assert top[token] == value <= max(top.values()) and 1 <= len(top) <= 2
    assert answer[1].logprobs.token_logprobs[1:5] == pytest.approx(logprobs.token_logprobs[1:5], abs=1.0)
    assert answer[0].text.startswith("The quick brown fox, 中文 😀")


def test_echo_alone_and_streamed(ai):
    ask = {"model": "default", "prompt": "The quick", "echo": True, "logprobs": 0, "temperature": 0}
    assert ai.completions.create(**ask, max_tokens=0).choices[0].text == "The quick"
    whole = ai.completions.create(**ask, max_tokens=4).choices[0]
    chunks = [c.choices[0] for c in ai.completions.create(**ask, max_tokens=4, stream=True)]
    assert "".join(c.text for c in chunks) == whole.text
    assert [t for c in chunks for t in c.logprobs.token_logprobs] == whole.logprobs.token_logprobs
    assert [t for c in chunks for t in c.logprobs.text_offset] == whole.logprobs.text_offset


def test_utf8_streams_whole_characters(ai):
    """A random model made to say characters of three and four bytes, a token a byte: each arrives once, whole."""
    said = "𝄞中文😀é"
    assert len(tokenizer().encode(said).ids) > len(said)
    chunks = ai.chat.completions.create(
        model="default", messages=USER, stream=True, max_completion_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": [said]}}})
    parts = [c.choices[0].delta.content or "" for c in chunks]
    assert "".join(parts) == json.dumps(said, ensure_ascii=False)
    assert all("\ufffd" not in part for part in parts) and sum(map(bool, parts)) >= len(said)


def test_chat_shape_logprobs_and_n(ai):
    answer = ai.chat.completions.create(model="default", messages=USER, max_completion_tokens=6, temperature=0.7,
                                        seed=5, n=3, logprobs=True, top_logprobs=2, stop=["\n\n\n"])
    again = ai.chat.completions.create(model="default", messages=USER, max_completion_tokens=6, temperature=0.7,
                                       seed=5, n=3)
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]
    assert [c.index for c in answer.choices] == [0, 1, 2] and len({c.message.content for c in answer.choices}) > 1
    entry = answer.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2 and math.exp(entry.logprob) <= 1 and isinstance(entry.bytes, list)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculator"}}])
def test_a_required_call_streamed_and_whole(ai, choice):
    ask = {"model": "default", "messages": USER, "tools": [TOOL], "tool_choice": choice, "temperature": 1, "seed": 2,
           "max_completion_tokens": 200}
    whole = ai.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    call = whole.message.tool_calls[0].function
    assert call.name == "calculator" and list(json.loads(call.arguments)) == ["expression"]
    chunks = [c.choices[0] for c in ai.chat.completions.create(**ask, stream=True)]
    streamed = [c.delta.tool_calls[0] for c in chunks if c.delta.tool_calls]
    assert (streamed[0].function.name, streamed[0].function.arguments) == (call.name, "") and streamed[0].id
    assert {c.index for c in streamed} == {0} and not any(c.id for c in streamed[1:])
    assert "".join(c.function.arguments for c in streamed) == call.arguments and len(streamed) > 2  # as they come
    assert chunks[-1].finish_reason == "tool_calls" and not "".join(c.delta.content or "" for c in chunks)
    back = [*USER, whole.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": whole.message.tool_calls[0].id, "content": "84"}]
    assert ai.chat.completions.create(model="default", messages=back, tools=[TOOL], max_completion_tokens=2).choices


def test_tool_choice_none_and_auto(ai):
    none = ai.chat.completions.create(model="default", messages=USER, tools=[TOOL], tool_choice="none",
                                      max_completion_tokens=4)
    auto = ai.chat.completions.create(model="default", messages=USER, tools=[TOOL], max_completion_tokens=8, seed=1)
    assert none.choices[0].message.tool_calls is None
    assert none.usage.prompt_tokens < auto.usage.prompt_tokens  # the tools are told only where they may be called
    assert auto.choices[0].message.content is not None


def test_a_call_cut_by_the_limit_is_content(ai):
    answer = ai.chat.completions.create(model="default", messages=USER, tools=[TOOL], tool_choice="required",
                                        max_completion_tokens=3).choices[0]
    assert answer.finish_reason == "length" and answer.message.tool_calls is None
    assert "<tool_call>".startswith(answer.message.content[:5])


def test_response_format(ai):
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
              "required": ["answer", "sure"]}
    for seed in range(4):
        answer = ai.chat.completions.create(
            model="default", messages=USER, seed=seed, max_completion_tokens=100,
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
        value = json.loads(answer.choices[0].message.content)
        assert isinstance(value["answer"], int) and isinstance(value["sure"], bool)
        assert answer.choices[0].finish_reason == "stop"


DEEP = {"type": "object", "properties": {}}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP}, "required": ["a"]}


@pytest.mark.parametrize("path, body, status, param", [
    ("completions", {"prompt": None}, 400, "prompt"),
    ("completions", {}, 400, "prompt"),
    ("completions", {"prompt": []}, 400, "prompt"),
    ("completions", {"prompt": [[]]}, 400, "prompt.0"),
    ("completions", {"prompt": ""}, 400, "prompt"),
    ("completions", {"prompt": [-1]}, 400, None),
    ("completions", {"prompt": [999999]}, 400, "prompt"),
    ("completions", {"prompt": "a" * 9000}, 400, "prompt"),
    ("completions", {"prompt": "a", "max_tokens": 512}, 400, "prompt"),
    ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
    ("completions", {"prompt": "a", "stop": [""]}, 400, None),
    ("completions", {"prompt": "a", "logit_bias": {"999999": 1}}, 400, "logit_bias"),
    ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, None),
    ("completions", {"prompt": "a", "best_of": 3}, 400, "best_of"),
    ("completions", {"prompt": "a", "model": "gpt"}, 404, "model"),
    ("completions", {"prompt": ["a"] * 1000}, 400, "prompt"),
    ("chat/completions", {"messages": None}, 400, "messages"),
    ("chat/completions", {"messages": [{"role": "wizard", "content": "a"}]}, 400, "messages.0.role"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages.0"),
    ("chat/completions", {"messages": USER, "tool_choice": "required"}, 400, None),
    ("chat/completions", {"messages": USER, "tools": [TOOL, TOOL]}, 400, None),
    ("chat/completions", {"messages": USER, "tools": [{"type": "function", "function": {
        "name": "a", "parameters": {"type": "object", "properties": {"x": {"type": "no"}}}}}]}, 400, "tools"),
    ("chat/completions", {"messages": USER, "tools": [{"type": "function", "function": {
        "name": "a", "parameters": {"type": "object", "properties": [1]}}}]}, 400, "tools.0.function.parameters"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema"}}, 400, "response_format"),
    ("chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
    ("nothing", {}, 404, None),
])
def test_bad_bodies_name_their_field(http, path, body, status, param):
    answer = http.post(f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and error["type"] in ("invalid_request_error", "not_found_error")
    assert param is None or error["param"] == param


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 5000, b'{"prompt": NaN}'])
def test_hostile_bodies_are_4xx(http, raw):
    for path in ("completions", "chat/completions"):
        answer = http.post(f"/v1/{path}", content=raw, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]


def test_a_deep_schema_does_no_harm(http):
    answer = http.post("/v1/chat/completions", json={
        "messages": USER, "max_tokens": 4,
        "response_format": {"type": "json_schema", "json_schema": {"name": "d", "schema": DEEP}}})
    assert answer.status_code in (200, 400)


def test_too_large_announced_or_streamed_is_413(http):
    big = b'{"prompt": "' + b"a" * (2 ** 21 + 10) + b'"}'
    head = {"content-type": "application/json"}
    for content in (big, (big[i:i + 65536] for i in range(0, len(big), 65536))):
        answer = http.post("/v1/completions", content=content, headers=head)
        assert answer.status_code == 413 and answer.json()["error"]["message"]


def aborted(http):
    text = http.get("/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines()
               if line.startswith("catena:request_success_total{") and 'finished_reason="abort"' in line)


def test_hanging_up_frees_the_slots(http):
    """Sixteen long answers on four slots, left while they run: streamed, and not."""
    settle(http)
    before = aborted(http)
    ask = {"prompt": "The quick", "max_tokens": 450, "temperature": 0, "ignore_eos": True, "n": 16}
    with http.stream("POST", "/v1/completions", json=ask | {"stream": True}) as answer:
        next(answer.iter_lines())
    settle(http)
    assert metric(http, "num_requests_running") == 0 == metric(http, "kv_cache_usage_perc")
    assert aborted(http) >= before + 8
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/completions", json=ask, timeout=0.3)
    deadline = time.monotonic() + 60  # the server may read the second request after its client has gone
    while aborted(http) < before + 16 and time.monotonic() < deadline:
        time.sleep(0.02)
    settle(http)
    assert metric(http, "kv_cache_usage_perc") == 0 and aborted(http) >= before + 16


def test_a_full_queue_is_429_with_retry_after(http):
    settle(http)
    ask = {"prompt": "The", "max_tokens": 100, "temperature": 0, "n": 16, "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/completions", json=ask), range(8)))  # 128 for 68 places
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert refused[0].json()["error"]["type"] == "rate_limit_error"


def test_metrics_have_vllms_names(http):
    text = http.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total",
                 "generation_tokens_total", "time_to_first_token_seconds_bucket", "num_preemptions_total",
                 "time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_bucket"):
        assert f"\ncatena:{name}" in text, name


def test_an_idle_server_uses_no_cpu(server, http):
    settle(http)
    process = server[0]
    spent = []
    while len(spent) < 5 and min(spent, default=1) > 0.03:  # the end of what was asked before may still be cleared up
        before = sum(process.cpu_times()[:2])
        time.sleep(1.5)
        spent.append(sum(process.cpu_times()[:2]) - before)
    assert min(spent) <= 0.03
