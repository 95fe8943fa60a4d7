"""Packing: the conversations of a step end to end in one row, so that no product is spent on padding.

Each conversation keeps its own positions (from 0) and attends to itself alone: queries, keys and values are laid out a
conversation a row for the attention's products and gathered again behind them, so the mask is the plain causal one and
no score between two conversations is ever computed. Elsewhere a token is a token: norms, projections and MLP never
look beside it. This is the padding-free batch of Krell et al. 2021, "Efficient sequence packing without
cross-contamination" (arXiv:2107.02027).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaForCausalLM

from tasks.finetune.masking import Example
from tasks.pretrain.model import products

ATTENTION = "catena_packed"


@dataclass(frozen=True)
class Packed:
    """One row of conversations: `ids`, `positions` and `labels` (-100: not learned) int64 [1, T], and `places` int64
    [T], where each token stands in a grid of `shape` (conversations, longest)."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    places: Tensor
    shape: tuple[int, int]


def pack(examples: list[Example]) -> Packed:
    """The examples end to end. The first token of each is never learned: nothing of its own stands before it."""
    lengths = [len(example.ids) for example in examples]
    longest = max(lengths)
    ids = torch.tensor([token for example in examples for token in example.ids])
    learned = torch.tensor([at > 0 and bool(one) for example in examples for at, one in enumerate(example.learned)])
    positions = torch.cat([torch.arange(length) for length in lengths])
    places = torch.cat([row * longest + torch.arange(length) for row, length in enumerate(lengths)])
    return Packed(ids[None], positions[None], ids.where(learned, -100)[None], places, (len(examples), longest))


def within(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float, dropout: float = 0.0, places: Tensor | None = None, shape: tuple[int, int] = (1, 1),
           **rest: object) -> tuple[Tensor, None]:
    """Causal attention inside each conversation of a packed row; query [1, heads, T, d], key and value [1, kv heads, T,
    d] to [1, T, heads, d]."""
    if places is None:  # a padded batch
        return products(module, query, key, value, attention_mask, scaling, dropout, **rest)
    rows, longest = shape
    laid = [part[0].transpose(0, 1).new_zeros(rows * longest, part.shape[1], part.shape[3])
            .index_copy(0, places, part[0].transpose(0, 1)).view(rows, longest, part.shape[1], -1).transpose(1, 2)
            for part in (query, key, value)]
    out, _ = products(module, *laid, None, scaling, dropout, **rest)
    return out.reshape(rows * longest, *out.shape[2:]).index_select(0, places)[None], None


def use(model: LlamaForCausalLM) -> None:
    """Train `model` with `within` as its attention: causal, on a CPU, packed rows and padded batches alike."""
    AttentionInterface.register(ATTENTION, within)
    model.set_attn_implementation(ATTENTION)


def hidden(model: LlamaForCausalLM, embeddings: Tensor, packed: Packed) -> Tensor:
    """Last hidden states [1, T, hidden] of a packed row's `embeddings` [1, T, hidden]."""
    return model.model(inputs_embeds=embeddings, position_ids=packed.positions, attention_mask=None, use_cache=False,
                       places=packed.places, shape=packed.shape).last_hidden_state
