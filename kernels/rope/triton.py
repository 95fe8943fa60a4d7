"""Rotary positions (Su et al. 2021, eq. 34; Llama's halves) of a packed query-key-value product, fused with the write
of keys and values into the paged cache. One program a row and head.

The cache is [blocks, kv_heads, 16, head_dim] for keys and the same for values: a page of one head is contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

PAGE = 16  # tokens of a block


@triton.jit
def rope_kernel(packed, cosine, sine, positions, sequences, table, table_stride, query, keys, values,
                HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
                PAGE: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = DIM // 2
    lane = tl.arange(0, HALF)
    inside = lane < half
    source = packed + (row * (HEADS + 2 * KV_HEADS) + head) * DIM
    low = tl.load(source + lane, mask=inside, other=0).to(tl.float32)
    high = tl.load(source + half + lane, mask=inside, other=0).to(tl.float32)
    position = tl.load(positions + row)
    if head < HEADS + KV_HEADS:
        cos = tl.load(cosine + position * half + lane, mask=inside, other=0)
        sin = tl.load(sine + position * half + lane, mask=inside, other=0)
        low, high = low * cos - high * sin, high * cos + low * sin
    if head < HEADS:
        target = query + (row * HEADS + head) * DIM
        tl.store(target + lane, low, mask=inside)
        tl.store(target + half + lane, high, mask=inside)
    else:
        sequence = tl.load(sequences + row)
        block = tl.load(table + sequence * table_stride + position // PAGE).to(tl.int64)
        kv_head = (head - HEADS) % KV_HEADS
        place = ((block * KV_HEADS + kv_head) * PAGE + position % PAGE) * DIM
        if head < HEADS + KV_HEADS:
            tl.store(keys + place + lane, low, mask=inside)
            tl.store(keys + place + half + lane, high, mask=inside)
        else:
            tl.store(values + place + lane, low, mask=inside)
            tl.store(values + place + half + lane, high, mask=inside)


def rope_and_store(packed: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, positions: torch.Tensor,
                   sequences: torch.Tensor, table: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
                   ) -> torch.Tensor:
    """Rotate queries and keys, write keys and values to their pages, return the queries [n, heads, head_dim].

    packed [n, (heads + 2 kv_heads) * head_dim] contiguous: queries, keys, values; cosine, sine float32 [positions,
    head_dim / 2]; positions, sequences int [n]; table int32 [sequences, blocks of a sequence]; keys, values
    [blocks, kv_heads, 16, head_dim]. Raises ValueError where the shapes do not fit.
    """
    rows, width = packed.shape
    _, kv_heads, page, dim = keys.shape
    heads, rest = divmod(width - 2 * kv_heads * dim, dim)
    if rest or heads < 1 or dim % 2 or page != PAGE or values.shape != keys.shape:
        raise ValueError(f"rope: {width} columns do not hold heads of {dim} beside {kv_heads} of keys and values "
                         f"in pages of {page}")
    if cosine.shape[1] * 2 != dim or not packed.is_contiguous():
        raise ValueError(f"rope: angles {tuple(cosine.shape)} for heads of {dim}, or rows that are not contiguous")
    query = packed.new_empty(rows, heads, dim)
    if rows:
        rope_kernel[(rows, heads + 2 * kv_heads)](
            packed, cosine, sine, positions, sequences, table, table.stride(0), query, keys, values, HEADS=heads,
            KV_HEADS=kv_heads, DIM=dim, HALF=triton.next_power_of_2(dim // 2), PAGE=PAGE, num_warps=1)
    return query
