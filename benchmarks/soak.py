"""Claim: an hour of mixed load leaves the server as it was: flat memory, no held block, no work when idle.

    python -m benchmarks.soak [models/smollm2/int4] [--minutes 60] [--clients 6] [--seed 1] [--plot docs/soak.png]

Starts our server on the directory and sends it, from --clients at once: completions, chats and tool calls, long
prompts, clients that vanish in mid-stream, bodies that must be refused, and embeddings where the server has them. Each
second the server's resident memory, requests and key-value memory (/metrics) are noted. At the end: load time (limit
2 s), growth by the hour (Theil-Sen slope with its 95 % interval, first quarter left out; flat: the interval reaches
down to 1 % of the median), key-value memory in use (0), CPU over IDLE idle seconds (below 1 % of a core), resident
memory (weights, the fp16 keys and values of --slots whole contexts, and 200 MB). Every answer is checked: a wrong
status or a broken stream counts as a fault. Exit code 1 where a limit is missed.

Runs at nice 19 beside other work, and may be stopped and continued (kill -STOP and -CONT of its process group): it
counts its own samples, not the clock. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tasks.serve import client, load
from tasks.serve.engine.directory import ModelError, ModelFiles, read_files

KINDS = {"completion": 6, "chat": 4, "tool": 2, "long": 2, "vanish": 4, "refused": 3, "embedding": 2}  # weights
TOOL = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["a"],
    "additionalProperties": False}}}
BAD = ({"prompt": "x", "temperature": -1}, {"prompt": None}, {"prompt": "x", "max_tokens": 10 ** 7},
       {"prompt": [10 ** 9]}, {"prompt": "x", "n": 10 ** 6}, {"prompt": "x", "colour": 1})
IDLE, STALLED = 10, 300  # seconds without work at the end; samples without an answer that end the run
LOAD_LIMIT, GROWTH_LIMIT, IDLE_LIMIT, OVERHEAD = 2.0, 0.01, 0.01, 200_000_000


@dataclass
class Soak:
    """What a run has seen so far."""

    url: str
    process: psutil.Process
    embeddings: bool
    samples: list[dict[str, float]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    over: bool = False


async def exchange(url: str, path: str, body: bytes, *, pieces: int | None = None, method: str = "POST") -> bytes:
    """The raw answer to a request; with `pieces` the client vanishes after so many reads."""
    place = load.urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(load.request_bytes(url, path, body, method=method))
    received = b""
    try:
        while piece := await reader.read(2 ** 16):
            received += piece
            if pieces is not None and (pieces := pieces - 1) < 0:
                writer.transport.abort()
                break
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return received


def body(kind: str, draw: random.Random) -> tuple[str, dict[str, Any], int]:
    """(path, body, expected status) of one request of `kind`."""
    words = " ".join(draw.choices(("river", "city", "trade", "the", "of", "and", "old", "bridge"), k=40))
    tokens = draw.randint(1, 48)
    if kind == "refused":
        return "/completions", {"model": "default"} | draw.choice(BAD), 400
    if kind == "embedding":
        return "/embeddings", {"model": "default", "input": [words, words[:20]]}, 200
    if kind in ("chat", "tool"):
        more = {"tools": [TOOL], "tool_choice": "required"} if kind == "tool" else {"stream": draw.random() < 0.5}
        return "/chat/completions", {"model": "default", "messages": [{"role": "user", "content": words}],
                                     "max_tokens": 64 if kind == "tool" else tokens} | more, 200
    prompt = draw.choices(load.TOKENS, k=draw.randint(200, 400) if kind == "long" else draw.randint(1, 60))
    return "/completions", load.completion(prompt, 200 if kind == "vanish" else tokens), 200


async def one(soak: Soak, draw: random.Random) -> None:
    """Send one request of a kind drawn by weight, and check what comes back."""
    kinds = {kind: weight for kind, weight in KINDS.items() if kind != "embedding" or soak.embeddings}
    (kind,) = draw.choices(list(kinds), kinds.values())
    path, wanted, status = body(kind, draw)
    try:
        raw = await exchange(soak.url, path, json.dumps(wanted).encode(),
                             pieces=draw.randint(0, 12) if kind == "vanish" else None)
    except OSError as error:
        soak.faults.append(f"{kind}: {error}")
        await asyncio.sleep(1)  # a dead server is not hammered
        return
    soak.answered[kind] += 1
    found, parts = load.payloads([(0.0, raw)])
    if kind == "vanish":
        return
    said = b"".join(part for _, part in parts)
    if found != status or (wanted.get("stream") and found == 200 and not said.endswith(b"data: [DONE]\n\n")):
        soak.faults.append(f"{kind}: HTTP {found}: {said[-200:].decode('utf-8', 'replace')}")


def gauges(text: bytes) -> dict[str, float]:
    """Running, waiting and key-value use in a Prometheus exposition."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return {name: float(found[1]) for name in names
            if (found := re.search(rf"^catena:{name}(?:{{.*}})? (\S+)$", text.decode(), re.MULTILINE))}


