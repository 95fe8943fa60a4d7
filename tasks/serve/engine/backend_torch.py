"""Torch backend: the reference. A Llama from any `from_pretrained` or int4 directory over paged keys and values.

Slow and plain on purpose: each sequence's keys and values are gathered from its blocks and attended to by themselves.
With `shard` (parallel.py) it holds only its share of the heads and of the feed-forward's inner dimension, and adds the
others' share after the attention's output and the down projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from tasks.quantize import formats
from tasks.serve.engine import adapters as lora
from tasks.serve.engine.directory import ModelError, ModelFiles, require_llama
from tasks.stage import StageError

BLOCK = 16
LEVELS = {"int8": 127, "int4": 7}


class Shard(Protocol):
    """This process's share of a model that several hold together (Megatron-LM, Shoeybi et al. 2019)."""

    rank: int
    ranks: int

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' `x`."""
        ...


class Whole:
    """The only rank there is."""

    rank, ranks = 0, 1

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """See Shard.reduce."""
        return x


@dataclass(frozen=True)
class Step:
    """What the layers need of a step: where keys and values go, what each sequence attends to, whose adapter."""

    places: torch.Tensor
    spans: list[tuple[slice, torch.Tensor, torch.Tensor]]
    rotary: tuple[torch.Tensor, torch.Tensor]
    adapted: list[tuple[int, torch.Tensor]]  # (adapter, its rows)


