"""Serve the int4 model and drive it as a client would: does everything complete, agree and refuse rightly?

    python -m tasks.serve.bench models/T/int4 data/evalsets/held_out.jsonl metrics/serve_bench/T.json --track T

The metrics are counts, the same on every run: seconds (tokens/s, time to first token, memory) go to
.runtime/timing/serve_bench-T.json. Gates: what serves the model (the CPU kernels where a compiler builds them) computes
what the dequantized torch model does, within limits; every request completes; an answer at temperature 0 has the same
tokens whether its request is alone or shares the batch.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
from pydantic import Field

from tasks import params, progress, stage
from tasks.finetune import environment
from tasks.serve import client, load
from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError, read_files
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
    documents: int = Field(ge=1, le=1000, description="held-out documents of the comparison with torch")
    tokens: int = Field(ge=8, le=2048, description="tokens read of each")
    min_top1: float = Field(ge=0, le=1, description="least share of positions with torch's most likely token")
    max_kl: float = Field(gt=0, description="largest mean KL(torch || what serves), nats a token")


def serve_bench(model: Input, held_out: Input, metrics: Output, *, serve_bench: ServeBenchParams, seed: int,
                runtime: params.Runtime) -> None:
    """Run every round and check, write the counts. Raises StageError when a request fails or the batch leaks."""
    wanted = prompts(held_out, serve_bench, seed)
    computed = beside_torch(model, held_out, serve_bench, runtime)
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
    stage.write_json(metrics, found | {"beside_torch": computed})
    check(found)


def beside_torch(model: Path, held_out: Path, limits: ServeBenchParams, runtime: params.Runtime) -> dict[str, Any]:
    """Top-1 agreement and KL of what serves `model` against its dequantized weights in torch.

    Raises StageError where a limit is missed, or the directory cannot be served.
    """
    environment.prepare(runtime, environment.SHORT_SPIN)
    import torch
    from tokenizers import Tokenizer

    from tasks.quantize import formats, parity

    reference = formats.load_dequantized(model)
    texts = parity.held_out_tokens(held_out, Tokenizer.from_file(str(model / "tokenizer.json")), limits.documents,
                                   min(limits.tokens, reference.config.max_position_embeddings))
    expected = [parity.log_probabilities(reference, tokens) for tokens in progress.track(texts, what="torch")]
    try:
        serving = backends.load(read_files(model), threads=runtime.threads, slots=1)
    except ModelError as error:
        raise StageError(str(error)) from None
    table = np.arange(serving.blocks, dtype=np.int32)[None]

    def run(tokens: np.ndarray) -> torch.Tensor:
        every = np.arange(len(tokens))
        return torch.from_numpy(serving.step(tokens, every, np.zeros_like(every), table, every)).log_softmax(-1)

    scores = parity.compare(run, expected, texts)
    serving.close()
    parity.judge(f"what serves {model}", scores, limits, "serve_bench")
    return scores | {"backend": type(serving).__name__, "limits": {"top1": limits.min_top1, "kl": limits.max_kl}}


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
    """(metrics, seconds of each round: tasks/serve/load.py `summary`)."""
    server = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    plan = [load.Planned(0.0, load.completion(text, limits.max_tokens)) for text in wanted]
    more = [n for n in limits.streams if n > 1]
    total = len(wanted) * (1 + len(more)) + len(wanted) * len(CHOICES) + len(BAD_BODIES)
    rounds: dict[int, load.Measured] = {}
    with progress.track(total=total, what="serve", unit="request") as bar:
        await server.completions.create(model="default", prompt=wanted[0], max_tokens=1)  # the first is slower
        for streams in (1, *more):
            rounds[streams] = await load.run(url, plan, streams=streams)
            bar.update(len(plan))
        calls = [await call(server, text, choice, bar) for text in wanted for choice in CHOICES]
        errors = [await refusal(server, *bad, bar) for bad in BAD_BODIES]
    answers = [answer for done in rounds.values() for answer in done.answers]
    for answer in answers:
        if answer.error is not None:
            raise StageError(f"serve_bench: a request failed: {answer.error}")
    alone = [answer.text for answer in rounds[1].answers]
    compared = [(answer.text, text) for n in more for answer, text in zip(rounds[n].answers, alone)]
    return ({"requests": len(answers), "completed": sum(answer.tokens == limits.max_tokens for answer in answers),
             "tokens": sum(answer.tokens for answer in answers), "compared": len(compared),
             "parity": sum(text == other for text, other in compared),
             "calls": len(calls), "calls_valid": sum(calls), "errors": len(errors), "errors_right": sum(errors),
             "streams": [1, *more]},
            {str(n): load.summary(done) for n, done in rounds.items()})


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


if __name__ == "__main__":
    stage.run(serve_bench)
