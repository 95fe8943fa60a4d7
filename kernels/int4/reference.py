"""The int4 operator's reference: group-wise asymmetric rounding, the arithmetic that every int4 weight obeys.

A group is `size` neighbours along a row of a weight [out, in]; it has one fp16 scale and one integer zero point in
0..15, and a weight reads back as (q - zero) * scale. Scales are rounded to fp16 before they are used, so what is
measured while searching is exactly what the stored model computes.
"""

from __future__ import annotations

import torch

LEVELS = 15
SMALLEST_SCALE = 2.0 ** -14  # smallest normal fp16: a smaller scale underflows to 0 somewhere and turns into NaN


def grid(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, zero) float32 of groups whose values lie in [low, high]; both as shaped as `low`.

    The range is widened to hold 0, so that the zero point is a level; scale is an fp16 value, zero an integer 0..15.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / LEVELS).clamp(min=SMALLEST_SCALE).half().float()
    return scale, (-low / scale).round_().clamp_(0, LEVELS)


def quantize(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Levels 0..15 (float32, as shaped as `weight`) nearest to `weight`; scale and zero broadcast against it."""
    return (weight / scale).round_().add_(zero).clamp_(0, LEVELS)


def round_nearest(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round-to-nearest over each group's full range: (q uint8 [out, in], scale fp16, zero uint8 [out, in/size]).

    Raises ValueError where `size` does not divide the row.
    """
    groups = split(weight, size)
    scale, zero = grid(groups.amin(-1), groups.amax(-1))
    q = quantize(groups, scale[..., None], zero[..., None])
    return q.reshape(weight.shape).to(torch.uint8), scale.half(), zero.to(torch.uint8)


def dequantize(q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Float32 weight [out, in] of levels q [out, in] with scale and zero [out, groups]."""
    groups = q.float().unflatten(-1, (scale.shape[-1], -1))
    return ((groups - zero.float()[..., None]) * scale.float()[..., None]).flatten(-2)


def split(weight: torch.Tensor, size: int) -> torch.Tensor:
    """View [out, in] as [out, in/size, size]. Raises ValueError where `size` does not divide the row."""
    if weight.shape[-1] % size:
        raise ValueError(f"rows of {weight.shape[-1]} do not divide into groups of {size}")
    return weight.unflatten(-1, (-1, size))
