"""Packing: the conversations of a step end to end in one row, so that no product is spent on padding, and what several
begin with, their tools, stands there once.

Each conversation keeps its own positions (from 0) and attends to itself and its beginning alone: queries, keys and
values are laid out a piece a row for the attention's products and gathered again behind them, so no score between two
conversations is ever computed. Elsewhere a token is a token: norms, projections and MLP never look beside it. This is
the padding-free batch of Krell et al. 2021, "Efficient sequence packing without cross-contamination"
(arXiv:2107.02027), with shared prefixes as in tree attention (Cai et al. 2024, arXiv:2401.10774).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaForCausalLM

from tasks.finetune.masking import Example
from tasks.pretrain.model import products

ATTENTION = "catena_packed"


@dataclass(frozen=True)
class Packed:
    """One row of conversations: `ids`, `positions`, `labels` (-100: not learned), `lengths` (tokens of the token's
    conversation), each int64 [1, T]. For attention: `queries` int64 [pieces, q] and `keys` [pieces, k] are the places
    in the row of what asks and what is read, `places` [T] where each token stands in the flat queries; `mask` bool
    [pieces, q, k], what is seen, or None where each piece is a whole conversation."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    lengths: Tensor
    queries: Tensor
    keys: Tensor
    places: Tensor
    mask: Tensor | None


def pack(examples: list[Example]) -> Packed:
    """The examples end to end; neighbours with the same head share it. The first token behind a head, or of a
    conversation, is never learned: what it follows does not stand before it in the row."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    pieces: list[tuple[range, range]] = []  # places of the beginning, and of the piece itself

    def add(tokens: list[int], learned: list[int], start: int, length: int, beginning: range) -> range:
        own = range(len(ids), len(ids) + len(tokens))
        ids.extend(tokens)
        positions.extend(range(start, start + len(tokens)))
        labels.extend(token if at and one else -100 for at, (token, one) in enumerate(zip(tokens, learned)))
        lengths.extend([length] * len(tokens))
        pieces.append((beginning, own))
        return own

    for head, group in itertools.groupby(examples, lambda each: each.ids[:each.head]):
        alike = list(group)
        size = len(head) if len(alike) > 1 else 0
        beginning = add(head, [0] * size, 0, len(alike[0].ids), range(0)) if size else range(0)
        for each in alike:
            add(each.ids[size:], each.learned[size:], size, len(each.ids), beginning)
    asking, reading = max(len(own) for _, own in pieces), max(len(before) + len(own) for before, own in pieces)
    queries = torch.zeros(len(pieces), asking, dtype=torch.long)
    keys = torch.zeros(len(pieces), reading, dtype=torch.long)
    seen = torch.zeros(len(pieces), asking, reading, dtype=torch.bool)
    places = torch.zeros(len(ids), dtype=torch.long)
    for row, (before, own) in enumerate(pieces):
        read = torch.tensor([*before, *own])
        queries[row, :len(own)] = read[len(before):]
        keys[row, :len(read)] = read
        places[own.start:own.stop] = row * asking + torch.arange(len(own))
        seen[row] = torch.arange(reading) <= len(before) + torch.arange(asking)[:, None]
    return Packed(*(torch.tensor(each)[None] for each in (ids, positions, labels, lengths)), queries, keys, places,
                  seen if any(before for before, _ in pieces) else None)


def within(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float, dropout: float = 0.0, packed: Packed | None = None, **rest: object) -> tuple[Tensor, None]:
    """Causal attention inside each conversation of a packed row; query [1, heads, T, d], key and value [1, kv heads, T,
    d] to [1, T, heads, d]."""
    if packed is None:  # a padded batch
        return products(module, query, key, value, attention_mask, scaling, dropout, **rest)
    query, key, value = (
        part[0].index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1).contiguous()
        for part, places in ((query, packed.queries), (key, packed.keys), (value, packed.keys)))
    if packed.mask is None:
        out, _ = products(module, query, key, value, None, scaling, dropout, **rest)
    else:
        out = seeing(query, key, value, packed.mask, scaling).transpose(1, 2)
    return out.flatten(0, 1).index_select(0, packed.places)[None], None


def seeing(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention by plain products under `mask` bool [B, q, k]; query [B, heads, q, d], key and value
    [B, kv heads, k, d] to [B, heads, q, d]. What lies behind a piece's own end is read by none of its tokens."""
    batch, heads, asking, size = query.shape
    few, reading = key.shape[1:3]
    hidden = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    scores = hidden[:, None].expand(batch, heads, asking, reading).reshape(batch * few, -1, reading)
    weights = torch.baddbmm(scores, query.reshape(batch * few, -1, size), key.reshape(batch * few, reading, size).mT,
                            alpha=scaling).softmax(-1)
    return torch.bmm(weights, value.reshape(batch * few, reading, size)).view(batch, heads, asking, size)


def use(model: LlamaForCausalLM) -> None:
    """Train `model` with `within` as its attention: causal, on a CPU, packed rows and padded batches alike."""
    AttentionInterface.register(ATTENTION, within)
    model.set_attn_implementation(ATTENTION)


def hidden(model: LlamaForCausalLM, embeddings: Tensor, packed: Packed) -> Tensor:
    """Last hidden states [1, T, hidden] of a packed row's `embeddings` [1, T, hidden]."""
    return model.model(inputs_embeds=embeddings, position_ids=packed.positions, attention_mask=None, use_cache=False,
                       packed=packed).last_hidden_state
