"""Sequence parallelism: each of several ranks holds a part of every sequence, and attention some heads of the whole.

DeepSpeed Ulysses (Jacobs et al. 2023, arXiv:2309.14509): an all-to-all before attention gathers the sequence and shares
out the heads, one after it turns that back. Activations fall to 1/n, the batch is that of world / n ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks import stage
from tasks.stage import StageError


def begin(model: PreTrainedModel, size: int, world: int, sequence: int, micro: int) -> Any:
    """Put the all-to-alls around the attention that `model` is set to, `size` ranks a sequence of `sequence` tokens,
    `micro` sequences at once; DeepSpeed's table of groups, or None where `size` is 1. While the model evaluates, it
    attends as ever. Raises StageError where ranks, tokens or heads do not divide."""
    if size == 1:
        return None
    if world % size or sequence % size:
        raise StageError(f"pretrain.sequence_parallel = {size} does not divide {world} ranks and sequences of "
                         f"{sequence} tokens: make it a divisor of both")
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    try:
        return UlyssesSPAttentionHF.register_with_transformers(
            model_name_or_path=model, core_attn_implementation=model.config._attn_implementation,
            sequence_parallel_size=size, micro_batch_size=micro, seq_length=sequence, seq_length_is_variable=False,
            disable_in_eval=True)
    except ValueError as error:
        raise StageError(f"pretrain.sequence_parallel = {size}: {stage.one_line(error)}") from None


def part(inputs: dict[str, Tensor], targets: Tensor, rank: int, size: int) -> tuple[dict[str, Tensor], Tensor]:
    """What `rank` feeds the model, and its targets, of int64 input_ids and targets [batch, n]: all where `size` is 1,
    else n / size positions of each with their numbers."""
    if size == 1:
        return inputs, targets
    words = inputs["input_ids"]
    width = words.shape[1] // size
    here = slice(rank % size * width, (rank % size + 1) * width)
    numbers = torch.arange(words.shape[1], device=words.device).expand_as(words)
    return {"input_ids": words[:, here].contiguous(), "position_ids": numbers[:, here].contiguous()}, targets[:, here]
