"""Training batches as a pure function of (seed, step, rank): nothing to save, nothing to skip when a run resumes."""

from __future__ import annotations

import numpy as np

from tasks.stage import StageError


class Windows:
    """Windows of `sequence` + 1 tokens over a packed stream, every one once an epoch.

    An epoch shifts the grid of windows by a random offset and visits them in a random order, both drawn from
    (seed, epoch) alone. Raises StageError when the stream is too short for one window.
    """

    def __init__(self, tokens: np.ndarray, sequence: int, seed: int):
        self.tokens, self.sequence, self.seed = tokens, sequence, seed
        self.count = (len(tokens) - 1) // sequence - 1
        if self.count < 1:
            raise StageError(f"{len(tokens)} training tokens are too few for windows of {sequence}: "
                             "read more text or lower pretrain.sequence")
        self._epoch = (-1, 0, np.empty(0, dtype=np.int64))

    def window(self, number: int) -> np.ndarray:
        """int64 [sequence + 1]: window `number` of the endless run of epochs."""
        epoch, place = divmod(number, self.count)
        if self._epoch[0] != epoch:
            draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch = (epoch, int(draw.integers(self.sequence)), draw.permutation(self.count))
        start = self._epoch[1] + int(self._epoch[2][place]) * self.sequence
        return self.tokens[start:start + self.sequence + 1].astype(np.int64)

    def batch(self, step: int, rank: int, world: int, size: int) -> np.ndarray:
        """int64 [size / world, sequence + 1]: what `rank` of `world` reads at `step` of a run of `size` sequences."""
        share = size // world
        first = step * size + rank * share
        return np.stack([self.window(first + i) for i in range(share)])
