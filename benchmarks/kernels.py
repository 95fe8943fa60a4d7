"""The CPU kernels against what the machine can do: its read bandwidth, its multiply-adds a second.

    python -m benchmarks.kernels [--threads 2] [--rounds 5] [--model models/smollm2/int4]

Linear layers of SmolLM2's shapes by kind of weight and rows (GB/s of weights, Gop/s and their share of the measured
peaks), a random int4 model of about a billion weights at batch 1 (share of the read bandwidth), and, with --model,
its load time, memory, and tokens a second. Each figure is the median of the rounds, taken turn by turn with the
yardsticks. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kernels.linear import pack
from kernels.step.session import GATE, WRITE, Session, Shape, Threads, Weights, isa

LAYERS = {"qkv": (960, 576, WRITE), "gate_up": (3072, 576, GATE), "down": (576, 1536, WRITE)}
ROWS = (1, 8, 32, 128, 512)
BILLION = Shape(32000, 2048, 5632, 22, 32, 4, 64, 2048, 1e-5, 1e4)
GROUP = 64


def aligned(shape: tuple[int, ...], dtype: type, rng: np.random.Generator) -> np.ndarray:
    """Random bytes as an array that begins at a multiple of 64, as a packed file's do."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.frombuffer(rng.bytes(count + 64), np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + count].view(dtype).reshape(shape)


