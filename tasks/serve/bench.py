"""Serve the exported model and drive it as a client would: does everything complete, agree and refuse rightly?

    python -m tasks.serve.bench models/T/onnx data/evalsets/held_out.jsonl metrics/serve_bench/T.json --track T

The metrics are counts, the same on every run: seconds (tokens/s, time to first token, memory) go to
.runtime/timing/serve_bench-T.json. Gate: every request completes, and an answer at temperature 0 has the same tokens
whether its request is alone or shares the batch.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
from pydantic import Field

from tasks import params, progress, stage
from tasks.serve import client
from tasks.stage import Input, Output, StageError

TOOLS = [{"type": "function", "function": {
    "name": name, "description": what, "parameters": {
        "type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}}}
    for name, what, properties in (
        ("lookup", "finds a document", {"title": {"type": "string", "maxLength": 24}}),
        ("count", "counts words", {"words": {"type": "integer", "minimum": 0, "maximum": 999},
                                   "exact": {"type": "boolean"}}))]
CHOICES: tuple[Any, ...] = ("required", {"type": "function", "function": {"name": "count"}})
BAD_BODIES: tuple[tuple[str, dict[str, Any], int, str | None], ...] = (
    ("/completions", {"prompt": None}, 400, "prompt"),
    ("/completions", {"prompt": "x", "temperature": -1}, 400, "temperature"),
    ("/completions", {"prompt": [10 ** 9]}, 400, "prompt"),
    ("/completions", {"prompt": "x", "max_tokens": 10 ** 6}, 400, "prompt"),
    ("/completions", {"prompt": "x", "model": "absent"}, 404, "model"),
    ("/chat/completions", {"messages": []}, 400, "messages"),
    ("/chat/completions", {"messages": [{"role": "user", "content": "x"}], "colour": 1}, 400, "colour"),
    ("/nothing", {}, 404, None),
)


class ServeBenchParams(params.Section):
    """How much is asked of the server."""

    prompts: int = Field(ge=1, le=1000, description="prompts made from held-out text")
    prompt_characters: int = Field(ge=1, le=100_000, description="length of each")
    max_tokens: int = Field(ge=2, le=4096, description="tokens generated for each, the end of a turn ignored")
    streams: list[int] = Field(min_length=1, description="requests open at once, a round each; 1 is always run")


@dataclass
class Round:
    """What one round of requests brought: texts by prompt, token counts and times."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)


def serve_bench(model: Input, held_out: Input, metrics: Output, *, serve_bench: ServeBenchParams, seed: int,
                runtime: params.Runtime) -> None:
    """Run every round and check, write the counts. Raises StageError when a request fails or the batch leaks."""
    wanted = prompts(held_out, serve_bench, seed)
    started = time.perf_counter()
    try:
        with client.process(model, threads=runtime.threads, slots=max(serve_bench.streams)) as (server, url):
            loaded = time.perf_counter() - started
            found, timing = asyncio.run(drive(url, wanted, serve_bench))
            memory = server.memory_info().rss
    except client.ServerError as error:
        raise StageError(str(error)) from None
    stage.write_timing(f"serve_bench-{model.parent.name}",
                       {"load_seconds": loaded, "rss_bytes": memory, "rounds": timing,
                        "machine_cpus": psutil.cpu_count()})
    stage.write_json(metrics, found)
    check(found)


def check(found: dict[str, Any]) -> None:
    """Raise StageError where a count is not what it must be."""
    for name, (good, of) in {"requests": (found["completed"], found["requests"]),
                             "greedy parity": (found["parity"], found["compared"]),
                             "tool calls": (found["calls_valid"], found["calls"]),
                             "error answers": (found["errors_right"], found["errors"])}.items():
        if good != of:
            raise StageError(f"serve_bench: {name}: {good} of {of}; the server must reach all")


def prompts(held_out: Path, limits: ServeBenchParams, seed: int) -> list[str]:
    """Pieces of held-out documents, chosen and cut by `seed`."""
    with held_out.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    if not texts:
        raise StageError(f"{held_out} holds no document to make prompts from")
    chance = random.Random(seed)
    out = []
    for _ in range(limits.prompts):
        text = chance.choice(texts)
        start = chance.randrange(max(1, len(text) - limits.prompt_characters))
        out.append(text[start:start + limits.prompt_characters])
    return out


