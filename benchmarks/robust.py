"""Claim: nothing that a client sends or leaves undone brings the server down, leaks memory, or harms another request.

    python -m benchmarks.robust [models/scratch/int4] [--requests 10000] [--clients 500]

Four trials against one server: requests fuzzed from its own OpenAPI document (schemathesis, its checks on), hostile
bodies, clients that vanish in the middle of an answer, and more long answers at once than memory holds; then SIGTERM
under load. Meanwhile a witness repeats one request, and each of its answers must be the first one's bytes. After each
trial no sequence runs and no block is in use. The last line is one JSON document; exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tasks import params
from tasks.serve import client

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
         "/v1/embeddings", "/tokenize", "/admin/swap")
HOOKS = '''
import schemathesis

LIMITS = {"/v1/completions": "max_tokens", "/v1/chat/completions": "max_completion_tokens",
          "/v1/responses": "max_output_tokens", "/v1/messages": "max_tokens"}

@schemathesis.hook
def map_body(context, body):
    """A valid request asks for few tokens: it is the request that is on trial, not the model."""
    limit = LIMITS.get(context.operation.path)
    if limit and isinstance(body, dict) and (limit not in body or type(body[limit]) is int and body[limit] > 4):
        body = body | {limit: 4}
    return body
'''
# a schema cannot say which texts exceed the context, which regular expressions or JSON schemas compile
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "negative_data_rejection", "unsupported_method")
USER = [{"role": "user", "content": "hi"}]


def nested(depth: int, inner: Any = "x") -> Any:
    """A JSON schema `depth` objects deep."""
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


def hostile(chance: random.Random) -> tuple[str, bytes]:
    """A path and a body that no honest client sends."""
    path = chance.choice(PATHS)
    raw = (b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 50_000,
           b'{"prompt": NaN}', b'{"prompt": 1e999}', b'{"max_tokens": ' + b"9" * 5000 + b"}",
           b'{"prompt": "\\ud800", "messages": [{"role": "user", "content": "\\udfff"}]}', b"\x00" * 4096)
    numbers = (-1, 0, 2 ** 31, 2 ** 63, -2 ** 63, 10 ** 30, 1e308, -0.0, 0.5, True, "1", None, [], {})
    forms = ({"guided_regex": "(" * 2000}, {"guided_regex": "(a{1,1000}){1,1000}{1,1000}"},
             {"guided_regex": "(.*a.{18}b.*)+c"}, {"guided_regex": "(a|a)*" * 400 + "$"},
             {"guided_grammar": "start: a\na: a a | \"x\" |"}, {"guided_grammar": "start: " + "(" * 3000},
             {"guided_grammar": "root ::= " + "( " * 2000}, {"guided_json": nested(240)}, {"guided_json": "[" * 9000},
             {"guided_json": {"enum": [f"w{i}" for i in range(20_000)]}},
             {"guided_json": {"allOf": [{"type": "string", "pattern": f".*{i}.*"} for i in range(12)]}},
             {"guided_json": {"type": "array", "minItems": 10 ** 9, "items": {"type": "string"}}},
             {"guided_json": {"type": "string", "maxLength": 10 ** 12, "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}},
             {"guided_json": {"$ref": "#"}}, {"guided_json": {"$ref": "http://127.0.0.1:1/x"}},
             {"guided_choice": ["x" * 4096] * 1024}, {"structured_outputs": {"regex": "a", "json": {}}},
             {"response_format": {"type": "json_schema", "json_schema": {"schema": nested(220)}}},
             {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(200)}}]},
             {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(500)]})
    fields = ("max_tokens", "n", "temperature", "top_p", "top_k", "min_p", "seed", "logprobs", "presence_penalty",
              "repetition_penalty", "stop", "stream", "logit_bias", "model", "input", "messages", "prompt")
    kind = chance.randrange(6)
    if kind == 0:
        return path, chance.choice(raw)
    body: dict[str, Any] = {"prompt": "x", "max_tokens": 2} if path == "/v1/completions" else {
        "messages": USER, "max_tokens": 2, "model": "default"}
    if kind == 1:
        body[chance.choice(fields)] = chance.choice(numbers)
    elif kind == 2:
        body |= chance.choice(forms)
    elif kind == 3:
        body |= {"prompt": [chance.choice((-1, 2 ** 31, 10 ** 18, 49_152, 4096)) for _ in range(3)],
                 "logit_bias": {chance.choice(("-1", "999999", "x", "9" * 40)): 1}}
    elif kind == 4:
        body |= {"n": chance.choice((0, -1, 17, 10 ** 9)), "stop": [""] * chance.randrange(1, 20)}
    else:
        body |= {"prompt": "é" * chance.choice((0, 5000, 500_000)), "messages": USER * chance.choice((0, 1025))}
    return path, json.dumps(body).encode()


def shaped(path: str, answer: httpx.Response) -> bool:
    """Whether a refusal has the API's error object with a message."""
    try:
        error = answer.json()["error"]
        return bool(error["message"]) and ("type" in error) and (path.startswith("/v1/messages") or "param" in error)
    except (ValueError, KeyError, TypeError):
        return False


