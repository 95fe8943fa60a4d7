"""Bits per byte by hand, windows that score every token once, and batches that are a function of the step."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tasks.pretrain import batches, scoring
from tasks.stage import StageError
from tasks.tokenizer.shards import Stream


def stream(*documents, sizes=None):
    tokens = np.concatenate([np.array(d) for d in documents]).astype("<u2")
    return Stream(tokens, np.array([(len(d), s) for d, s in zip(documents, sizes or [1] * len(documents))]))


class Table(nn.Module):
    """A model that predicts from the last token alone, by a table of chances."""

    def __init__(self, chances):
        super().__init__()
        self.logits = torch.log(torch.tensor(chances))

    def forward(self, input_ids, use_cache):
        return type("Output", (), {"logits": self.logits[input_ids]})


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 13, 16, 17, 40, 41])
def test_every_token_is_scored_once_with_its_own_context(length):
    document = [0, *range(1, length)]
    held_out = stream(document, [0, 99])
    found = scoring.windows(held_out, 8)
    assert found.inputs.shape == found.targets.shape == (len(found.owner), 8)
    scored = []
    for row, targets in zip(found.inputs[found.owner == 0], found.targets[found.owner == 0]):
        for place in np.flatnonzero(targets != scoring.IGNORED):
            assert row[place] == targets[place] - 1, "the input before a target is the token before it"
            assert place >= 4 or row[0] == 0, "past the first window at least half a window of context"
            scored.append(int(targets[place]))
    assert scored == document[1:]
    assert (found.owner == 1).sum() == 1


def test_bits_per_byte_by_hand():
    chances = [[.1, .5, .4], [.2, .2, .6], [.25, .5, .25]]
    held_out = stream([0, 1, 2, 1], [0, 2], sizes=[6, 2])
    found = scoring.windows(held_out, 4)
    nats = scoring.nats(Table(chances), found, 1, "cpu", bf16=False)
    assert nats == pytest.approx([-math.log(.5 * .6 * .5), -math.log(.4)], rel=1e-6)
    ratio, error = scoring.bits_per_byte(nats, held_out.index[:, 1])
    assert ratio == pytest.approx((-math.log2(.15) - math.log2(.4)) / 8, rel=1e-6)
    residual = -math.log2(.15) - ratio * 6  # the two residuals cancel
    assert error == pytest.approx(2 * abs(residual) / 8, rel=1e-6)


def test_a_sample_is_a_spread_of_whole_windows():
    found = scoring.windows(stream([0] * 801), 8)
    part = found.every(100)
    assert 80 <= (part.targets != scoring.IGNORED).sum() <= 140
    assert len(found.every(10**9).owner) == len(found.owner)


def test_an_epoch_shows_every_window_once_and_epochs_differ():
    tokens = np.arange(1000, dtype="<u2")
    windows = batches.Windows(tokens, 10, seed=3)
    epochs = [[windows.window(e * windows.count + i) for i in range(windows.count)] for e in range(2)]
    starts = [[int(w[0]) for w in epoch] for epoch in epochs]
    for epoch, first in zip(epochs, starts):
        assert all((np.diff(w) == 1).all() and len(w) == 11 for w in epoch)
        assert len({s // 10 for s in first}) == len(first) == 98
        assert len({s % 10 for s in first}) == 1
    assert starts[0] != starts[1] and starts[0] != sorted(starts[0])


def test_a_batch_depends_on_seed_and_step_alone_and_ranks_share_it():
    tokens = np.arange(1000, dtype="<u2")
    whole = batches.Windows(tokens, 10, 3).batch(30, 0, 1, 4)
    later = batches.Windows(tokens, 10, 3)
    parts = [later.batch(30, rank, 2, 4) for rank in (0, 1)]
    assert (np.concatenate(parts) == whole).all()
    assert (batches.Windows(tokens, 10, 4).batch(30, 0, 1, 4) != whole).any()


def test_too_short_a_stream_is_refused():
    with pytest.raises(StageError, match="too few for windows of 10"):
        batches.Windows(np.arange(20, dtype="<u2"), 10, 0)
