"""Claim: on a GPU the Triton kernels come near what the card can copy (decode) and multiply (prefill), ahead of torch.

    python -m benchmarks.kernels_gpu [--shape 1b|7b] [--rounds 9]

The card's own limits are measured first: a copy of 2 GiB and a bf16 product of 8192 cubed, both on random data. Every
operator then runs beside torch's on the same numbers (bf16; int4 weights dequantized beforehand for torch), the two
taking turns, each as one CUDA graph over as many copies of its inputs as overflow the cache. `copy` and `gemm` are
shares of the card's limits; `torch` is torch's time over ours, with the least and most of the rounds. The last line
is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

ROTATED = 4 * 50 * 2 ** 20   # bytes of inputs a measurement walks through: four times a Hopper's L2
COPIES = 64                  # of the inputs at most
Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of one model's operators."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    dim: int
    vocabulary: int
    context: int = 4096
    group: int = 128
    prefill: int = 2048
    batches: tuple[int, ...] = (1, 8, 32)


SHAPES = {"1b": Shape(2048, 8192, 32, 8, 64, 128256), "7b": Shape(4096, 14336, 32, 8, 128, 128256)}


@dataclass(frozen=True)
class Case:
    """One operator on one shape. `make(copy)` gives (ours, torch's) on inputs of their own; bytes are the least that
    must move, flops the multiplications and additions of the product."""

    name: str
    bytes: int
    flops: int
    make: Callable[[int], tuple[Call, Call]]


def cases(shape: Shape, device: torch.device) -> Iterator[Case]:
    """Every operator at decode and prefill sizes, in the order of the table."""
    width = (shape.heads + 2 * shape.kv_heads) * shape.dim
    linears = {"qkv": (shape.hidden, width), "out": (shape.heads * shape.dim, shape.hidden),
               "gate_up": (shape.hidden, 2 * shape.inner), "down": (shape.inner, shape.hidden)}
    for rows in (*shape.batches, shape.prefill):
        for name, (inputs, outputs) in linears.items():
            yield int4_case(f"int4 {name} x{rows}", rows, inputs, outputs, shape.group, device)
    yield dense_case(shape.batches[0], shape.hidden, shape.vocabulary, device)
    for batch in (shape.batches[0], shape.batches[-1]):
        yield attention_case(f"attention decode x{batch}", shape, batch, 1, device)
    yield attention_case("attention prefill", shape, 1, shape.prefill, device)
    for rows in (shape.batches[-1], shape.prefill):
        yield norm_case(rows, shape.hidden, device)
        yield swiglu_case(rows, shape.inner, device)
        yield rope_case(rows, shape, device)
    yield sampling_case(shape.batches[-1], shape.vocabulary, device)


def drawn(device: torch.device, *size: int) -> torch.Tensor:
    return torch.randn(*size, device=device).to(torch.bfloat16)


def int4_case(name: str, rows: int, inputs: int, outputs: int, group: int, device: torch.device) -> Case:
    """AutoAWQ weights against torch's linear on the same weights in bf16."""
    from kernels.linear.triton import int4_linear

    def make(copy: int) -> tuple[Call, Call]:
        torch.manual_seed(copy)
        word = {"low": -2 ** 31, "high": 2 ** 31, "dtype": torch.int32, "device": device}
        qweight = torch.randint(size=(inputs, outputs // 8), **word)
        qzeros = torch.randint(size=(inputs // group, outputs // 8), **word)
        scales = (torch.rand(inputs // group, outputs, device=device) * 0.01 + 0.001).half()
        x = drawn(device, rows, inputs)
        weight = dequantized(qweight, scales, qzeros, group).bfloat16().T.contiguous()
        return lambda: int4_linear(x, qweight, scales, qzeros), lambda: F.linear(x, weight)

    groups = inputs // group
    moved = inputs * outputs // 2 + groups * outputs * 5 // 2 + 2 * rows * (inputs + outputs)
    return Case(name, moved, 2 * rows * inputs * outputs, make)


def dequantized(qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, group: int) -> torch.Tensor:
    """The float32 weight [K, N] of an AutoAWQ layer, by shifts in torch."""
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7], device=qweight.device) * 4    # column c is nibble order[c]
    levels, zeros = ((words[..., None] >> order & 15).flatten(-2).float() for words in (qweight, qzeros))
    return (levels - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)


def dense_case(rows: int, inputs: int, outputs: int, device: torch.device) -> Case:
    """The head: bf16 weights, float32 logits."""
    from kernels.linear.triton import dense_linear

    def make(copy: int) -> tuple[Call, Call]:
        x, weight = drawn(device, rows, inputs), drawn(device, outputs, inputs)
        return lambda: dense_linear(x, weight, torch.float32), lambda: F.linear(x, weight).float()

    return Case(f"dense head x{rows}", 2 * inputs * outputs + rows * (2 * inputs + 4 * outputs),
                2 * rows * inputs * outputs, make)


def attention_case(name: str, shape: Shape, batch: int, tokens: int, device: torch.device) -> Case:
    """`tokens` new tokens of `batch` sequences: after a full context (decode) or from nothing (prefill)."""
    import numpy as np

    from kernels.attention.triton import PAGE, paged_attention, tiles_of

    length = shape.context if tokens == 1 else tokens
    blocks, rows = -(-length // PAGE), batch * tokens
    sequences = np.repeat(np.arange(batch), tokens)
    tiles = torch.from_numpy(tiles_of(sequences, shape.heads // shape.kv_heads)).to(device)
    positions = torch.arange(length - tokens, length, device=device).repeat(batch)

    def make(copy: int) -> tuple[Call, Call]:
        torch.manual_seed(copy)
        table = torch.randperm(batch * blocks).view(batch, blocks).int().to(device)
        keys, values = (drawn(device, batch * blocks, shape.kv_heads, PAGE, shape.dim) for _ in range(2))
        query = drawn(device, rows, shape.heads, shape.dim)
        flat = [pages[table.flatten()].view(batch, blocks, shape.kv_heads, PAGE, shape.dim).transpose(1, 2)
                .reshape(batch, shape.kv_heads, blocks * PAGE, shape.dim)[:, :, :length].contiguous()
                for pages in (keys, values)]
        heads = query.view(batch, tokens, shape.heads, shape.dim).transpose(1, 2)
        return (lambda: paged_attention(query, keys, values, table, tiles, positions, length, shape.dim ** -0.5),
                lambda: F.scaled_dot_product_attention(heads, *flat, is_causal=tokens > 1, enable_gqa=True)
                .transpose(1, 2).reshape(rows, shape.heads, shape.dim))

    pairs = batch * (length if tokens == 1 else tokens * (tokens + 1) // 2)
    return Case(name, 4 * batch * shape.kv_heads * length * shape.dim + 4 * rows * shape.heads * shape.dim,
                4 * pairs * shape.heads * shape.dim, make)


def norm_case(rows: int, width: int, device: torch.device) -> Case:
    """Residual added, then RMSNorm, against torch's own two operators."""
    from kernels.norm.triton import add_rms_norm

    def make(copy: int) -> tuple[Call, Call]:
        x, weight = drawn(device, rows, width), drawn(device, width)
        residual = torch.randn(rows, width, device=device)
        held = residual.clone()

        def theirs() -> torch.Tensor:
            held.add_(x)
            return F.rms_norm(held, (width,), eps=1e-5).to(x.dtype) * weight

        return lambda: add_rms_norm(x, residual, weight, 1e-5), theirs

    return Case(f"add + norm x{rows}", rows * width * 12, 0, make)


def swiglu_case(rows: int, inner: int, device: torch.device) -> Case:
    from kernels.swiglu.triton import swiglu

    def make(copy: int) -> tuple[Call, Call]:
        both = drawn(device, rows, 2 * inner)
        return lambda: swiglu(both), lambda: F.silu(both[:, :inner]) * both[:, inner:]

    return Case(f"swiglu x{rows}", rows * inner * 6, 0, make)


def rope_case(rows: int, shape: Shape, device: torch.device) -> Case:
    """Rotation of queries and keys and the write of keys and values; each row a sequence of its own in torch too."""
    from kernels.rope.triton import rope_and_store

    width = (shape.heads + 2 * shape.kv_heads) * shape.dim
    half = shape.dim // 2

    def make(copy: int) -> tuple[Call, Call]:
        packed = drawn(device, rows, width)
        angle = torch.rand(16, half, device=device)
        cosine, sine = angle.cos(), angle.sin()
        positions = torch.arange(rows, device=device) % 16
        sequences = torch.arange(rows, device=device)
        table = torch.arange(rows, dtype=torch.int32, device=device)[:, None]
        ours, theirs = ([torch.zeros(rows, shape.kv_heads, 16, shape.dim, dtype=torch.bfloat16, device=device)
                         for _ in range(2)] for _ in range(2))

        def reference() -> torch.Tensor:
            parts = packed.view(rows, -1, shape.dim)
            turned = parts[:, :shape.heads + shape.kv_heads].float()
            cos, sin = (part[positions][:, None].repeat(1, 1, 2) for part in (cosine, sine))
            turned = turned * cos + torch.cat((-turned[..., half:], turned[..., :half]), -1) * sin
            theirs[0][sequences, :, positions] = turned[:, shape.heads:].to(packed.dtype)
            theirs[1][sequences, :, positions] = parts[:, shape.heads + shape.kv_heads:]
            return turned[:, :shape.heads].to(packed.dtype)

        return lambda: rope_and_store(packed, cosine, sine, positions, sequences, table, *ours), reference

    return Case(f"rope + store x{rows}", rows * width * 4 + rows * shape.dim * 4, 0, make)


def sampling_case(rows: int, vocabulary: int, device: torch.device) -> Case:
    """Greedy: the one choice whose answer torch must share."""
    from kernels.sampling.triton import greedy

    def make(copy: int) -> tuple[Call, Call]:
        logits = torch.randn(rows, vocabulary, device=device)
        return lambda: greedy(logits), lambda: logits.argmax(-1)

    return Case(f"greedy x{rows}", rows * vocabulary * 4, 0, make)


def graph_of(calls: list[Call]) -> torch.cuda.CUDAGraph:
    """One CUDA graph of all `calls`, after a run that compiles them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def seconds(graph: torch.cuda.CUDAGraph, replays: int = 5) -> float:
    """Device time of one replay, by events around a few."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / replays


def limits(rounds: int) -> tuple[float, float]:
    """(bytes a second of a copy, FLOP a second of a bf16 product): medians."""
    source = torch.randint(0, 255, (2 ** 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = graph_of([lambda: target.copy_(source)])
    a, b = (drawn(torch.device("cuda"), 8192, 8192) for _ in range(2))
    product = graph_of([lambda: a @ b])
    times = [(seconds(copied), seconds(product)) for _ in range(rounds)]
    copy, gemm = (statistics.median(column) for column in zip(*times))
    return 2 * source.numel() / copy, 2 * 8192 ** 3 / gemm


def measure(case: Case, rounds: int, bandwidth: float, rate: float) -> dict[str, float | str]:
    """The row of one case."""
    pairs = [case.make(copy) for copy in range(max(1, min(COPIES, ROTATED // case.bytes)))]
    ours, theirs = (graph_of(list(calls)) for calls in zip(*pairs))
    for graph in (ours, theirs):
        seconds(graph)
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    median = statistics.median(mine for mine, _ in times) / len(pairs)
    ratios = sorted(other / mine for mine, other in times)
    return {"operator": case.name, "us": median * 1e6, "gb_s": case.bytes / median / 1e9,
            "copy": case.bytes / median / bandwidth, "tflop_s": case.flops / median / 1e12,
            "gemm": case.flops / median / rate, "torch": statistics.median(ratios), "least": ratios[0],
            "most": ratios[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: no CUDA device: this benchmark measures a GPU's kernels (the tests check them without one)")
    import triton

    bandwidth, rate = limits(given.rounds)
    card = torch.cuda.get_device_name()
    print(f"{card}: copy {bandwidth / 1e9:.0f} GB/s, bf16 product {rate / 1e12:.0f} TFLOP/s; torch "
          f"{torch.__version__}, Triton {triton.__version__}, medians of {given.rounds} rounds")
    rows = {}
    for name in given.shape or SHAPES:
        print(f"\n{name:<22} {'us':>8} {'GB/s':>7} {'copy':>5} {'TFLOP/s':>8} {'gemm':>5} {'torch':>6}  spread")
        rows[name] = []
        for case in cases(SHAPES[name], torch.device("cuda")):
            row = measure(case, given.rounds, bandwidth, rate)
            rows[name].append(row)
            print(f"{row['operator']:<22} {row['us']:8.1f} {row['gb_s']:7.0f} {row['copy']:5.2f} "
                  f"{row['tflop_s']:8.1f} {row['gemm']:5.2f} {row['torch']:6.2f}  {row['least']:.2f}-"
                  f"{row['most']:.2f}", flush=True)
    print(json.dumps({"card": card, "copy_bytes_s": bandwidth, "gemm_flop_s": rate, "torch": torch.__version__,
                      "triton": triton.__version__, "rounds": given.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