async def drive(url: str, wanted: list[str], limits: ServeBenchParams) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, seconds of each round)."""
    server = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    more = [n for n in limits.streams if n > 1]
    total = len(wanted) * (1 + len(more)) + len(wanted) * len(CHOICES) + len(BAD_BODIES)
    with progress.track(total=total, what="serve", unit="request") as bar:
        await server.completions.create(model="default", prompt=wanted[0], max_tokens=1)  # the first is slower
        alone = await one_round(server, wanted, 1, limits.max_tokens, bar)
        rounds = {n: await one_round(server, wanted, n, limits.max_tokens, bar) for n in more}
        calls = [await call(server, text, choice, bar) for text in wanted for choice in CHOICES]
        errors = [await refusal(server, *bad, bar) for bad in BAD_BODIES]
    texts = [text for done in rounds.values() for text in done.texts]
    parity = sum(text == alone.texts[i % len(wanted)] for i, text in enumerate(texts))
    complete = [alone, *rounds.values()]
    return ({"requests": len(wanted) * len(complete), "completed": sum(len(done.texts) for done in complete),
             "tokens": sum(done.tokens for done in complete), "compared": len(texts), "parity": parity,
             "calls": len(calls), "calls_valid": sum(calls), "errors": len(errors), "errors_right": sum(errors),
             "streams": [1, *more]},
            {str(n): seconds(done) for n, done in {1: alone, **rounds}.items()})


async def one_round(server: openai.AsyncOpenAI, wanted: list[str], streams: int, tokens: int, bar: Any) -> Round:
    """Every prompt once, greedy, `streams` of them open at a time; texts in the prompts' order."""
    done, gate = Round(), asyncio.Semaphore(streams)
    started = time.perf_counter()

    async def one(text: str) -> str:
        async with gate:
            sent = time.perf_counter()
            first, pieces, generated = 0.0, [], 0
            async for chunk in await server.completions.create(
                    model="default", prompt=text, max_tokens=tokens, temperature=0, stream=True,
                    stream_options={"include_usage": True}, extra_body={"ignore_eos": True}):
                if chunk.usage:
                    generated = chunk.usage.completion_tokens
                if chunk.choices:
                    first = first or time.perf_counter()
                    pieces.append(chunk.choices[0].text)
            done.tokens += generated
            done.first.append(first - sent)
            done.each.append((time.perf_counter() - first) / max(1, generated - 1))
            bar.update()
            return "".join(pieces)

    done.texts = await asyncio.gather(*map(one, wanted))
    done.seconds = time.perf_counter() - started
    return done


async def call(server: openai.AsyncOpenAI, text: str, choice: Any, bar: Any) -> bool:
    """Whether a turn that must call a tool holds one whole call of the right form."""
    answer = await server.chat.completions.create(
        model="default", messages=[{"role": "user", "content": text[:80]}], tools=TOOLS, tool_choice=choice,
        temperature=0, max_completion_tokens=192)
    bar.update()
    made = answer.choices[0].message.tool_calls or []
    if len(made) != 1 or answer.choices[0].finish_reason != "tool_calls":
        return False
    name, arguments = made[0].function.name, json.loads(made[0].function.arguments)
    expected = {"lookup": {"title": str}, "count": {"words": int, "exact": bool}}.get(name, {})
    allowed = choice == "required" or name == "count"
    return allowed and {key: type(value) for key, value in arguments.items()} == expected


async def refusal(server: openai.AsyncOpenAI, path: str, body: dict[str, Any], status: int, field: str | None,
                  bar: Any) -> bool:
    """Whether a bad body is answered with `status` and an error that names `field`."""
    bar.update()
    try:
        await server.post(path, body=body, cast_to=object)
    except openai.APIStatusError as error:
        named = error.body.get("param") if isinstance(error.body, dict) else "no body"
        return error.status_code == status and named == field
    return False


def seconds(done: Round) -> dict[str, float]:
    """Throughput and latency of a round."""
    def at(values: list[float], share: float) -> float:
        return sorted(values)[min(len(values) - 1, int(share * len(values)))]

    return {"tokens_per_second": done.tokens / done.seconds, "ttft_p50": at(done.first, 0.5),
            "ttft_p90": at(done.first, 0.9), "tpot_p50": at(done.each, 0.5), "seconds": done.seconds}


if __name__ == "__main__":
    stage.run(serve_bench)
