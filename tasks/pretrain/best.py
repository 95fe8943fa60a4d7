"""Early stopping: the weights of the best held-out point are kept, and a run without gain ends (Prechelt 1998, "Early
stopping, but when?"). What it knows lies in every checkpoint, so that a killed run stops and chooses as an undisturbed
one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE = "best.pt"


class Best:
    """The best point so far, with a copy of its weights in host memory. `patience`: points without gain that end the
    run; None keeps nothing and never ends one."""

    def __init__(self, patience: int | None):
        self.patience = patience
        self.weights: dict[str, Tensor] = {}
        self.step, self.score, self.since = 0, float("inf"), 0

    @property
    def out(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since >= self.patience

    def look(self, step: int, score: float, model: nn.Module) -> None:
        """Hold the point after `step` against the best: `score` is better the lower it is."""
        if self.patience is None:
            return
        self.since += 1
        if score < self.score:
            self.step, self.score, self.since = step, score, 0
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the weights into a checkpoint's `folder`, where there are any; returns what `load` needs besides."""
        if not self.weights:
            return {}
        torch.save(self.weights, folder / FILE)
        return {"step": self.step, "score": self.score, "since": self.since}

    def load(self, folder: Path, kept: dict[str, Any]) -> None:
        """Go back to what `save` wrote into `folder` and returned."""
        self.weights = torch.load(folder / FILE, map_location="cpu", weights_only=True) if kept else {}
        self.step, self.score, self.since = (
            (kept["step"], kept["score"], kept["since"]) if kept else (0, float("inf"), 0))

    def restore(self, model: nn.Module) -> None:
        """Put the best weights into `model`, where any are kept."""
        if self.weights:
            model.load_state_dict(self.weights)