async def attack(root: str, count: int, seed: int, failures: list[str]) -> dict[str, int]:
    """Send hostile bodies, eight at a time, a few of them of 100 MB; statuses by count."""
    chance, seen = random.Random(seed), collections.Counter()
    gate = asyncio.Semaphore(8)

    async def one(http: httpx.AsyncClient, path: str, body: Any) -> None:
        async with gate:
            try:
                answer = await http.post(path, content=body, headers={"content-type": "application/json"})
            except httpx.TransportError as error:  # the server may close while a refused body is still being sent
                seen[f"closed: {type(error).__name__}"] += 1
                if isinstance(body, bytes):
                    failures.append(f"{path}: {type(error).__name__} for {body[:80]!r}")
                return
        seen[str(answer.status_code)] += 1
        if answer.status_code >= 500:
            failures.append(f"{path}: {answer.status_code} for {body[:200]!r}: {answer.text[:200]}")
        elif answer.status_code >= 400 and not shaped(path, answer):
            failures.append(f"{path}: a refusal without its shape: {answer.text[:200]}")

    async def endless() -> Any:
        for _ in range(100):
            yield b"a" * 2 ** 20

    async with httpx.AsyncClient(base_url=root, timeout=120) as http:
        await asyncio.gather(*(one(http, *hostile(chance)) for _ in range(count)),
                             *(one(http, path, endless()) for path in PATHS[:4]))
    return dict(sorted(seen.items()))


def fuzz(root: str, examples: int, failures: list[str]) -> dict[str, Any]:
    """schemathesis over the server's OpenAPI document; how many cases it made, and what its checks found."""
    with tempfile.TemporaryDirectory() as folder:
        hooks = Path(folder) / "hooks.py"
        hooks.write_text(HOOKS)
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{root}/openapi.json", "--url", root, "--phases",
                   "fuzzing", "--max-examples", str(examples), "--checks", ",".join(CHECKS), "--seed", "1",
                   "--continue-on-failure", "--no-color", "--generation-database", "none",
                   "--suppress-health-check", "all", "--request-timeout", "60"]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder,
                               env={**os.environ, "SCHEMATHESIS_HOOKS": str(hooks)})
    made = re.search(r"([\d,]+) generated", ended.stdout)
    count = int(made[1].replace(",", "")) if made else 0
    if ended.returncode or not count:
        failures.append(f"schemathesis ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-6000:]}")
    return {"cases": count, "exit": ended.returncode}


async def vanish(port: int, count: int, seed: int) -> int:
    """Clients that ask for a long streamed answer, read a little, and reset the connection; how many got a byte."""
    chance, gate, reached = random.Random(seed), asyncio.Semaphore(50), 0
    bodies = {"/v1/completions": {"prompt": "The", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 2},
              "/v1/chat/completions": {"messages": USER, "max_tokens": 400, "ignore_eos": True, "stream": True},
              "/v1/messages": {"model": "default", "messages": USER, "max_tokens": 400, "stream": True},
              "/v1/responses": {"input": "hi", "max_output_tokens": 400, "stream": True}}

    async def one() -> None:
        nonlocal reached
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            path = chance.choice(list(bodies))
            body = json.dumps(bodies[path]).encode()
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if chance.random() < 0.8:
                got = await reader.read(chance.randrange(1, 2000))
                reached += bool(got)
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                                           struct.pack("ii", 1, 0))
            writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(count)))
    return reached


async def exhaust(root: str, count: int, failures: list[str]) -> dict[str, int]:
    """Answers that each fill the context, more at once than there is memory for: all end, none is short."""
    async with httpx.AsyncClient(base_url=root, timeout=600) as http:
        context = (await http.get("/v1/models")).json()["data"][0]["max_model_len"]
        ask = {"prompt": [5] * 8, "max_tokens": context - 8, "ignore_eos": True, "temperature": 0}
        answers = await asyncio.gather(*(http.post("/v1/completions", json=ask) for _ in range(count)))
    seen = collections.Counter(str(answer.status_code) for answer in answers)
    texts = {answer.json()["choices"][0]["text"] for answer in answers if answer.status_code == 200}
    short = sum(answer.json()["usage"]["completion_tokens"] != context - 8 for answer in answers
                if answer.status_code == 200)
    if set(seen) - {"200", "429"} or len(texts) != 1 or short:
        failures.append(f"exhaustion: statuses {dict(seen)}, {len(texts)} different answers, {short} short ones")
    return dict(seen)