class TorchBackend:
    """A LlamaForCausalLM in float32 with `slots` sequences' worth of blocks.

    kv "int8" and "int4" round keys and values with a scale for each token and head; "fp16" keeps them in float32, as
    the reference is to lose nothing.
    """

    block_size = BLOCK

    def __init__(self, files: ModelFiles, *, threads: int, slots: int, kv: str = "fp16",
                 shard: Shard | None = None) -> None:
        from transformers import LlamaForCausalLM
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        require_llama(files)
        torch.set_num_threads(threads)
        try:
            if formats.is_int4(files.directory):
                self.model = formats.load_dequantized(files.directory)
            else:
                self.model = LlamaForCausalLM.from_pretrained(files.directory, dtype=torch.float32).eval()
        except (OSError, ValueError, RuntimeError, StageError) as error:
            raise ModelError(f"{files.directory} does not load: {' '.join(str(error).split())[:300]}") from None
        config = self.model.config
        self.files, self.kv, self.rotate = files, kv, apply_rotary_pos_emb
        self.vocabulary, self.context, self.hidden_size = config.vocab_size, files.context, config.hidden_size
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.shard = shard or Whole()
        if self.shard.ranks > config.num_key_value_heads:
            raise ModelError(f"{files.directory} has {config.num_key_value_heads} key-value heads: at most so many "
                             f"tensor-parallel ranks, not {self.shard.ranks}")
        self.share(config)
        self.blocks = slots * (-(-self.context // BLOCK))
        shape = (config.num_hidden_layers, self.blocks * BLOCK, self.kv_heads, self.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.adapters: list[dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]] = []

    def share(self, config: object) -> None:
        """Cut the linears down to this rank's heads and inner dimension, where there are other ranks."""
        group = config.num_attention_heads // config.num_key_value_heads
        first, last = part(config.num_key_value_heads, self.shard)
        keys = slice(first * self.head_dim, last * self.head_dim)
        queries = slice(first * group * self.head_dim, last * group * self.head_dim)
        inner = slice(*part(config.intermediate_size, self.shard))
        self.kv_heads, self.heads = last - first, (last - first) * group
        # rows of the first, columns of the second kind of layer
        self.outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": inner, "up_proj": inner}
        self.inputs = {"o_proj": queries, "down_proj": inner}
        self.linears = []
        for layer in self.model.model.layers:
            own = {}
            for name in lora.LINEARS:
                module = getattr(layer.self_attn, name, None) or getattr(layer.mlp, name)
                rows, columns = self.outputs.get(name, slice(None)), self.inputs.get(name, slice(None))
                bias = module.bias if module.bias is None else module.bias[rows].detach()
                if bias is not None and name in self.inputs and self.shard.rank:
                    bias = None  # added once, by rank 0
                own[name] = (module.weight[rows, columns].detach().contiguous(), bias)
                if self.shard.ranks > 1:
                    module.weight = None  # the other ranks' share is not kept
            self.linears.append(own)

    def add_adapter(self, directory: Path) -> int:
        """See Backend.add_adapter."""
        pairs = {}
        for (layer, name), (a, b) in lora.read(directory, self.files.config).items():
            a = a[:, self.inputs.get(name, slice(None))]
            b = b[self.outputs.get(name, slice(None))]
            pairs[layer, name] = (torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b)))
        self.adapters.append(pairs)
        return len(self.adapters) - 1

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See Backend.copy."""
        old, new = (torch.from_numpy(np.asarray(blocks, np.int64)[:, None] * BLOCK + np.arange(BLOCK)).flatten()
                    for blocks in (sources, targets))
        for held in (self.keys, self.values):
            held[:, new] = held[:, old]

    def close(self) -> None:
        """See Backend.close."""
        self.keys = self.values = torch.zeros(0)

    @torch.inference_mode()
    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.step."""
        hidden = self.hidden(tokens, positions, sequences, block_table, logit_rows, adapters)
        return self.model.lm_head(hidden).numpy()

    @torch.inference_mode()
    def embed(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
              rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.embed."""
        return self.hidden(tokens, positions, sequences, block_table, rows, adapters).numpy()

    def hidden(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
               wanted: np.ndarray, adapters: np.ndarray | None) -> torch.Tensor:
        """Final hidden states after the last norm, float32 [len(wanted), hidden_size]."""
        places = torch.from_numpy(block_table[sequences, positions // BLOCK].astype(np.int64) * BLOCK
                                  + positions % BLOCK)
        spans = []
        for sequence in np.unique(sequences):
            rows = np.flatnonzero(sequences == sequence)
            held = np.arange(positions[rows[-1]] + 1)
            past = block_table[sequence, held // BLOCK].astype(np.int64) * BLOCK + held % BLOCK
            mask = torch.from_numpy(held[None] <= positions[rows, None])
            spans.append((slice(rows[0], rows[-1] + 1), torch.from_numpy(past), mask))
        used = np.full(len(tokens), -1) if adapters is None else adapters[sequences]
        adapted = [(int(index), torch.from_numpy(np.flatnonzero(used == index)))
                   for index in np.unique(used) if index >= 0]
        x = self.model.model.embed_tokens(torch.from_numpy(tokens))
        rotary = self.model.model.rotary_emb(x[None], torch.from_numpy(positions)[None])
        step = Step(places, spans, rotary, adapted)
        for index, layer in enumerate(self.model.model.layers):
            x = x + self.attend(index, layer.input_layernorm(x), step)
            x = x + self.feed_forward(index, layer, layer.post_attention_layernorm(x), step)
        return self.model.model.norm(x[torch.from_numpy(wanted)])

    def project(self, index: int, name: str, x: torch.Tensor, step: Step) -> torch.Tensor:
        """A linear layer of `x` [n, inputs], with the adapter of each row."""
        y = torch.nn.functional.linear(x, *self.linears[index][name])
        for adapter, rows in step.adapted:
            if (index, name) in self.adapters[adapter]:
                a, b = self.adapters[adapter][index, name]
                y[rows] += x[rows] @ a.T @ b.T
        return y

    def attend(self, index: int, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Write the step's keys and values to their places, then attend each sequence to what its blocks hold."""
        count = len(x)
        q, k, v = (self.project(index, name, x, step).view(1, count, heads, self.head_dim).transpose(1, 2)
                   for name, heads in (("q_proj", self.heads), ("k_proj", self.kv_heads), ("v_proj", self.kv_heads)))
        q, k = self.rotate(q, k, *step.rotary)
        self.keys[index, step.places] = stored(k[0].transpose(0, 1), self.kv)
        self.values[index, step.places] = stored(v[0].transpose(0, 1), self.kv)
        out = torch.empty(count, self.heads, self.head_dim)
        for rows, past, mask in step.spans:
            keys, values = (held[index, past].transpose(0, 1)[None] for held in (self.keys, self.values))
            out[rows] = torch.nn.functional.scaled_dot_product_attention(
                q[:, :, rows], keys, values, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
        return self.shard.reduce(self.project(index, "o_proj", out.flatten(1), step))

    def feed_forward(self, index: int, layer: torch.nn.Module, x: torch.Tensor, step: Step) -> torch.Tensor:
        """SwiGLU of `x` [n, hidden_size]."""
        gate, up = (self.project(index, name, x, step) for name in ("gate_proj", "up_proj"))
        return self.shard.reduce(self.project(index, "down_proj", layer.mlp.act_fn(gate) * up, step))


def part(count: int, shard: Shard) -> tuple[int, int]:
    """[first, last) of `count` things that a rank holds; shares differ by one at most."""
    return count * shard.rank // shard.ranks, count * (shard.rank + 1) // shard.ranks


def stored(x: torch.Tensor, kv: str) -> torch.Tensor:
    """Keys or values [n, heads, head_dim] as they read back from a cache of kind `kv`."""
    if kv not in LEVELS:
        return x
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / LEVELS[kv]
    return (x / scale).round() * scale