async def sample(soak: Soak) -> dict[str, float]:
    """Memory and gauges now."""
    _, parts = load.payloads([(0.0, await exchange(soak.url.removesuffix("/v1"), "/metrics", b"", method="GET"))])
    return {"rss_bytes": soak.process.memory_info().rss, **gauges(b"".join(part for _, part in parts))}


async def drive(soak: Soak, samples: int, clients: int, seed: int) -> None:
    """Load for `samples` seconds of sampling. Raises ServerError where the server ends or stands still."""
    async def worker(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        while not soak.over:
            await one(soak, draw)

    workers = [asyncio.create_task(worker(number)) for number in range(clients)]
    moved, before = 0, 0
    try:
        for number in range(samples):
            await asyncio.sleep(1)
            if not soak.process.is_running() or soak.process.status() == psutil.STATUS_ZOMBIE:
                raise client.ServerError(f"the server died after {number} s of load")
            soak.samples.append(await sample(soak))
            if (count := soak.answered.total()) > before:
                moved, before = number, count
            if number - moved > STALLED:
                raise client.ServerError(f"no request was answered for {STALLED} s, after {number} s of load")
            if number % 60 == 59:
                print(f"{number + 1} s, {count} answers, {len(soak.faults)} faults, "
                      f"{soak.samples[-1]['rss_bytes'] / 1e6:.0f} MB", file=sys.stderr)
    finally:
        soak.over = True
        for task in workers:
            if sys.exc_info()[0]:
                task.cancel()
        await asyncio.gather(*workers, return_exceptions=bool(sys.exc_info()[0]))


async def settled(soak: Soak) -> dict[str, float]:
    """Gauges once nothing runs (or after 30 s), and the share of a core the server takes while idle."""
    for _ in range(30):
        await asyncio.sleep(1)
        found = await sample(soak)
        if not found["num_requests_running"] and not found["num_requests_waiting"]:
            break
    before, began = sum(soak.process.cpu_times()[:2]), time.perf_counter()
    await asyncio.sleep(IDLE)
    found["idle_cpu"] = (sum(soak.process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    return found


def growth(rss: list[float]) -> dict[str, float]:
    """Bytes an hour of a series by seconds: Theil-Sen slope and its 95 % interval over 10 s medians.

    The first quarter, in which caches fill, is left out. Needs 80 samples; fewer give zeros and an endless interval.
    """
    from scipy import stats

    later = rss[len(rss) // 4:]
    medians = [sorted(later[start:start + 10])[5] for start in range(0, len(later) - 9, 10)]
    if len(medians) < 6:
        return {"slope": 0.0, "least": -sys.float_info.max, "most": sys.float_info.max}
    slope, _, least, most = stats.theilslopes(medians)
    return {"slope": 360 * float(slope), "least": 360 * float(least), "most": 360 * float(most)}


def memory_limit(files: ModelFiles, slots: int) -> int:
    """Bytes that may be resident: the weights' file, fp16 keys and values of `slots` whole contexts, OVERHEAD."""
    config = files.config
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
    weights = sum(file.stat().st_size for name in ("model.safetensors", "model.onnx")
                  if (file := files.directory / name).is_file())
    return weights + slots * files.context * token + OVERHEAD


def judged(soak: Soak, loaded: float, end: dict[str, float], limit_bytes: float) -> dict[str, dict[str, Any]]:
    """name -> {value, limit, good} of every claim."""
    rss = [one["rss_bytes"] for one in soak.samples]
    slope = growth(rss)
    allowed = GROWTH_LIMIT * sorted(rss)[len(rss) // 2]
    claims = {
        "load_seconds": (loaded, LOAD_LIMIT), "faults": (len(soak.faults), 0),
        "growth_bytes_per_hour": (slope["least"], allowed),
        "kv_cache_usage_perc": (end["kv_cache_usage_perc"], 0), "requests_left": (
            end["num_requests_running"] + end["num_requests_waiting"], 0),
        "idle_cpu": (end["idle_cpu"], IDLE_LIMIT), "rss_bytes": (max(rss), limit_bytes)}
    out = {name: {"value": value, "limit": limit, "good": value <= limit} for name, (value, limit) in claims.items()}
    out["growth_bytes_per_hour"] |= {"slope": slope["slope"], "most": slope["most"]}
    return out


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """Memory and key-value use by time, one PNG."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    minutes = [number / 60 for number in range(len(samples))]
    upper.plot(minutes, [one["rss_bytes"] / 1e6 for one in samples])
    upper.set(ylabel="server, resident MB", ylim=(0, None))
    lower.plot(minutes, [100 * one["kv_cache_usage_perc"] for one in samples])
    lower.set(ylabel="key-value memory in use, %", xlabel="minutes of mixed load", ylim=(0, 105))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


async def soaked(soak: Soak, given: argparse.Namespace) -> dict[str, float]:
    """The load, then the silence after it."""
    await drive(soak, round(60 * given.minutes), given.clients, given.seed)
    return await settled(soak)


def main() -> None:
    """The command line. Exit codes: 0 all limits kept, 1 one missed or no server, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/smollm2/int4"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    given = parser.parse_args()
    if not given.model.is_dir():
        parser.error(f"{given.model} is no model directory")
    if not 0.1 <= given.minutes <= 10_000 or min(given.clients, given.threads, given.slots) < 1:
        parser.error("--minutes must be 0.1 to 10000; --clients, --threads and --slots 1 or more")
    try:
        limit = memory_limit(read_files(given.model), given.slots)
    except ModelError as error:
        sys.exit(f"error: {error}")
    os.nice(19)
    began = time.perf_counter()
    try:
        with client.process(given.model, threads=given.threads, slots=given.slots) as (process, url):
            loaded = time.perf_counter() - began
            probe = asyncio.run(exchange(url, "/embeddings", b'{"model": "default", "input": "x"}'))
            soak = Soak(url, process, embeddings=probe.startswith(b"HTTP/1.1 200"))
            end = asyncio.run(soaked(soak, given))
    except client.ServerError as error:
        sys.exit(f"error: {error}")
    found = judged(soak, loaded, end, limit)
    if given.plot:
        draw(soak.samples, given.plot)
    print(f"{soak.answered.total()} answers: " + ", ".join(f"{n} {kind}" for kind, n in soak.answered.most_common()))
    for name, row in found.items():
        print(f"{'ok  ' if row['good'] else 'MISS'} {name:24}{row['value']:16.4g}  limit {row['limit']:.4g}")
    for fault in soak.faults[:5]:
        print(f"fault: {fault}")
    print(json.dumps({"model": str(given.model), "seconds": len(soak.samples), "answers": dict(soak.answered),
                      "claims": found, "faults": soak.faults[:20]}))
    sys.exit(0 if all(row["good"] for row in found.values()) else 1)


if __name__ == "__main__":
    main()
