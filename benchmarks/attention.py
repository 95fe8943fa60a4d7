"""Claim: paged attention runs near the machine's limits, decoding by its memory's and prefill by its arithmetic's.

    python -m benchmarks.attention [--threads 2] [--rounds 7] [--layers 10]

SmolLM2-135M's shape (9 heads of 64 that share 3 key/value heads): decoding one token of each of 8 sequences at context
1000, and prefill of 512 tokens, over `--layers` layers whose pages together are larger than the caches. Beside it
torch's scaled_dot_product_attention over contiguous keys and values, fp32 and bf16: the easier task, without pages.
All take turns in every round; ratios are torch's time over ours in the same round. What the machine gives is measured
too: reading and copying memory with as many threads, multiply-adds in registers. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from kernels.attention import operators, reference

HEADS, KV_HEADS, DIM = 9, 3, 64
SEQUENCES, CONTEXT, PROMPT = 8, 1000, 512
MEMORY = 1 << 28  # bytes read or copied to measure the machine


class Own:
    """Our pages of `layers` layers with CONTEXT tokens of SEQUENCES sequences, filled at random."""

    def __init__(self, kind: int, layers: int, threads: int, pool: ThreadPoolExecutor) -> None:
        self.blocks = -(-CONTEXT // 16)
        draw = np.random.default_rng(0)
        self.threads, self.pool = threads, pool
        self.table = draw.permutation(SEQUENCES * self.blocks).astype(np.int32)
        self.caches = [operators.Cache(operators.isas()[-1], kind, DIM, KV_HEADS, len(self.table))
                       for _ in range(layers)]
        tokens = draw.standard_normal((2, 16 * self.blocks, DIM)).astype(np.float32)
        first = self.caches[0]
        for sequence in range(SEQUENCES):
            for head in range(KV_HEADS):
                first.store(self.table[sequence * self.blocks:], head, *tokens)
        for cache in self.caches[1:]:
            cache.memory[:] = first.memory
        self.layers = (operators.Pages * layers)(*(cache.pages for cache in self.caches))
        self.bytes = first.memory.nbytes * layers
        self.scratch = [np.empty_like(first.scratch) for _ in range(threads)]
        self.q = draw.standard_normal((SEQUENCES * PROMPT, HEADS, DIM)).astype(np.float32)
        self.out = np.empty_like(self.q)

    def attend(self, sequences: int, first: int, rows: int) -> None:
        """All layers; threads share the sequences' key/value heads."""
        def share(thread: int) -> None:
            self.caches[0].native.attend_layers(
                self.layers, len(self.layers), self.table.ctypes.data, sequences, self.blocks, first,
                self.q.ctypes.data, rows, HEADS // KV_HEADS, self.out.ctypes.data, DIM ** -0.5,
                self.scratch[thread].ctypes.data, thread, self.threads)
        list(self.pool.map(share, range(self.threads)))


