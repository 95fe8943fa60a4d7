"""Claim: the served int4 model is faster than `transformers.generate` on the weights it came from, alone or in batch.

    python -m benchmarks.serve [models/smollm2] [--tokens 32] [--rounds 3]

Ours is measured through its public HTTP API with the openai client; transformers in bfloat16 in this process, the
batch as one `generate` call (it pays for no server). The contenders take turns, so that a busy machine is busy for
both: trust the ratios. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import openai
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks import params
from tasks.serve import client

BATCHES = (1, 4, 8)
PROMPT = "The history of the city begins with a small settlement on the river, where traders met and"


async def served(url: str, batch: int, tokens: int) -> float:
    """Tokens a second of `batch` streams at once through the server."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600) as server:
        started = time.perf_counter()
        answers = await asyncio.gather(*(server.completions.create(
            model="default", prompt=PROMPT, max_tokens=tokens, temperature=0, extra_body={"ignore_eos": True})
            for _ in range(batch)))
        return sum(answer.usage.completion_tokens for answer in answers) / (time.perf_counter() - started)


@torch.inference_mode()
def generated(model: torch.nn.Module, prompt: torch.Tensor, batch: int, tokens: int) -> float:
    """Tokens a second of one `generate` call."""
    ids = prompt.repeat(batch, 1)
    started = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                   min_new_tokens=tokens)
    return batch * tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", type=Path, nargs="?", default=Path("models/smollm2"))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    threads = params.runtime().threads
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(given.track / "chat", dtype=torch.bfloat16).eval()
    prompt = AutoTokenizer.from_pretrained(given.track / "chat")(PROMPT, return_tensors="pt").input_ids
    found: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    with client.process(given.track / "onnx", threads=threads, slots=max(BATCHES)) as (process, url):
        asyncio.run(served(url, 1, 4))
        generated(model, prompt, 1, 4)
        for _ in range(given.rounds):
            for batch in BATCHES:
                found[batch].append((asyncio.run(served(url, batch, given.tokens)),
                                     generated(model, prompt, batch, given.tokens)))
        memory = process.memory_info().rss
    rows = {str(batch): {"served": statistics.median(ours for ours, _ in pairs),
                         "transformers": statistics.median(theirs for _, theirs in pairs),
                         "ratio": statistics.median(ours / theirs for ours, theirs in pairs)}
            for batch, pairs in found.items()}
    print(f"{'streams':>8} {'served':>8} {'transformers bf16':>18} {'ratio':>6}   tokens/s, {given.rounds} rounds")
    for batch, row in rows.items():
        print(f"{batch:>8} {row['served']:8.1f} {row['transformers']:18.1f} {row['ratio']:6.2f}")
    print(json.dumps({"model": str(given.track), "threads": threads, "tokens": given.tokens, "rows": rows,
                      "server_rss_bytes": memory}))


if __name__ == "__main__":
    main()
