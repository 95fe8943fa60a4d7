"""Linear layers for a GPU: int4 weights as AutoAWQ's `gemm` layout stores them, and plain ones; float32 accumulation.

W4A16: a word of `qweight` [K, N/8] holds eight columns, nibble i from the lowest being column 0,2,4,6,1,3,5,7. That
order makes nibbles i and i + 4, sixteen bits apart, columns 2i and 2i + 1: one shift, one mask and one OR give a pair
of floats, 2^m + q, by writing q into the mantissa of a constant (Kim et al. 2022, "Who says elephants can't run").
q - zero is exact in fp16 and bf16; the group's scale multiplies the float32 product, so weights are never rounded
again. The product is computed transposed, weights [N, K] by activations [K, rows], so that the wide side of a tensor
core's instruction holds outputs, not the padding of one lonely row. Its rows stand in the order (i, w, h, g) for
column 2i + h of word 8w + g: a Hopper thread's share of a 64-row operand is rows g and g + 8 of its warp, so with
256 columns to four warps every thread unpacks whole words of its own and no weight crosses shared memory again.

Every row's result is the same bits whatever rows stand beside it: the order of additions along K (blocks of BLOCK_K
in spans of a fixed length, the spans' sums added in order) follows from the layer's shape alone. A decode gives each
span a program of its own and adds the sums in a second kernel, no atomics; a prefill walks the spans in one program.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels.interpreter import operand

GROUPS = (32, 64, 128)
PROGRAMS = 264   # enough to fill a large card: two for each of 132 multiprocessors
SHORTEST = 256   # inputs of a span at least: a shorter one does not pay for its sums
# (16-bit constant whose last mantissa bit is 1, its type): q in 0..15 added to its low bits is 2^m + q
EXPONENTS = {torch.float16: (0x6400, tl.float16), torch.bfloat16: (0x4300, tl.bfloat16),
             torch.float32: (0x6400, tl.float16)}


class Tile(NamedTuple):
    """How many rows and outputs a program computes, by how many warps and stages of loads."""

    rows: int
    outputs: int
    warps: int
    stages: int


# by the number of rows: chosen from it alone, never by a timing, so that a machine runs the same code every time
TILES = {16: Tile(16, 256, 4, 4), 64: Tile(64, 128, 8, 4), 1 << 62: Tile(128, 128, 8, 3)}


@triton.jit
def levels(words, EXPONENT: tl.constexpr, TYPE: tl.constexpr, MATH: tl.constexpr, K: tl.constexpr, WORDS: tl.constexpr):
    """Words int32 [K, WORDS] to 2^m + q [8 * WORDS, K]: row (i, w, h, g) is column 2i + h of word 8w + g."""
    both: tl.constexpr = EXPONENT * 0x10001
    pair0 = (words & 0x000F000F) | both
    pair1 = ((words >> 4) & 0x000F000F) | both
    pair2 = ((words >> 8) & 0x000F000F) | both
    pair3 = ((words >> 12) & 0x000F000F) | both
    pairs = tl.join(tl.join(pair0, pair2), tl.join(pair1, pair3))
    low = pairs.to(tl.int16).to(TYPE, bitcast=True).to(MATH)
    high = (pairs >> 16).to(tl.int16).to(TYPE, bitcast=True).to(MATH)
    parts = tl.reshape(tl.join(low, high), [K, WORDS // 8, 8, 4, 2])
    return tl.reshape(tl.permute(parts, (3, 1, 4, 2, 0)), [8 * WORDS, K])


@triton.jit
def int4_kernel(x, qweight, scales, qzeros, out, rows, outputs, inputs, span, spans, GROUP: tl.constexpr,
                SERIAL: tl.constexpr, EXPONENT: tl.constexpr, TYPE: tl.constexpr, MATH: tl.constexpr,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_N)
    column = tl.program_id(0) * BLOCK_N + lane
    turned = tl.program_id(0) * BLOCK_N + (        # the column of row (i, w, h, g) of levels
        lane // (BLOCK_N // 4) * 2 + lane // 8 % 2 + (lane // 16 % (BLOCK_N // 64) * 8 + lane % 8) * 8)
    word = tl.program_id(0) * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)
    offset = tl.arange(0, BLOCK_K)
    words = outputs // 8
    here, there = row < rows, word[None, :] < words
    x_tile = x + row.to(tl.int64)[None, :] * inputs + offset[:, None]
    first, last = tl.program_id(2), tl.program_id(2) + 1
    if SERIAL:
        first, last = 0, spans
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for index in range(first, last):
        part = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for k in range(index * span, tl.minimum(index * span + span, inputs), BLOCK_K):
            packed = tl.load(qweight + (k + offset).to(tl.int64)[:, None] * words + word[None, :], mask=there, other=0)
            group = k // GROUP
            packed_zero = tl.load(qzeros + group * words + word[None, :], mask=there, other=0)
            scale = tl.load(scales + group * outputs + turned, mask=turned < outputs, other=0).to(tl.float32)
            weight = (levels(packed, EXPONENT, TYPE, MATH, BLOCK_K, BLOCK_N // 8)
                      - levels(packed_zero, EXPONENT, TYPE, MATH, 1, BLOCK_N // 8))
            activation = tl.load(x_tile + k, mask=here[None, :], other=0).to(MATH)
            part += tl.dot(weight, activation, input_precision="ieee") * scale[:, None]
        total += part
    total = tl.permute(tl.reshape(total, [4, BLOCK_N // 64, 2, 8, BLOCK_M]), (1, 3, 0, 2, 4))
    target = row.to(tl.int64)[None, :] * outputs + column[:, None]
    if not SERIAL:
        target += tl.program_id(2).to(tl.int64) * rows * outputs
    tl.store(out + target, tl.reshape(total, [BLOCK_N, BLOCK_M]), mask=here[None, :] & (column[:, None] < outputs))


@triton.jit
def dense_kernel(x, weight, out, rows, outputs, inputs, span, spans, SERIAL: tl.constexpr, MATH: tl.constexpr,
                 BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offset = tl.arange(0, BLOCK_K)
    here, there = row < rows, column < outputs
    x_tile = x + row.to(tl.int64)[None, :] * inputs + offset[:, None]
    weight_tile = weight + column.to(tl.int64)[:, None] * inputs + offset[None, :]
    first, last = tl.program_id(2), tl.program_id(2) + 1
    if SERIAL:
        first, last = 0, spans
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for index in range(first, last):
        part = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for k in range(index * span, tl.minimum(index * span + span, inputs), BLOCK_K):
            inside = k + offset < inputs
            loaded = tl.load(weight_tile + k, mask=there[:, None] & inside[None, :], other=0).to(MATH)
            activation = tl.load(x_tile + k, mask=here[None, :] & inside[:, None], other=0).to(MATH)
            part = tl.dot(loaded, activation, part, input_precision="ieee")
        total += part
    target = row.to(tl.int64)[None, :] * outputs + column[:, None]
    if not SERIAL:
        target += tl.program_id(2).to(tl.int64) * rows * outputs
    tl.store(out + target, total, mask=here[None, :] & there[:, None])


@triton.jit
def sum_kernel(parts, out, count, spans, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for index in range(0, spans):
        total += tl.load(parts + index * count + place, mask=place < count, other=0)
    tl.store(out + place, total, mask=place < count)


class Plan(NamedTuple):
    """How a product is cut. `span` and `spans` follow from the layer alone; the rest may change with the rows."""

    tile: Tile
    span: int
    spans: int
    serial: bool


def plan(rows: int, inputs: int, outputs: int, block: int) -> Plan:
    """Cut `inputs` into spans of whole blocks, as many as fill a card with one row, and choose the tile for `rows`."""
    wanted = max(1, min(PROGRAMS // triton.cdiv(outputs, TILES[16].outputs), inputs // SHORTEST))
    span = triton.cdiv(triton.cdiv(inputs, wanted), block) * block
    tile = next(tile for limit, tile in TILES.items() if rows <= limit)
    spans = triton.cdiv(inputs, span)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
    return Plan(tile, span, spans, spans == 1 or tiles >= PROGRAMS)


def block_of(group: int) -> int:
    """Inputs of a block: all of it in one group, so that one scale holds for a block."""
    return min(group, 64)


def int4_linear(x: torch.Tensor, qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor) -> torch.Tensor:
    """x [n, K] (fp16, bf16 or fp32, contiguous) times an AutoAWQ layer: [n, N] in x's dtype.

    qweight int32 [K, N/8], scales fp16 [K/g, N], qzeros int32 [K/g, N/8], g of 32, 64 or 128. Raises ValueError where
    the shapes are of no such layer.
    """
    rows, inputs = x.shape
    outputs = qweight.shape[1] * 8
    group = inputs // scales.shape[0]
    if qweight.shape[0] != inputs or scales.shape != (inputs // group, outputs) or group * scales.shape[0] != inputs:
        raise ValueError(f"int4_linear: x {tuple(x.shape)} does not fit qweight {tuple(qweight.shape)} with scales "
                         f"{tuple(scales.shape)}")
    if group not in GROUPS or qzeros.shape != (scales.shape[0], outputs // 8):
        raise ValueError(f"int4_linear: groups of {group} (one of {GROUPS}) with qzeros {tuple(qzeros.shape)}")
    if not all(tensor.is_contiguous() for tensor in (x, qweight, scales, qzeros)):
        raise ValueError("int4_linear: tensors must be contiguous")
    math = operand(x.dtype)
    exponent, kind = EXPONENTS[x.dtype]
    block = block_of(group)
    cut = plan(rows, inputs, outputs, block)
    return launch(int4_kernel, (x, qweight, scales, qzeros), rows, outputs, inputs, cut, GROUP=group,
                  EXPONENT=exponent, TYPE=kind, MATH=math, BLOCK_K=block)


def dense_linear(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """x [n, K] times weight [N, K] transposed, both contiguous: [n, N] in `dtype` (default: x's).

    Raises ValueError where the shapes do not fit.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0]
    if weight.shape[1] != inputs or not (x.is_contiguous() and weight.is_contiguous()):
        raise ValueError(f"dense_linear: x {tuple(x.shape)} and weight {tuple(weight.shape)} must fit, contiguous")
    return launch(dense_kernel, (x, weight), rows, outputs, inputs, plan(rows, inputs, outputs, 64), dtype,
                  MATH=operand(x.dtype), BLOCK_K=64)


def launch(kernel, tensors: tuple[torch.Tensor, ...], rows: int, outputs: int, inputs: int, cut: Plan,
           dtype: torch.dtype | None = None, **constants) -> torch.Tensor:
    """Run `kernel` over the tiles of `cut`, and the second pass where spans have programs of their own."""
    tile, span, spans, serial = cut
    out = tensors[0].new_empty(rows, outputs, dtype=dtype or tensors[0].dtype)
    if not rows:
        return out
    parts = out if serial else tensors[0].new_empty(spans, rows, outputs, dtype=torch.float32)
    grid = (triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows), 1 if serial else spans)
    kernel[grid](*tensors, parts, rows, outputs, inputs, span, spans, SERIAL=serial, BLOCK_M=tile.rows,
                 BLOCK_N=tile.outputs, num_warps=tile.warps, num_stages=tile.stages, **constants)
    if not serial:
        count = rows * outputs
        sum_kernel[(triton.cdiv(count, 1024),)](parts, out, count, spans, BLOCK=1024)
    return out