def torch_attention(dtype: torch.dtype, layers: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """(decoding step, prefill) of torch over `layers` layers of contiguous keys and values."""
    k, v = (torch.randn(layers, SEQUENCES, KV_HEADS, CONTEXT, DIM, dtype=dtype) for _ in range(2))
    q = torch.randn(SEQUENCES, HEADS, 1, DIM, dtype=dtype)
    prompt = torch.randn(1, HEADS, PROMPT, DIM, dtype=dtype)
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def decode() -> None:
        for layer in range(layers):
            sdpa(q, k[layer], v[layer], enable_gqa=True)

    def prefill() -> None:
        for layer in range(layers):
            sdpa(prompt, k[layer, :1, :, :PROMPT], v[layer, :1, :, :PROMPT], is_causal=True, enable_gqa=True)
    return decode, prefill


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine(threads: int, pool: ThreadPoolExecutor) -> dict[str, float]:
    """GB/s of reading and copying memory and GFLOP/s of multiply-adds, best of five, all threads."""
    held, other = torch.zeros(MEMORY // 4), torch.zeros(MEMORY // 4)
    native, rounds = operators.library(operators.isas()[-1]), 2_000_000
    best = {name: min(seconds(work) for _ in range(5)) for name, work in (
        ("read", held.sum), ("copy", lambda: other.copy_(held)),
        ("peak", lambda: list(pool.map(native.multiply_add, [rounds] * threads))))}
    return {"read_gb_s": MEMORY / best["read"] / 1e9, "copy_gb_s": 2 * MEMORY / best["copy"] / 1e9,
            "peak_gflop_s": threads * rounds * 12 * 16 * 2 / best["peak"] / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with ThreadPoolExecutor(given.threads) as pool:
        result: dict = {"threads": given.threads, "layers": given.layers, "isa": operators.isas()[-1],
                        "machine": machine(given.threads, pool)}
        works, size = {}, {}
        for name, kind in reference.KINDS.items():
            own = Own(kind, given.layers, given.threads, pool)
            size[name] = own.bytes
            works[name] = (lambda own=own: own.attend(SEQUENCES, CONTEXT - 1, 1),
                           lambda own=own: own.attend(1, 0, PROMPT))
        for name, dtype in (("torch fp32", torch.float32), ("torch bf16", torch.bfloat16)):
            works[name] = torch_attention(dtype, given.layers)
            size[name] = 2 * given.layers * SEQUENCES * KV_HEADS * CONTEXT * DIM * dtype.itemsize
        times = {name: ([], []) for name in works}
        for turn in range(given.rounds + 1):
            for name, (decode, prefill) in works.items():
                for work, kept in zip((decode, prefill), times[name], strict=True):
                    took = seconds(work)
                    if turn:  # the first round warms up
                        kept.append(took)
    limits = result["machine"]
    print(f"{given.threads} threads, {result['isa']}: reads {limits['read_gb_s']:.1f} GB/s, copies "
          f"{limits['copy_gb_s']:.1f} GB/s, {limits['peak_gflop_s']:.0f} GFLOP/s of multiply-adds")
    print(f"{'':10}  decode ms    GB/s  of reading  faster than torch fp32, bf16   prefill ms  GFLOP/s  of peak  "
          "faster than torch fp32, bf16")
    operations = 4 * given.layers * HEADS * DIM * PROMPT * (PROMPT + 1) / 2
    for name, (decode, prefill) in times.items():
        row = {"decode_ms": statistics.median(decode) * 1e3, "prefill_ms": statistics.median(prefill) * 1e3}
        row |= {"decode_gb_s": size[name] / row["decode_ms"] / 1e6,
                "prefill_gflop_s": operations / row["prefill_ms"] / 1e6}
        for phase, took in (("decode", decode), ("prefill", prefill)):
            for peer in ("torch fp32", "torch bf16"):
                ratios = sorted(theirs / ours for theirs, ours in
                                zip(times[peer][phase == "prefill"], took, strict=True))
                row[f"{phase}_against_{peer}"] = [round(statistics.median(ratios), 2), round(ratios[0], 2),
                                                  round(ratios[-1], 2)]
        shown = {key: "{:.2f} ({:.2f}-{:.2f})".format(*value) for key, value in row.items() if isinstance(value, list)}
        print(f"{name:10} {row['decode_ms']:9.2f} {row['decode_gb_s']:8.1f} "
              f"{row['decode_gb_s'] / limits['read_gb_s']:10.0%}  {shown['decode_against_torch fp32']} "
              f"{shown['decode_against_torch bf16']}   {row['prefill_ms']:9.2f} {row['prefill_gflop_s']:8.1f} "
              f"{row['prefill_gflop_s'] / limits['peak_gflop_s']:8.0%}  {shown['prefill_against_torch fp32']} "
              f"{shown['prefill_against_torch bf16']}")
        result[name] = row
    print(json.dumps(result))


if __name__ == "__main__":
    main()
