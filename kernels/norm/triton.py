"""RMSNorm (Zhang and Sennrich 2019, eq. 4), alone or after adding a residual, one program a row.

y = x / sqrt(mean(x^2) + eps) * weight, in float32 whatever the tensors hold. Each row is read once and written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def norm_kernel(x, residual, weight, out, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row + column, mask=inside, other=0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row + column, mask=inside, other=0).to(tl.float32)
        tl.store(residual + row + column, value, mask=inside)
    scale = 1 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(out + row + column, value * scale * tl.load(weight + column, mask=inside, other=0).to(tl.float32),
             mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Rows x [n, width], contiguous, normalized and times weight [width]; in `dtype` (default: x's)."""
    out = torch.empty_like(x, dtype=dtype or x.dtype)
    launch(x, x, weight, out, eps, add=False)
    return out


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """residual [n, width] += x [n, width] in place, then its rows normalized, in x's dtype. Both contiguous."""
    out = torch.empty_like(x)
    launch(x, residual, weight, out, eps, add=True)
    return out


def launch(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float, *,
           add: bool) -> None:
    """Start one program a row. Raises ValueError where shapes do not fit or a tensor is not contiguous."""
    rows, width = x.shape
    if residual.shape != x.shape or weight.shape != (width,):
        raise ValueError(f"norm: x {tuple(x.shape)}, residual {tuple(residual.shape)}, weight {tuple(weight.shape)}")
    if not (x.is_contiguous() and residual.is_contiguous()):
        raise ValueError("norm: x and residual must be contiguous")
    if rows:
        block = triton.next_power_of_2(width)
        norm_kernel[(rows,)](x, residual, weight, out, width, eps, ADD=add, BLOCK=block,
                             num_warps=min(max(block // 512, 1), 16))
