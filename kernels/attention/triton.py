"""Causal attention over a paged cache, prefill chunks and decodes of a ragged batch alike, softmax online (Dao et al.
2022, algorithm 1; spans of keys of their own as in Flash-Decoding).

A tile is up to ROWS // group consecutive tokens of one sequence with the `group` query heads that share a key head,
so that every key is read once for all of them. Keys are walked in blocks of KEYS from position 0, in spans of SPAN
positions; each span has its own maximum, sum and output, and these are merged in the order of the spans. That order
depends on a row's own position alone: keys behind it change no bit. So a row's result is the same whether it came as
a decode or in a chunk of any size, and whether the spans ran in one program (`SPLIT` false) or side by side.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.interpreter import operand

PAGE = 16
ROWS = 64     # query rows of a tile, the least of a Hopper matrix instruction; a decode fills it with padding
KEYS = 64     # keys of one block
SPAN = 256    # positions whose softmax is taken by itself
WARPS, STAGES = 4, 2
PROGRAMS = 264
NONE = tl.constexpr(-1e30)  # a score that counts for nothing, yet leaves differences finite


@triton.jit
def merge(top, mass, out, part_top, part_mass, part_out):
    """Softmax state of two spans of keys, explicit fused operations: the same bits wherever it is inlined."""
    joint = tl.maximum(top, part_top)
    before, after = tl.exp2(top - joint), tl.exp2(part_top - joint)
    mass = tl.fma(part_mass, after, mass * before)
    wide = tl.broadcast_to(after[:, None], part_out.shape)
    return joint, mass, tl.fma(part_out, wide, out * before[:, None])


@triton.jit
def attend_span(query, keys, values, table, first, end, position, scale, page_stride, lane, inside,
                ROWS: tl.constexpr, LANES: tl.constexpr, DIM: tl.constexpr, KEYS: tl.constexpr, PAGE: tl.constexpr,
                MATH: tl.constexpr):
    """(largest score, sum of exponentials, weighted values) of `query` rows over the keys first..end."""
    top = tl.full([ROWS], NONE, tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, LANES], tl.float32)
    for start in range(first, end, KEYS):
        key = start + tl.arange(0, KEYS)
        held = key < end
        block = tl.load(table + key // PAGE, mask=held, other=0).to(tl.int64)
        place = block * page_stride + (key % PAGE) * DIM
        k = tl.load(keys + place[None, :] + lane[:, None], mask=held[None, :] & inside[:, None], other=0).to(MATH)
        score = tl.dot(query, k, input_precision="ieee") * scale
        score = tl.where(key[None, :] <= position[:, None], score, NONE)
        joint = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - joint[:, None])
        fade = tl.exp2(top - joint)
        v = tl.load(values + place[:, None] + lane[None, :], mask=held[:, None] & inside[None, :], other=0).to(MATH)
        mass = mass * fade + tl.sum(weight, 1)
        out = tl.dot(weight.to(MATH), v, out * fade[:, None], input_precision="ieee")
        top = joint
    return top, mass, out


@triton.jit
def attention_kernel(query, keys, values, table, tiles, positions, out, tops, masses, rows, table_stride, scale,
                     SPLIT: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr,
                     LANES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SPAN: tl.constexpr,
                     PAGE: tl.constexpr, MATH: tl.constexpr):
    group: tl.constexpr = HEADS // KV_HEADS
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    start, count = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1)
    sequence = tl.load(tiles + 3 * tile + 2)
    token = tl.arange(0, ROWS) // group
    head = kv_head * group + tl.arange(0, ROWS) % group
    real = token < count
    end = tl.load(positions + start + count - 1).to(tl.int32) + 1
    position = tl.load(positions + start + token, mask=real, other=-1).to(tl.int32)
    lane = tl.arange(0, LANES)
    inside = lane < DIM
    place = ((start + token).to(tl.int64) * HEADS + head)
    here = real[:, None] & inside[None, :]
    q = tl.load(query + place[:, None] * DIM + lane[None, :], mask=here, other=0).to(MATH)
    stride = KV_HEADS * PAGE * DIM
    keys += kv_head * PAGE * DIM
    values += kv_head * PAGE * DIM
    table += sequence * table_stride
    if SPLIT:
        span = tl.program_id(2)
        if span * SPAN < end:
            top, mass, part = attend_span(q, keys, values, table, span * SPAN, tl.minimum(end, span * SPAN + SPAN),
                                          position, scale, stride, lane, inside, ROWS, LANES, DIM, KEYS, PAGE, MATH)
            place += (span * rows).to(tl.int64) * HEADS
            tl.store(tops + place, top, mask=real)
            tl.store(masses + place, mass, mask=real)
            tl.store(out + place[:, None] * DIM + lane[None, :], part, mask=here)
    else:
        top = tl.full([ROWS], NONE, tl.float32)
        mass = tl.zeros([ROWS], tl.float32)
        total = tl.zeros([ROWS, LANES], tl.float32)
        for first in range(0, end, SPAN):
            part_top, part_mass, part = attend_span(q, keys, values, table, first, tl.minimum(end, first + SPAN),
                                                    position, scale, stride, lane, inside, ROWS, LANES, DIM, KEYS,
                                                    PAGE, MATH)
            top, mass, total = merge(top, mass, total, part_top, part_mass, part)
        tl.store(out + place[:, None] * DIM + lane[None, :], total / mass[:, None], mask=here)


@triton.jit
def merge_kernel(parts, tops, masses, positions, out, rows, HEADS: tl.constexpr, WIDE: tl.constexpr,
                 DIM: tl.constexpr, LANES: tl.constexpr, SPAN: tl.constexpr, NONE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head, lane = tl.arange(0, WIDE), tl.arange(0, LANES)
    real = head < HEADS
    here = real[:, None] & (lane < DIM)[None, :]
    top = tl.full([WIDE], NONE, tl.float32)
    mass = tl.zeros([WIDE], tl.float32)
    total = tl.zeros([WIDE, LANES], tl.float32)
    for span in range(0, tl.load(positions + row).to(tl.int32) // SPAN + 1):
        place = (span * rows + row) * HEADS + head
        part = tl.load(parts + place[:, None] * DIM + lane[None, :], mask=here, other=0)
        top, mass, total = merge(top, mass, total, tl.load(tops + place, mask=real, other=0),
                                 tl.load(masses + place, mask=real, other=1), part)
    tl.store(out + (row * HEADS + head)[:, None] * DIM + lane[None, :], total / mass[:, None], mask=here)


def tiles_of(sequences: np.ndarray, group: int) -> np.ndarray:
    """Tiles of a ragged batch whose rows belong to `sequences` int [n]: int32 [tiles, 3], (first row, rows, sequence).

    A sequence's rows stand together; `group` query heads share a key head. Raises ValueError where a tile holds no
    token of so large a group.
    """
    tokens = ROWS // group
    if not tokens:
        raise ValueError(f"attention: {group} query heads share a key head, a tile holds {ROWS}")
    starts = np.flatnonzero(np.r_[True, sequences[1:] != sequences[:-1]])
    ends = np.r_[starts[1:], len(sequences)]
    return np.array([(row, min(tokens, end - row), sequences[row]) for start, end in zip(starts, ends)
                     for row in range(start, end, tokens)], np.int32).reshape(-1, 3)


def paged_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor,
                    tiles: torch.Tensor, positions: torch.Tensor, longest: int, scale: float, *,
                    split: bool | None = None) -> torch.Tensor:
    """Attention of query [n, heads, head_dim] (positions already rotated in) over the pages: [n, heads, head_dim].

    keys, values [blocks, kv_heads, 16, head_dim], the step's own already written; table int32 [sequences, blocks of
    a sequence]; tiles int32 from tiles_of; positions int [n] on the device; `longest` is the largest position + 1.
    `split` gives every span of keys a program of its own; None does so where the tiles alone do not fill a card. It
    changes no bit. Raises ValueError where the shapes do not fit.
    """
    rows, heads, dim = query.shape
    _, kv_heads, page, width = keys.shape
    if page != PAGE or width != dim or values.shape != keys.shape or heads % kv_heads:
        raise ValueError(f"attention: query {tuple(query.shape)} does not fit pages {tuple(keys.shape)}, "
                         f"{tuple(values.shape)}")
    if not (query.is_contiguous() and keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("attention: query, keys and values must be contiguous")
    out = torch.empty_like(query)
    if not rows:
        return out
    spans = triton.cdiv(longest, SPAN)
    if split is None:
        split = spans > 1 and len(tiles) * kv_heads < PROGRAMS
    lanes = max(triton.next_power_of_2(dim), 16)
    constants = {"HEADS": heads, "DIM": dim, "LANES": lanes, "SPAN": SPAN}
    shape = (spans, rows, heads) if split else (0,)
    tops, masses = (query.new_empty(shape, dtype=torch.float32) for _ in range(2))
    parts = query.new_empty(*shape, dim, dtype=torch.float32) if split else out
    attention_kernel[(len(tiles), kv_heads, spans if split else 1)](
        query, keys, values, table, tiles, positions, parts, tops, masses, rows, table.stride(0),
        scale * 1.4426950408889634, SPLIT=split, KV_HEADS=kv_heads, ROWS=ROWS, KEYS=KEYS, PAGE=PAGE,
        MATH=operand(query.dtype), num_warps=WARPS, num_stages=STAGES, **constants)
    if split:
        merge_kernel[(rows,)](parts, tops, masses, positions, out, rows, WIDE=triton.next_power_of_2(heads),
                              NONE=NONE.value, **constants)
    return out
