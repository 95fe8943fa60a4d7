"""What a cache of few bits costs a model: keys (after their rotation) and values rounded as the pages keep them.

The arithmetic is the attention operator's (kernels/attention/reference.py: one scale a token and head, int4 after a
Hadamard rotation); here a transformers model attends to what would be read back, so that the gate can score it.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kernels.attention import reference

KINDS = (8, 4)


def rounded_cache(model: LlamaForCausalLM, bits: int) -> LlamaForCausalLM:
    """`model` changed in place to attend to keys and values of `bits` (8 or 4). Raises ValueError on another number."""
    if bits not in KINDS:
        raise ValueError(f"a cache of {bits} bits: choose one of {KINDS}")

    def attend(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               attention_mask: torch.Tensor | None, **options) -> tuple[torch.Tensor, None]:
        return sdpa_attention_forward(module, query, reference.read_back(key, bits), reference.read_back(value, bits),
                                      attention_mask, **options)

    name = f"rounded_cache_int{bits}"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    return model
