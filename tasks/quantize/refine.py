"""Scales refined after rounding: the least output error that fixed levels allow.

With levels and zero points given, the weight is linear in the scales: row n is sum_g s_g c_g, c_g its centred levels in
group g. The output error ||X (w' - w)^T||^2 is then a quadratic in the row's G scales, with matrix A = C H C^T and
right side C H w for H = X^T X, and its minimum one small linear system a row.
"""

from __future__ import annotations

import torch

from kernels.int4 import reference as rounding

PULL = 0.01  # share of each scale's own curvature that holds it to where it was: a group of zero levels stays defined


def least_squares(weight: torch.Tensor, gram: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor,
                  zero: torch.Tensor) -> torch.Tensor:
    """Float32 scales [N, G] (fp16 values) of least error under `gram` [K, K] for `weight` [N, K], levels uint8 [N, K].

    A scale stays within half and twice what it was.
    """
    groups = scale.shape[1]
    centred = levels.float().unflatten(-1, (groups, -1)) - zero[..., None]
    blocks = gram.view(groups, -1, gram.shape[1])
    matrix = torch.stack([((centred[:, g] @ blocks[g]).unflatten(-1, (groups, -1)) * centred).sum(-1)
                          for g in range(groups)], dim=1)
    right = ((weight @ gram).unflatten(-1, (groups, -1)) * centred).sum(-1)
    pull = PULL * matrix.diagonal(dim1=1, dim2=2) + torch.finfo(torch.float32).tiny
    found = torch.linalg.solve(matrix + torch.diag_embed(pull), right + pull * scale)
    found = torch.where(found.isfinite(), found, scale)
    return found.clamp(scale / 2, scale * 2).clamp_(min=rounding.SMALLEST_SCALE).half().float()
