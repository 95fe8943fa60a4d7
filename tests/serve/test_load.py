"""The load generator: it reads HTTP as it comes, its plans repeat, its figures are those computed by hand."""

import asyncio
import json
import statistics

import pytest

from tasks.serve import load


def stream(*events: object, chunked: bool = True) -> bytes:
    """A raw streamed answer of `events`."""
    said = [f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n".encode() for one in events]
    if chunked:
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in said) + b"0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    return b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(said)


EVENTS = ({"choices": [{"text": "Gr"}]}, {"choices": [{"text": "üße \r\n"}]},
          {"choices": [], "usage": {"completion_tokens": 7}}, "[DONE]")


@pytest.mark.parametrize("chunked", (True, False))
@pytest.mark.parametrize("size", (1, 2, 3, 7, 10_000))
def test_an_answer_is_read_however_it_is_cut(chunked, size):
    raw = stream(*EVENTS, chunked=chunked)
    received = [(float(start), raw[start:start + size]) for start in range(0, len(raw), size)]
    answer = load.read_answer(0.0, received)
    assert (answer.text, answer.tokens, answer.error) == ("Grüße \r\n", 7, None)
    assert len(answer.times) == 2 and answer.times == sorted(answer.times)
    first = raw.index(b"Gr") // size * size
    assert answer.times[0] >= first


def test_failed_answers_say_why():
    refused = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\n{"e": 1}\n'
    assert load.read_answer(0.0, [(1.0, refused)]).error == 'HTTP 400: {"e": 1}\n'
    assert "without an answer" in load.read_answer(0.0, []).error
    assert "without [DONE]" in load.read_answer(0.0, [(1.0, stream(*EVENTS[:2]))]).error
    assert "no memory" in load.read_answer(0.0, [(1.0, stream({"error": "no memory"}, "[DONE]"))]).error


def test_percentiles_are_nearest_ranks():
    values = [float(n) for n in range(1, 101)]
    assert [load.percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert load.percentile([3.0], 0.5) == 3.0 and load.percentile([], 0.5) == 0.0
    assert load.percentile([2.0, 1.0, 3.0], 0.5) == 2.0


def test_a_summary_by_hand():
    answers = [load.Answer(10.0, 14.0, times=[11.0, 12.0, 14.0], tokens=5),
               load.Answer(10.0, 13.0, times=[13.0], tokens=1), load.Answer(10.0, error="HTTP 500: x")]
    found = load.summary(load.Measured(answers, 4.0, 0.1))
    assert found["requests"] == 3 and found["errors"] == 1 and found["tokens_per_second"] == 6 / 4
    assert (found["ttft_p50"], found["ttft_p99"]) == (1.0, 3.0)
    assert found["tpot_p50"] == 3 / 4 and (found["itl_p50"], found["itl_p99"]) == (1.0, 2.0)


def test_lengths_repeat_and_look_like_conversations():
    assert load.lengths(50, 3) == load.lengths(50, 3) != load.lengths(50, 4)
    inputs, outputs = zip(*load.lengths(20_000, 1))
    assert min(inputs) >= 4 and max(inputs) == load.LONGEST_INPUT and max(outputs) == load.LONGEST_OUTPUT
    assert statistics.mean(inputs) == pytest.approx(161, rel=0.05)
    assert statistics.median(outputs) == pytest.approx(338 * 2.718281828 ** -0.5, rel=0.05)
    assert 200 < statistics.mean(outputs) < 260


def test_arrivals_are_poisson_and_repeat():
    plan = load.dynamic_plan(5.0, 400.0, 1)
    assert plan == load.dynamic_plan(5.0, 400.0, 1)
    gaps = [later.at - earlier.at for earlier, later in zip(plan, plan[1:])]
    assert len(plan) == pytest.approx(2000, rel=0.07) and plan[-1].at < 400
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.1)  # an exponential's deviation is its mean
    assert all(len(one.body["prompt"]) >= 4 and one.body["max_tokens"] >= 4 for one in plan[:20])
    prompts = [tuple(one.body["prompt"]) for one in load.static_plan(8, 32, 4, 1)]
    assert len(set(prompts)) == 8 and all(len(one) == 32 for one in prompts)


def test_the_server_is_driven_as_planned(server):
    _, url = server
    plan = [load.Planned(0.05 * number, load.completion("The quick brown fox", 6)) for number in range(6)]
    bad = load.Planned(0.0, load.completion("x", 4) | {"temperature": -1})
    measured = asyncio.run(load.run(url, [*plan, bad], streams=2))
    *good, refused = measured.answers
    assert [answer.error for answer in good] == [None] * 6 and {answer.tokens for answer in good} == {6}
    assert len({answer.text for answer in good}) == 1
    assert refused.error.startswith("HTTP 400") and "temperature" in refused.error
    opened = sorted((answer.sent, 1) for answer in good) + sorted((answer.ended, -1) for answer in good)
    held = most = 0
    for _, change in sorted(opened):
        held += change
        most = max(most, held)
    assert most <= 2 and measured.seconds >= 0.25
    assert load.summary(measured)["errors"] == 1


def test_no_server_is_an_error_of_each_request():
    measured = asyncio.run(load.run("http://127.0.0.1:9/v1", load.static_plan(2, 4, 4, 1)))
    assert all("without an answer" in answer.error for answer in measured.answers)
