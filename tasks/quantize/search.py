"""The searches of AWQ for one linear layer: which input channels to scale up before rounding, where to clip a group.

Activation-aware Weight Quantization, Lin et al. 2023 (arXiv:2306.00978), eq. 4-5: a weight column whose input channel
is large in activation is multiplied by s >= 1 before rounding and its input divided by s, so its rounding error
shrinks by s; s = a^alpha with a the mean magnitude of the channel and alpha found on a grid. The error searched is the
layer's own output error over the calibration inputs X, ||X (W' - W)^T||^2. It needs X only as the Gram matrix X^T X,
so a candidate costs one product however many calibration tokens there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.int4 import reference as rounding


@dataclass
class Inputs:
    """What a linear layer saw: gram [K, K] = X^T X / rows and magnitude [K] = mean |X|, float32."""

    gram: torch.Tensor
    magnitude: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Inputs:
        """What rows [R, K] amount to."""
        return cls(rows.T @ rows / len(rows), rows.abs().mean(0))

    def divided(self, scale: torch.Tensor) -> Inputs:
        """The same after every input channel was divided by `scale` [K]."""
        return Inputs(self.gram / torch.outer(scale, scale), self.magnitude / scale)


def output_error(difference: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean squared output error of a weight difference [N, K], summed over outputs (scalar)."""
    return (difference @ gram).mul_(difference).sum()


def channel_scales(weight: torch.Tensor, inputs: Inputs, group: int, points: int, tie: int = 1,
                   head_dim: int = 1) -> torch.Tensor:
    """The scale [K] of the input channels of `weight` [N, K] that rounds with least output error.

    alpha runs over `points` values from 0 (no scaling, so the result is never worse than none) to below 1. `tie`
    neighbouring heads of `head_dim` channels get the same scales: query heads that read one value head, whose rows
    cannot be scaled apart.
    """
    heads = inputs.magnitude.clamp(min=1e-5).view(-1, tie, head_dim)
    magnitude = heads.mean(1, keepdim=True).expand_as(heads).reshape(-1)
    best, best_error = torch.ones_like(magnitude), None
    for alpha in torch.arange(points) / points:
        scale = magnitude ** alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = output_error(rounded(weight * scale, group) / scale - weight, inputs.gram)
        if best_error is None or error < best_error:
            best, best_error = scale, error
    return best


def untie(scale: torch.Tensor, tie: int, head_dim: int) -> torch.Tensor:
    """The scale [K / tie] of the channels that a tied scale [K] repeats."""
    return scale.view(-1, tie, head_dim)[:, 0].reshape(-1)


def rounded(weight: torch.Tensor, group: int) -> torch.Tensor:
    """`weight` [N, K] after round-to-nearest in groups, as float32."""
    groups = rounding.split(weight, group)
    scale, zero = rounding.grid(groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True))
    return rounding.quantize(groups, scale, zero).sub_(zero).mul_(scale).view_as(weight)


def clipped_grid(weight: torch.Tensor, gram: torch.Tensor, group: int, points: int,
                 narrowest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, zero) float32 [N, K/group] whose ranges are shrunk, group by group, to where the output error is least.

    The shrink factor runs over `points` values from 1 (the full range) down to `narrowest`; the error of a group is
    taken under its own diagonal block of `gram`, as if the other groups were exact.
    """
    groups = rounding.split(weight, group).transpose(0, 1).contiguous()  # [G, N, group], so blocks multiply as a batch
    count = groups.shape[0]
    blocks = gram.view(count, group, count, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    low, high = groups.amin(-1), groups.amax(-1)
    best = None
    for shrink in torch.linspace(1, narrowest, points):
        scale, zero = rounding.grid(low * shrink, high * shrink)
        difference = rounding.quantize(groups, scale[..., None], zero[..., None])
        difference.sub_(zero[..., None]).mul_(scale[..., None]).sub_(groups)
        error = (difference @ blocks).mul_(difference).sum(-1)
        if best is None:
            best = [error, scale, zero]
            continue
        better = error < best[0]
        best = [torch.where(better, new, old) for new, old in zip((error, scale, zero), best, strict=True)]
    return best[1].T.contiguous(), best[2].T.contiguous()
