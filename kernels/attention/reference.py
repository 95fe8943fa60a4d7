"""The attention operator's reference: what a page of each kind keeps of keys and values, and causal attention over it.

`read_back` is the layout's arithmetic (kernels/attention/pages.h): fp32; fp16; int8 with one scale a token; int4 as the 16
levels that are best for a Gaussian (Max 1960; Lloyd 1957), after a Hadamard rotation that makes it one (QuaRot, arXiv
2404.00456). It is what the C++ kernel stores, so it also measures what a kind costs a model, without the kernel.
"""

from __future__ import annotations

import torch

KINDS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
HALF_LEVELS = (0.1284, 0.3880, 0.6568, 0.9423, 1.2562, 1.6181, 2.0690, 2.7326)
LARGEST, SMALLEST = 65504.0, 2.0 ** -24  # of fp16


def read_back(x: torch.Tensor, kind: int) -> torch.Tensor:
    """What a page of `kind` (32, 16, 8 or 4 bits) returns for keys or values x [..., head_dim] of float32, each vector by
    itself. Raises ValueError on another kind or a head_dim that is no multiple of 16."""
    if x.shape[-1] % 16:
        raise ValueError(f"head_dim {x.shape[-1]} is no multiple of 16: the pages cannot hold it")
    if kind == 32:
        return x
    if kind == 16:
        return x.clamp(-LARGEST, LARGEST).half().to(x.dtype)
    if kind == 8:
        scale = half_above(x.abs().amax(-1, keepdim=True) / 127)
        return (x / scale).round().clamp(-127, 127) * scale
    if kind == 4:
        matrix = hadamard(x.shape[-1]).to(x.dtype)
        turned = x.clamp(-LARGEST, LARGEST) @ matrix
        chosen = nearest_level(turned / turned.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-30))
        scale = (turned * chosen).sum(-1, keepdim=True) / chosen.square().sum(-1, keepdim=True)
        return chosen * scale.clamp(SMALLEST, LARGEST).half().to(x.dtype) @ matrix
    raise ValueError(f"pages of {kind} bits: choose one of {sorted(KINDS.values())}")


def nearest_level(x: torch.Tensor) -> torch.Tensor:
    """The level of a unit Gaussian's best 16 that is nearest to each x."""
    levels = torch.tensor([-level for level in reversed(HALF_LEVELS)] + list(HALF_LEVELS), dtype=x.dtype)
    return levels[torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def half_above(x: torch.Tensor) -> torch.Tensor:
    """The least fp16 value that is at least x, as x's own dtype; a scale so rounded never clips."""
    half = x.clamp(SMALLEST, LARGEST).half()
    bits = half.view(torch.int16)
    return torch.where(half.to(x.dtype) < x, bits + 1, bits).view(torch.float16).to(x.dtype)


def hadamard(head_dim: int) -> torch.Tensor:
    """Orthonormal float64 [head_dim, head_dim]: Sylvester's matrix of the largest power of two that divides head_dim,
    in blocks along the diagonal. Symmetric, its own inverse."""
    block = head_dim & -head_dim
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < block:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return torch.block_diag(*[matrix / block ** 0.5] * (head_dim // block))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first_position: int, scale: float) -> torch.Tensor:
    """Causal attention of queries [rows, group, head_dim], the first of them at `first_position`, over one key/value
    head's k, v [positions, head_dim], in q's dtype; row r sees positions 0..first_position + r."""
    seen = torch.arange(len(k))[None] <= first_position + torch.arange(len(q))[:, None]
    scores = (torch.einsum("rgd,td->rgt", q, k) * scale).masked_fill(~seen[:, None], -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    return torch.einsum("rgt,td->rgd", weights, v)