async def stopped(process: psutil.Process, port: int, streams: int, failures: list[str]) -> dict[str, int]:
    """SIGTERM while `streams` answers run: each ends whole, and the server ends by itself."""
    seen, running = collections.Counter(), asyncio.Event()

    async def one() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            ask = {"prompt": "The", "max_tokens": 60, "ignore_eos": True, "stream": True}
            async with http.stream("POST", "/v1/completions", json=ask) as answer:
                text = ""
                async for piece in answer.aiter_text():
                    text += piece
                    running.set()
        seen["whole" if text.endswith("data: [DONE]\n\n") else "cut"] += 1

    work = [asyncio.create_task(one()) for _ in range(streams)]
    await running.wait()
    process.send_signal(signal.SIGTERM)
    await asyncio.gather(*work, return_exceptions=True)
    for task in work:
        if task.exception() is not None:  # its connection came after the signal
            seen["refused"] += 1
    with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        await asyncio.to_thread(process.wait, 40)
    if process.is_running() and process.status() != psutil.STATUS_ZOMBIE or seen["cut"] or not seen["whole"]:
        failures.append(f"SIGTERM: {dict(seen)}")
    return dict(seen)


@contextlib.contextmanager
def witnessed(root: str, failures: list[str]) -> Iterator[collections.Counter]:
    """While the block runs, one request is repeated; a different answer, or none, is a failure."""
    told: collections.Counter = collections.Counter()
    ended, said = threading.Event(), []
    ask = {"prompt": "The quick brown", "max_tokens": 6, "temperature": 0, "ignore_eos": True}

    def repeat() -> None:
        with httpx.Client(base_url=root, timeout=120) as http:
            while not ended.is_set():
                try:
                    answer = http.post("/v1/completions", json=ask)
                except httpx.TransportError as error:
                    failures.append(f"the witness got no answer: {type(error).__name__}")
                    return
                if answer.status_code == 429:  # the queue is full of others
                    told["put off"] += 1
                elif answer.status_code == 200:
                    said.append(answer.json()["choices"][0]["text"])
                    told["answered"] += 1
                    if said[-1] != said[0]:
                        failures.append(f"the witness was told {said[-1]!r} after {said[0]!r}")
                else:
                    failures.append(f"the witness got {answer.status_code}: {answer.text[:200]}")
                time.sleep(0.05)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield told
    finally:
        ended.set()
        thread.join()


def settled(root: str, failures: list[str], trial: str) -> None:
    """Within ten seconds nothing runs, waits or holds memory."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    for _ in range(200):
        text = httpx.get(f"{root}/metrics").text
        left = {name: float(value) for name in names
                for value in re.findall(rf"^catena:{name}\S* (\S+)$", text, re.MULTILINE) if float(value)}
        if not left:
            return
        time.sleep(0.05)
    failures.append(f"after {trial}: {left}")


def trials(process: psutil.Process, url: str, *, requests: int, clients: int, slots: int) -> dict[str, Any]:
    """All trials against a running server, the last of which ends it; counts, and what failed."""
    root, port = url.removesuffix("/v1"), int(url.split(":")[-1].split("/")[0])
    failures: list[str] = []
    found: dict[str, Any] = {"witness": {}}
    examples = max(1, requests // 2 // 10)
    memory = process.memory_info().rss
    for name, trial in (("fuzzed", lambda: fuzz(root, examples, failures)),
                        ("hostile", lambda: asyncio.run(attack(root, requests // 2, 1, failures))),
                        ("vanished", lambda: asyncio.run(vanish(port, clients, 1))),
                        ("exhausted", lambda: asyncio.run(exhaust(root, 2 * slots, failures)))):
        started = time.perf_counter()
        with witnessed(root, failures) as told:
            found[name] = trial()
        settled(root, failures, name)
        found["witness"][name] = dict(told)
        print(f"{name:<10} {time.perf_counter() - started:6.1f} s  {found[name]}  witness {dict(told)}", flush=True)
    found["rss_bytes"] = {"before": memory, "after": process.memory_info().rss}
    found["terminated"] = asyncio.run(stopped(process, port, 2 * slots, failures))
    print(f"terminated {found['terminated']}", flush=True)
    return found | {"failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/scratch/int4"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    given = parser.parse_args()
    with client.process(given.model, threads=params.runtime().threads, slots=given.slots) as (process, url):
        found = trials(process, url, requests=given.requests, clients=given.clients, slots=given.slots)
    for failure in found["failures"]:
        print(f"FAILED {failure}")
    print(json.dumps(found, ensure_ascii=False))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
