"""The rotary embedding's reference (RoFormer, arXiv 2104.09864) in the Llama convention: planes of i and i + d/2."""

from __future__ import annotations

import torch


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [..., heads, head_dim] turned by angles whose cosines and sines are cos, sin [..., head_dim / 2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
