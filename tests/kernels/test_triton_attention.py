"""Paged attention in Triton against float64: ragged batches of chunks and decodes over pages in any order."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from kernels.attention import triton as attention  # noqa: E402

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
RAGGED = [(0, 5), (256, 1), (9, 23), (270, 1), (0, 1)]  # (tokens held before, tokens of this step)


class Batch:
    """Random queries, keys and values of `spans` in pages handed out in a random order; other pages hold NaN."""

    def __init__(self, spans, heads, kv_heads, dim, dtype, device):
        generator = torch.Generator().manual_seed(0)
        self.heads, self.kv_heads, self.dim, self.device = heads, kv_heads, dim, device
        self.positions = np.concatenate([np.arange(past, past + count) for past, count in spans])
        self.sequences = np.repeat(np.arange(len(spans)), [count for _, count in spans])
        self.query = torch.randn(len(self.positions), heads, dim, generator=generator).to(dtype)
        needed = [-(-(past + count) // 16) for past, count in spans]
        order = np.random.default_rng(0).permutation(sum(needed) + 2)
        self.table = np.zeros((len(spans), max(needed)), np.int32)
        self.keys, self.values = (torch.full((len(order), kv_heads, 16, dim), math.nan, dtype=dtype)
                                  for _ in range(2))
        self.held = []
        for row, ((past, count), blocks) in enumerate(zip(spans, needed)):
            self.table[row, :blocks], order = order[:blocks], order[blocks:]
            pair = [torch.randn(past + count, kv_heads, dim, generator=generator).to(dtype) for _ in range(2)]
            at = np.arange(past + count)
            for pages, tokens in zip((self.keys, self.values), pair):
                pages[self.table[row, at // 16], :, at % 16] = tokens
            self.held.append(pair)

    def run(self, rows=slice(None), **options):
        positions, sequences = self.positions[rows], self.sequences[rows]
        tiles = torch.from_numpy(attention.tiles_of(sequences, self.heads // self.kv_heads))
        on = [tensor.to(self.device) for tensor in (self.query[rows].contiguous(), self.keys, self.values,
                                                    torch.from_numpy(self.table), tiles, torch.from_numpy(positions))]
        return attention.paged_attention(*on, int(positions.max()) + 1, self.dim ** -0.5, **options).cpu()

    def expected(self):
        out = torch.empty(self.query.shape, dtype=torch.float64)
        for sequence, pair in enumerate(self.held):
            rows = np.flatnonzero(self.sequences == sequence)
            keys, values = (tokens.double().repeat_interleave(self.heads // self.kv_heads, 1) for tokens in pair)
            scores = torch.einsum("qhd,khd->hqk", self.query[rows].double(), keys) * self.dim ** -0.5
            hidden = torch.arange(len(keys))[None] > torch.from_numpy(self.positions[rows])[:, None]
            out[rows] = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), values)
        return out


@pytest.mark.parametrize("heads, kv_heads, dim, dtype", [
    *((9, 3, 64, dtype) for dtype in TOLERANCE), (2, 2, 80, torch.float32), (8, 1, 16, torch.bfloat16)])
def test_ragged_batches(device, heads, kv_heads, dim, dtype):
    batch = Batch(RAGGED, heads, kv_heads, dim, dtype, device)
    found, expected = batch.run().double(), batch.expected()
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]
    assert (found - expected).abs().max() < 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spans_side_by_side_give_the_same_bits(device, dtype):
    batch = Batch(RAGGED, 4, 2, 32, dtype, device)
    assert torch.equal(batch.run(split=True), batch.run(split=False))


def test_a_row_has_the_same_bits_alone_in_a_chunk_and_in_any_batch(device):
    batch = Batch([(0, 3), (250, 20), (260, 1)], 6, 2, 32, torch.float16, device)
    whole = batch.run()
    for rows in (slice(0, 1), slice(3, 23), slice(10, 23), slice(22, 23), slice(23, 24)):
        assert torch.equal(batch.run(rows), whole[rows]), rows


def test_scores_far_apart_stay_finite(device):
    batch = Batch([(280, 2)], 2, 2, 16, torch.float32, device)
    batch.query *= 400
    found, expected = batch.run(), batch.expected()
    assert torch.isfinite(found).all() and (found.double() - expected).norm() / expected.norm() < 1e-3


def test_tiles_hold_whole_tokens_of_one_sequence():
    tiles = attention.tiles_of(np.array([2] * 50 + [0] + [5] * 3), 3)   # 64 // 3 = 21 tokens
    assert tiles.tolist() == [[0, 21, 2], [21, 21, 2], [42, 8, 2], [50, 1, 0], [51, 3, 5]]
    assert attention.tiles_of(np.array([], np.int64), 3).shape == (0, 3)
    with pytest.raises(ValueError, match="65 query heads"):
        attention.tiles_of(np.array([0]), 65)


def test_pages_that_do_not_fit_are_refused(device):
    batch = Batch([(0, 1)], 3, 1, 16, torch.float32, device)
    batch.keys = batch.keys[:, :, :8]
    with pytest.raises(ValueError, match="does not fit pages"):
        batch.run()
