"""A load generator for any OpenAI server: cheap enough to share two cores with the server that it measures.

One process, one event loop, a bare socket a request. While requests run, what arrives is only stamped and kept;
HTTP and JSON are read when the last one has ended, so the client's own work does not fall into the measured time
(`Measured.client_share` says what it took all the same).

Times as serving benchmarks use them: TTFT is a request's first token after it was sent; TPOT the mean of its later
tokens; inter-token latency each gap between two arrivals of text.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

TOKENS = range(300, 4000)   # ids that every vocabulary of the chain has, none of them special
LONGEST_INPUT, LONGEST_OUTPUT = 1024, 512


@dataclass(frozen=True)
class Planned:
    """One request of a plan: when it is sent (seconds after the start), and its JSON body."""

    at: float
    body: dict[str, Any]


@dataclass
class Answer:
    """What came back: `times` of arrivals that brought text (seconds, perf_counter), tokens, text, or an error."""

    sent: float
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""
    error: str | None = None


@dataclass
class Measured:
    """A plan carried out: its answers in order, wall seconds, and the share of one core that the client took."""

    answers: list[Answer]
    seconds: float
    client_share: float


class Connection(asyncio.Protocol):
    """Sends one request; keeps (arrival time, bytes) until the server closes."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self.request, self.ended = request, ended
        self.received: list[tuple[float, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def request_bytes(url: str, path: str, body: bytes, key: str | None = None, method: str = "POST") -> bytes:
    """An HTTP/1.1 request to `url` + `path` that asks the server to close after its answer."""
    place = urllib.parse.urlsplit(url)
    lines = [f"{method} {place.path.rstrip('/')}{path} HTTP/1.1", f"Host: {place.netloc}", "Connection: close",
             "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def payloads(received: list[tuple[float, bytes]]) -> tuple[int, list[tuple[float, bytes]]]:
    """(HTTP status, [(arrival time, body bytes)]) of a raw answer, chunked or plain; status 0 where there is none."""
    raw, status, chunked = b"", 0, False
    out: list[tuple[float, bytes]] = []
    for at, data in received:
        raw += data
        if not status:
            head, found, rest = raw.partition(b"\r\n\r\n")
            if not found:
                continue
            status, chunked, raw = int(head.split(None, 2)[1]), b"chunked" in head.lower(), rest
        if not chunked:
            out.append((at, raw))
            raw = b""
            continue
        while True:
            size, found, rest = raw.partition(b"\r\n")
            if not found or len(rest) < (length := int(size.split(b";")[0], 16)) + 2:
                break
            out.append((at, rest[:length]))
            raw = rest[length + 2:]
    return status, out


def read_answer(sent: float, received: list[tuple[float, bytes]]) -> Answer:
    """The Answer in a raw HTTP answer: a stream of events, or one JSON document."""
    status, parts = payloads(received)
    answer = Answer(sent, ended=received[-1][0] if received else sent)
    if status != 200:
        said = b"".join(part for _, part in parts)[:200].decode("utf-8", "replace")
        answer.error = f"HTTP {status}: {said}" if status else "the connection ended without an answer"
        return answer
    pending, done = b"", False
    for at, part in parts:
        *events, pending = (pending + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                continue
            if event == b"data: [DONE]":
                done = True
            else:
                read_event(answer, at, json.loads(event[6:]))
    if not done and answer.error is None:
        answer.error = "the stream ended without [DONE]"
    return answer


def read_event(answer: Answer, at: float, event: dict[str, Any]) -> None:
    """Add one event of a stream to `answer`."""
    if "error" in event:
        answer.error = str(event["error"])[:200]
    for choice in event.get("choices") or ():
        piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        answer.text += piece
        if piece or not answer.times:
            answer.times.append(at)
    usage = event.get("usage") or {}
    answer.tokens = usage.get("completion_tokens", answer.tokens)


async def run(url: str, plan: list[Planned], *, streams: int | None = None, key: str | None = None) -> Measured:
    """Send each request of `plan` at its time, `streams` of them open at most (None: no bound), and await them all."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(streams or len(plan) or 1)
    place = urllib.parse.urlsplit(url)
    ready = [request_bytes(url, "/completions", json.dumps(one.body).encode(), key) for one in plan]
    cpu, began = time.process_time(), time.perf_counter()

    async def one(planned: Planned, request: bytes) -> tuple[float, list[tuple[float, bytes]]]:
        await asyncio.sleep(max(0.0, began + planned.at - time.perf_counter()))
        async with gate:
            sent, ended = time.perf_counter(), loop.create_future()
            try:
                _, connection = await loop.create_connection(lambda: Connection(request, ended), place.hostname,
                                                             place.port or 80)
            except OSError:
                return sent, []
            await ended
            return sent, connection.received

    raw = await asyncio.gather(*(one(planned, request) for planned, request in zip(plan, ready)))
    seconds = time.perf_counter() - began
    share = (time.process_time() - cpu) / seconds
    return Measured([read_answer(*received) for received in raw], seconds, share)


def completion(prompt: str | list[int], tokens: int) -> dict[str, Any]:
    """A streamed greedy completion of exactly `tokens` tokens, as our server, vLLM and llama-server take it."""
    return {"model": "default", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True}


def static_plan(batch: int, inputs: int, outputs: int, seed: int) -> list[Planned]:
    """`batch` requests at once, each of `inputs` seeded token ids (no two alike) and `outputs` tokens to come."""
    draw = random.Random(seed)
    return [Planned(0.0, completion(draw.choices(TOKENS, k=inputs), outputs)) for _ in range(batch)]


def lengths(count: int, seed: int) -> list[tuple[int, int]]:
    """(input, output) tokens of `count` requests, log-normal as ShareGPT's conversations are.

    Means 161 and 338 before cutting to LONGEST_INPUT and LONGEST_OUTPUT: Kwon et al. 2023, "Efficient Memory
    Management for Large Language Model Serving with PagedAttention", figure 11; the spread (sigma of the logarithm 1)
    is ours. The cut brings the outputs' mean to about 230.
    """
    draw = random.Random(seed)

    def one(mean: float, longest: int) -> int:
        return max(4, min(longest, round(mean * draw.lognormvariate(-0.5, 1.0))))

    return [(one(161, LONGEST_INPUT), one(338, LONGEST_OUTPUT)) for _ in range(count)]


def dynamic_plan(rate: float, seconds: float, seed: int) -> list[Planned]:
    """Poisson arrivals of `rate` requests a second for `seconds`, with ShareGPT-like lengths; at least one request."""
    draw, at, arrivals = random.Random(seed), 0.0, [0.0]
    while (at := at + draw.expovariate(rate)) < seconds:
        arrivals.append(at)
    return [Planned(at, completion(draw.choices(TOKENS, k=inputs), outputs))
            for at, (inputs, outputs) in zip(arrivals, lengths(len(arrivals), seed + 1))]


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` (0..1) of `values` do not exceed (nearest rank); 0.0 of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)] if ranked else 0.0


def summary(measured: Measured) -> dict[str, float]:
    """Tokens a second of the good answers and their latencies in seconds: TTFT, TPOT, inter-token p50, p90, p99."""
    good = [answer for answer in measured.answers if answer.error is None and answer.times]
    first = [answer.times[0] - answer.sent for answer in good]
    each = [(answer.times[-1] - answer.times[0]) / (answer.tokens - 1) for answer in good if answer.tokens > 1]
    gaps = [later - earlier for answer in good for earlier, later in zip(answer.times, answer.times[1:])]
    out = {"requests": len(measured.answers), "errors": len(measured.answers) - len(good),
           "tokens_per_second": sum(answer.tokens for answer in good) / measured.seconds,
           "seconds": measured.seconds, "client_share": measured.client_share}
    for name, values in (("ttft", first), ("tpot", each), ("itl", gaps)):
        out |= {f"{name}_p{round(100 * share)}": percentile(values, share) for share in (0.5, 0.9, 0.99)}
    return out
