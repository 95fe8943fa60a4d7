"""SwiGLU in float64 (Shazeer 2020)."""

from __future__ import annotations

import torch


def swiglu(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """silu(gate) * value."""
    return torch.nn.functional.silu(gate.double()) * value.double()
