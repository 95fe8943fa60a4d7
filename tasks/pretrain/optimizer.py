"""Muon for the matrices, AdamW for everything else, as one torch optimizer that DeepSpeed can drive.

Muon: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the momentum of a
matrix is replaced by the nearest semi-orthogonal matrix, found by five Newton-Schulz steps in bf16. Matrices of one
shape are stacked and orthogonalized in one batched product, which is where small models spend the optimizer's time.
AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tasks.pretrain.settings import PretrainParams

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
BETAS = (0.9, 0.95)
EPS = 1e-10


def groups(model: nn.Module, settings: PretrainParams) -> list[dict[str, Any]]:
    """Two parameter groups: the matrices inside the blocks, then embeddings, head and norms."""
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    tables |= {id(p) for p in (model.get_output_embeddings() or nn.Module()).parameters()}
    matrices, others = [], []
    for parameter in model.parameters():
        inside = parameter.ndim == 2 and id(parameter) not in tables
        parameter.use_muon = inside and settings.optimizer == "muon"  # the tag DeepSpeed's own Muon reads
        (matrices if inside else others).append(parameter)
    muon = settings.optimizer == "muon"
    return [
        {"params": matrices, "use_muon": muon, "peak": settings.matrix_rate if muon else settings.rate,
         "weight_decay": settings.weight_decay},
        {"params": others, "use_muon": False, "peak": settings.rate, "weight_decay": 0.0},
    ]


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `use_muon` take orthogonalized momentum steps, the others AdamW steps.

    A group's `lr` is set by the caller before each step; state is kept a parameter, in fp32.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            present = [p for p in group["params"] if p.grad is not None]
            if not present:
                continue
            if group["use_muon"]:
                shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
                for parameter in present:
                    shapes[min(parameter.shape), max(parameter.shape)].append(parameter)
                for parameters in shapes.values():
                    self._muon(parameters, group)
            else:
                self._adamw(present, group)

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        updates = []
        for parameter in parameters:
            buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"])
            updates.append(update.T if update.shape[0] > update.shape[1] else update)
        for parameter, update in zip(parameters, orthogonalize(torch.stack(updates))):
            rows, columns = parameter.shape
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.T if rows > columns else update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(step=torch.tensor(0.0), mean=torch.zeros_like(parameter),
                                             square=torch.zeros_like(parameter))
        gradients = [parameter.grad for parameter in parameters]
        means, squares, steps = ([self.state[p][name] for p in parameters] for name in ("mean", "square", "step"))
        adamw(parameters, gradients, means, squares, [], steps, fused=True, amsgrad=False, beta1=BETAS[0],
              beta2=BETAS[1], lr=group["lr"], weight_decay=group["weight_decay"], eps=EPS, maximize=False)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly semi-orthogonal factors [n, rows, columns] (rows <= columns) of a stack of matrices, in bf16.

    A quintic Newton-Schulz iteration that drives every singular value into about 0.7 to 1.2, which is as good for
    the update as 1 and needs five steps of three products.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
