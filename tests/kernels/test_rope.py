"""RoPE in C++ and its reference against transformers' own and against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.attention import operators
from kernels.rope.reference import rope


def angles(position: int, dim: int, base: float = 1e5) -> np.ndarray:
    return position * base ** (-2 * np.arange(dim // 2) / dim)


@pytest.mark.skipif(not operators.compiler(), reason="no C++ compiler: set CXX or install g++")
@pytest.mark.parametrize("isa", operators.isas())
@pytest.mark.parametrize("dim", [16, 48, 64, 80, 128])
def test_kernel_turns_every_plane_by_its_angle(isa, dim):
    for heads, position in ((1, 0), (3, 1), (9, 2047)):
        x = np.random.default_rng(dim).standard_normal((heads, dim)).astype(np.float32)
        angle = angles(position, dim)
        planes = (x[:, :dim // 2] + 1j * x[:, dim // 2:].astype(np.float64)) * np.exp(1j * angle)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        got = np.concatenate([x.ravel(), [np.nan]]).astype(np.float32)
        operators.library(isa).rope(got.ctypes.data, heads, dim, cos.ctypes.data, sin.ctypes.data)
        assert np.isnan(got[-1]), "wrote beyond the last head"
        assert np.abs(got[:-1].reshape(heads, dim) - np.hstack([planes.real, planes.imag])).max() < 2e-6


def test_reference_is_transformers_convention():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 7, 32)))
    angle = torch.from_numpy(np.stack([angles(position, 32) for position in range(7)]))
    both = torch.cat([angle, angle], -1)[None]
    wanted, _ = apply_rotary_pos_emb(q, q, both.cos(), both.sin())
    got = rope(q[0].transpose(0, 1), angle.cos(), angle.sin())
    assert (got - wanted[0].transpose(0, 1)).abs().max() < 1e-12
