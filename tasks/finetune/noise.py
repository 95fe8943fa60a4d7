"""NEFTune: uniform noise on the embeddings while a conversation is learned (Jain et al. 2023, arXiv:2310.05914)."""

from __future__ import annotations

import torch
from torch import Tensor


def noisy(embeddings: Tensor, lengths: Tensor, alpha: float, key: int) -> Tensor:
    """`embeddings` [..., hidden] with U(-1, 1) * alpha / sqrt(length * hidden) added (their equation in section 2),
    where `lengths` [...] is the length in tokens of the conversation that each token belongs to.

    Drawn from `key` alone, so the same step gives the same noise in a resumed run.
    """
    draw = torch.Generator().manual_seed(key)
    noise = torch.rand(embeddings.shape, generator=draw, dtype=torch.float32) * 2 - 1
    strength = alpha / (lengths * embeddings.shape[-1]).sqrt()
    return embeddings + (noise * strength[..., None]).to(embeddings.dtype)
