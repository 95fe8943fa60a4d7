"""The linear layer's reference in float64: what the integer and floating kernels are measured against."""

from __future__ import annotations

import torch


def dequantize(levels: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """float64 weight [out, in] of integer levels [out, in] with scale and zero [out, groups]."""
    groups = levels.double().unflatten(-1, (scale.shape[-1], -1))
    return ((groups - zero.double()[..., None]) * scale.double()[..., None]).flatten(-2)


def rounded(x: torch.Tensor, group: int) -> torch.Tensor:
    """x [rows, in] as the integer kernels see it: each (row, group) in 255 levels, the largest magnitude at 127."""
    groups = x.double().unflatten(-1, (-1, group))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, groups / scale, 0).round() * scale).flatten(-2)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times weight [out, in] in float64."""
    return x.double() @ weight.double().T
