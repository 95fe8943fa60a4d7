"""Rounding whose error is handed on: each column's rounding error is made up for by the columns not yet rounded.

The update of Optimal Brain Quantization in GPTQ's column order (Frantar et al. 2022, arXiv:2210.17323, alg. 1): with
the layer's inputs X, H = X^T X and U the upper Cholesky factor of H^-1, rounding column i with error e moves every
later column j by -e * U[i, j] / U[i, i], which keeps X W^T closest to what it was. Scales and zero points are given
(from AWQ's searches) and stay, so the stored layout is the same as of plain rounding.
"""

from __future__ import annotations

import torch

BLOCK = 64  # columns whose updates are applied to the rest together, as one product


def compensated(weight: torch.Tensor, gram: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor,
                damping: float) -> torch.Tensor:
    """Levels uint8 [N, K] for `weight` [N, K] whose inputs have `gram` [K, K]; scale and zero are float32 [N, groups].

    `damping` times the mean of gram's diagonal is added to it, so that inputs never seen leave it invertible.
    """
    outputs, inputs = weight.shape
    size = inputs // scale.shape[1]
    damped = gram + torch.eye(inputs) * (damping * gram.diagonal().mean() + torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    columns = weight.T.contiguous().clone()  # [K, N]: a column is one row of memory
    scales, zeros = scale.T.contiguous(), zero.T.contiguous()
    levels = torch.empty(inputs, outputs, dtype=torch.uint8)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = torch.empty(end - start, outputs)
        for column in range(start, end):
            step, middle = scales[column // size], zeros[column // size]
            level = (columns[column] / step).round_().add_(middle).clamp_(0, 15)
            levels[column] = level.to(torch.uint8)
            error = (columns[column] - (level - middle) * step) / factor[column, column]
            columns[column + 1:end].addr_(factor[column, column + 1:end], error, alpha=-1)
            errors[column - start] = error
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return levels.T.contiguous()
