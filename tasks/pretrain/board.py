"""A run while it runs: numbers on its bar, which the flow makes a progress artifact of (flows/progress.py), and
TensorBoard's event files in `.runtime/tensorboard/TRACK`, drawn by `./run tensorboard`. Nothing here is hashed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from tasks import stage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = Path(".runtime/tensorboard")


class Board:
    """What rank 0 shows of a track's run; the other ranks' show nothing."""

    def __init__(self, track: str, rank: int):
        self.folder, self.rank = FOLDER / track, rank
        self.writer: SummaryWriter | None = None
        self.seen = 0, 0.0  # step and time of the last look

    def begin(self, step: int) -> None:
        """Show the steps after `step`: what was written of later ones is void, at 0 all of it."""
        self.seen = step, time.monotonic()
        if self.rank:
            return
        from torch.utils.tensorboard import SummaryWriter  # rank 0 alone pays for it

        self.close()
        if step == 0:
            stage.remove(self.folder)
        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None, flush_secs=10)

    def look(self, step: int, loss: float, norm: float, rate: float, tokens: int, bar: tqdm) -> None:
        """Show the `step` (1-based) just done: its loss, gradient norm, share of the peak learning rates, and the speed
        since the last look or point of the curve; `tokens` a step."""
        (last, when), now = self.seen, time.monotonic()
        self.seen = step, now
        bar.set_postfix(loss=f"{loss:.3f}", grad=f"{norm:.3f}", refresh=False)
        self.add(step, {"train/loss": loss, "train/grad_norm": norm, "train/rate": rate,
                        "speed/tokens_per_second": (step - last) * tokens / max(now - when, 1e-9)})

    def add(self, step: int, values: dict[str, float]) -> None:
        """`values` as scalars at `step` (1-based)."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.seen = step, time.monotonic()

    def close(self) -> None:
        """Write out what is pending."""
        if self.writer is not None:
            self.writer.close()
