"""Sequences shared by ranks: the parts make up the whole, each knows its place, what does not divide is refused."""

import pytest
import torch

from tasks.pretrain import ulysses
from tasks.stage import StageError


def test_the_parts_of_two_ranks_are_the_sequence():
    windows = torch.arange(2 * 9).view(2, 9)
    words, aims = {"input_ids": windows[:, :-1]}, windows[:, 1:]
    assert ulysses.part(words, aims, 0, 1) == (words, aims)
    parts = [ulysses.part(words, aims, rank, 2) for rank in (2, 3)]  # the second pair of ranks
    assert torch.equal(torch.cat([inputs["input_ids"] for inputs, _ in parts], 1), windows[:, :-1])
    assert torch.equal(torch.cat([targets for _, targets in parts], 1), aims)
    assert parts[1][0]["position_ids"].tolist() == [[4, 5, 6, 7]] * 2


@pytest.mark.parametrize("world, sequence", [(3, 32), (2, 33), (1, 32)])
def test_ranks_and_tokens_must_divide(world, sequence):
    with pytest.raises(StageError, match="pretrain.sequence_parallel = 2 does not divide"):
        ulysses.begin(None, 2, world, sequence, 1)


def test_one_rank_a_sequence_changes_nothing():
    assert ulysses.begin(None, 1, 5, 33, 1) is None
