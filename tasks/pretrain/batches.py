"""Training batches as a pure function of (seed, step, rank): nothing to save, nothing to skip when a run resumes."""

from __future__ import annotations

import numpy as np

from tasks.stage import StageError

IGNORED = -100  # cross_entropy's own


class Windows:
    """Windows of `sequence` + 1 tokens over a packed stream, every one once an epoch.

    An epoch shifts the grid of windows by a random offset and visits them in a random order, both drawn from
    (seed, epoch) alone. With `starts`, int64 [documents + 1] as `Stream.starts` gives them, documents keep to
    themselves (`places`). Raises StageError when the stream is too short for one window.
    """

    def __init__(self, tokens: np.ndarray, sequence: int, seed: int, starts: np.ndarray | None = None):
        self.tokens, self.sequence, self.seed, self.starts = tokens, sequence, seed, starts
        self.count = (len(tokens) - 1) // sequence - 1
        if self.count < 1:
            raise StageError(f"{len(tokens)} training tokens are too few for windows of {sequence}: "
                             "read more text or lower pretrain.sequence")
        self._epoch = (-1, 0, np.empty(0, dtype=np.int64))

    def window(self, number: int) -> np.ndarray:
        """int64 [sequence + 1]: window `number` of the endless run of epochs."""
        start = self.start(number)
        return self.tokens[start:start + self.sequence + 1].astype(np.int64)

    def start(self, number: int) -> int:
        """The place in the stream where window `number` begins."""
        epoch, place = divmod(number, self.count)
        if self._epoch[0] != epoch:
            draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch = (epoch, int(draw.integers(self.sequence)), draw.permutation(self.count))
        return self._epoch[1] + int(self._epoch[2][place]) * self.sequence

    def batch(self, step: int, rank: int, world: int, size: int) -> np.ndarray:
        """int64 [size / world, sequence + 1]: what `rank` of `world` reads at `step` of a run of `size` sequences."""
        return np.stack([self.window(number) for number in self.numbers(step, rank, world, size)])

    def numbers(self, step: int, rank: int, world: int, size: int) -> range:
        """The windows that `rank` of `world` reads at `step` of a run of `size` sequences."""
        share = size // world
        first = step * size + rank * share
        return range(first, first + share)

    def places(self, step: int, rank: int, world: int, size: int) -> np.ndarray:
        """int64 [size / world, sequence + 1]: how far each token of `batch` stands behind the start of its document,
        or of the window where that is nearer."""
        rows = []
        for number in self.numbers(step, rank, world, size):
            own = np.arange(self.start(number), self.start(number) + self.sequence + 1)
            document = self.starts[np.searchsorted(self.starts, own, side="right") - 1]
            rows.append(own - np.maximum(document, own[0]))
        return np.stack(rows)

    def feed(self, step: int, rank: int, world: int, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What a model reads and what it must say, int64 [size / world, sequence] each.

        Where documents keep to themselves, `position_ids` restart with each, by which transformers' attention tells
        them apart, and no token is asked for the next document's first: its target is IGNORED.
        """
        batch = self.batch(step, rank, world, size)
        inputs, targets = {"input_ids": batch[:, :-1]}, batch[:, 1:]
        if self.starts is not None:
            places = self.places(step, rank, world, size)
            inputs["position_ids"] = places[:, :-1]
            targets = np.where(places[:, 1:] == 0, IGNORED, targets)
        return inputs, targets
