"""SwiGLU (Shazeer 2020, eq. 6): silu(gate) * up of one packed product, so the two halves are read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def swiglu_kernel(gate_up, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    gate = tl.load(gate_up + row * 2 * inner + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + column, mask=inside, other=0).to(tl.float32)
    # exp of a large -gate overflows to inf and the quotient to the right limit, 0
    tl.store(out + row * inner + column, gate / (1 + tl.exp(-gate)) * up, mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[n, 2 * inner] (gate, then up) to silu(gate) * up [n, inner] in the same dtype.

    Raises ValueError for an odd width or a tensor that is not contiguous.
    """
    rows, width = gate_up.shape
    if width % 2 or not gate_up.is_contiguous():
        raise ValueError(f"swiglu wants contiguous rows of gate and up side by side, not {tuple(gate_up.shape)}")
    out = gate_up.new_empty(rows, width // 2)
    if rows:
        swiglu_kernel[(rows, triton.cdiv(width // 2, BLOCK))](gate_up, out, width // 2, BLOCK=BLOCK)
    return out
