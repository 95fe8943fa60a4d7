"""Rounding whose error is handed on: each column's rounding error is made up for by the columns not yet rounded.

The update of Optimal Brain Quantization in GPTQ's column order (Frantar et al. 2022, arXiv:2210.17323, alg. 1): with
the layer's inputs X, H = X^T X and U the upper Cholesky factor of H^-1, rounding column i with error e moves every
later column j by -e * U[i, j] / U[i, i], which keeps X W^T closest to what it was. Scales and zero points are given
(from AWQ's searches) and stay, so the stored layout is the same as of plain rounding.
"""

from __future__ import annotations

import torch

from tasks.stage import StageError

BLOCK = 64  # columns whose updates are applied to the rest together, as one product


def compensated(weight: torch.Tensor, gram: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor,
                damping: float) -> torch.Tensor:
    """Levels uint8 [N, K] for `weight` [N, K] whose inputs have `gram` [K, K]; scale and zero are float32 [N, groups].

    `damping` times the mean of gram's diagonal is added to it, so that inputs never seen leave it invertible.
    """
    outputs, inputs = weight.shape
    size = inputs // scale.shape[1]
    factor = inverse_factor(gram + torch.eye(inputs) * damped(gram, damping))
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


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """What is added to gram's diagonal: `damping` times its mean, never 0."""
    return damping * gram.diagonal().mean() + torch.finfo(torch.float32).tiny


def inverse_factor(matrix: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with U^T U = matrix^-1, of a positive definite matrix [K, K].

    Cholesky in the reverse order gives matrix = R R^T with R upper triangular, so U = R^-1: no inverse of the whole.
    Raises StageError where the matrix is not positive definite.
    """
    reverse, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if failed:
        raise StageError("the inputs of a layer are too alike to hand rounding errors on: raise quantize.damping or "
                         "calibrate on more windows")
    reverse = reverse.flip(0, 1)
    return torch.linalg.solve_triangular(reverse, torch.eye(len(matrix)), upper=True)
