"""Tensor parallelism: each of several ranks holds a part of every matrix in the blocks, and all see the same batch.

DeepSpeed's AutoTP by the plan that the stock class brings: query, key, value, gate and up are cut by outputs, the two
that write to the stream by inputs, whose sums an all-reduce adds up (Shoeybi et al. 2019, "Megatron-LM",
arXiv:1909.08053). A rank's weights, gradients and optimizer state of them fall to 1/n. Norms and embeddings stay whole,
and a head tied to them; one of its own is cut by words and its logits are gathered, since the loss reads whole ones.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from tasks.stage import StageError


def begin(model: PreTrainedModel, size: int, world: int) -> tuple[dict[str, Any], Any]:
    """What DeepSpeed's configuration gains to cut `model` into `size` parts on `world` ranks, and its table of groups;
    nothing where `size` is 1. Raises StageError where ranks, heads or the words of an untied head do not divide."""
    if size == 1:
        return {}, None
    if world % size:
        raise StageError(f"pretrain.tensor_parallel = {size} does not divide {world} ranks: launch a multiple of "
                         f"{size} (runtime.hostfile), or make it a divisor")
    config = model.config
    counts = {"query heads (model.heads)": config.num_attention_heads,
              "key and value heads (model.kv_heads)": config.num_key_value_heads}
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        counts["words (tokenizer.vocab, with model.tied: false)"] = config.vocab_size
    for what, count in counts.items():
        if count % size:
            raise StageError(f"pretrain.tensor_parallel = {size} does not divide the model's {count} {what}: make it a "
                             "divisor, or 1")
    from deepspeed.utils import groups

    groups._init_tp_mesh_device(size)  # neighbours in rank share the matrices; made once in a process
    # without this AutoTP cuts a tied head by words and keeps the logits apart
    return {"tensor_parallel": {"autotp_size": size, "vocab_parallel_lm_head": False}}, groups


def whole(engine: Any) -> dict[str, torch.Tensor] | None:
    """The state of the uncut model, a tied head once, on the host of rank 0; None on the others. All ranks call it,
    after the last step: under ZeRO what the optimizer updates is no longer what the model holds then."""
    found = engine._consolidated_16bit_state_dict()  # in the weights' own precision, whatever it is called
    return found and {name: found[name] for name, _ in engine.module.named_parameters()}