def random_layer(kind: int, outputs: int, inputs: int, rng: np.random.Generator) -> pack.Packed:
    """A layer of random levels (or floats between -1 and 1) with small scales."""
    panels = -(-outputs // pack.PANEL)
    if kind > 8:
        weights = aligned((panels, inputs, pack.PANEL), np.uint16 if kind < 32 else np.float32, rng)
        weights = weights & 0xbfff if kind < 32 else np.zeros_like(weights)
        return pack.Packed(kind, outputs, inputs, 1, weights, np.empty(0, np.float16), np.empty(0, np.uint8))
    scales = aligned((panels, inputs // GROUP, pack.PANEL), np.float16, rng).copy()
    scales[:] = 0.002
    zeros = aligned(scales.shape, np.uint8, rng) & (15 if kind == 4 else 255)
    return pack.Packed(kind, outputs, inputs, GROUP, aligned((panels, inputs * kind // 8, pack.PANEL), np.uint8, rng),
                       scales, zeros)


def size(layer: pack.Packed) -> int:
    """Bytes of a layer."""
    return layer.weights.nbytes + layer.scales.nbytes + layer.zeros.nbytes


def seconds(function, least: float = 0.02) -> float:
    """Seconds a call of `function` takes, over calls of at least `least` seconds together."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < least:
        function()
        count += 1
    return passed / count


def yardsticks(pool: Threads, memory: np.ndarray) -> dict[str, float]:
    """Bytes read from memory, integer and floating multiply-adds, a second."""
    start = time.perf_counter()
    pool.read_memory(memory)
    read = memory.nbytes / (time.perf_counter() - start)
    rates = {"read": read}
    for name, integers in (("integer", True), ("floating", False)):
        start = time.perf_counter()
        done = pool.multiply(16, integers=integers)
        rates[name] = done / (time.perf_counter() - start)
    return rates


def linears(pool: Threads, memory: np.ndarray, rounds: int) -> list[dict]:
    """One row for each kind, layer and number of rows."""
    rng, found = np.random.default_rng(0), []
    for kind, name in ((4, "int4"), (8, "int8"), (16, "bf16")):
        for layer, (outputs, inputs, epilogue) in LAYERS.items():
            packed = random_layer(kind, outputs, inputs, rng)
            for rows in ROWS if kind == 4 else (1, 32, 512):
                x = rng.standard_normal((rows, inputs)).astype(np.float32)
                out = np.zeros((rows, outputs // 2 if epilogue == GATE else outputs), np.float32)
                samples = []
                for _ in range(rounds):
                    peak = yardsticks(pool, memory)["integer" if kind <= 8 else "floating"]
                    took = seconds(lambda: pool.linear(packed, x, out, epilogue))
                    samples.append((size(packed) / took, rows * outputs * inputs / took,
                                    rows * outputs * inputs / took / peak))
                bandwidth, rate, share = map(statistics.median, zip(*samples))
                found.append({"weights": name, "layer": layer, "rows": rows, "bytes_s": bandwidth, "mac_s": rate,
                              "of_peak": share})
    return found


def billion(pool: Threads, memory: np.ndarray, threads: int, rounds: int) -> dict:
    """Decode at batch 1 of a random int4 model of about a billion weights, against reading its bytes."""
    rng, s = np.random.default_rng(1), BILLION
    width = (s.heads + 2 * s.kv_heads) * s.head_dim
    one = [random_layer(4, *shape, rng) for shape in ((width, s.hidden), (s.hidden, s.hidden),
                                                      (2 * s.inner, s.hidden), (s.hidden, s.inner))]
    layers = one + [replace(layer, weights=aligned(layer.weights.shape, np.uint8, rng))
                    for _ in range(s.layers - 1) for layer in one]
    layers.append(random_layer(8, s.vocabulary, s.hidden, rng))
    embedding = np.zeros((s.vocabulary, s.hidden), np.float16)
    embedding[:] = rng.standard_normal(s.hidden)
    session = Session(s, Weights(embedding, pack.FP16, np.ones((2 * s.layers + 1, s.hidden), np.float32), layers),
                      threads=threads, blocks=s.context // 16, kv_kind=16)
    table, one_row, total = np.arange(s.context // 16)[None], np.zeros(1, np.int64), sum(map(size, layers))
    session.step(one_row, one_row, one_row, table, one_row)
    samples = []
    for position in range(1, 2 * rounds + 1):
        read = yardsticks(pool, memory)["read"]
        start = time.perf_counter()
        session.step(one_row, one_row + position, one_row, table, one_row)
        took = time.perf_counter() - start
        samples.append((1 / took, total / took, total / took / read, read))
    session.close()
    tokens, rate, share, read = (statistics.median(values) for values in zip(*samples))
    return {"weights_bytes": total, "tokens_s": tokens, "bytes_s": rate, "of_read": share, "read_bytes_s": read,
            "of_read_range": [min(value[2] for value in samples), max(value[2] for value in samples)]}


def directory(path: Path, threads: int, rounds: int) -> dict:
    """Load time, memory and tokens a second of a model directory, packed before."""
    import psutil

    from tasks.serve.engine import backend
    from tasks.serve.engine.backend_cpu import CpuBackend

    CpuBackend(backend.read_files(path), threads=threads, slots=32).close()
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    runner = CpuBackend(backend.read_files(path), threads=threads, slots=32)
    loaded = time.perf_counter() - start
    table = np.arange(runner.blocks).reshape(32, -1)
    rng, found = np.random.default_rng(2), {}
    for _ in range(rounds):
        for batch, steps in ((1, 32), (8, 16), (32, 8)):
            rows, tokens = np.arange(batch), rng.integers(0, runner.vocabulary, batch)
            start = time.perf_counter()
            for position in range(steps):
                runner.step(tokens, np.full(batch, position), rows, table, rows)
            found.setdefault(f"batch {batch}", []).append(batch * steps / (time.perf_counter() - start))
        tokens, start = rng.integers(0, runner.vocabulary, 512), time.perf_counter()
        runner.step(tokens, np.arange(512), np.zeros(512, int), table, np.array([511]))
        found.setdefault("prefill 512", []).append(512 / (time.perf_counter() - start))
    return {"load_s": loaded, "rss_more_bytes": psutil.Process().memory_info().rss - before,
            "tokens_s": {name: {"median": statistics.median(values), "range": [min(values), max(values)]}
                         for name, values in found.items()}}


def main() -> None:
    """Print the tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="an int4 or plain directory to load and run as well")
    given = parser.parse_args()
    pool = Threads(given.threads)
    memory = np.ones(64 << 20, np.float32)
    samples = [yardsticks(pool, memory) for _ in range(given.rounds)]
    peaks = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    print(f"{isa()}, {given.threads} threads: read {peaks['read'] / 1e9:.1f} GB/s, integer {peaks['integer'] / 1e9:.0f} "
          f"and floating {peaks['floating'] / 1e9:.0f} G multiply-adds/s")
    table = linears(pool, memory, given.rounds)
    print(f"{'weights':>8} {'layer':>8} {'rows':>5} {'GB/s':>7} {'GMAC/s':>7} {'of peak':>8}")
    for row in table:
        print(f"{row['weights']:>8} {row['layer']:>8} {row['rows']:>5} {row['bytes_s'] / 1e9:7.1f} "
              f"{row['mac_s'] / 1e9:7.1f} {row['of_peak']:8.0%}")
    large = billion(pool, memory, given.threads, given.rounds)
    print(f"random int4 model, {large['weights_bytes'] / 1e6:.0f} MB: {large['tokens_s']:.1f} tokens/s, "
          f"{large['bytes_s'] / 1e9:.1f} GB/s, {large['of_read']:.0%} of {large['read_bytes_s'] / 1e9:.1f} read")
    result = {"isa": isa(), "threads": given.threads, "peaks": peaks, "linear": table, "billion": large}
    if given.model:
        result["model"] = directory(given.model, given.threads, given.rounds)
        print(json.dumps(result["model"], indent=2))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
