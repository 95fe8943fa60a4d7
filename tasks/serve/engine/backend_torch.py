"""Torch backend: the reference. A Llama from any `from_pretrained` or int4 directory over paged keys and values.

Slow and plain on purpose: each sequence's keys and values are gathered from its blocks and attended to by themselves.
"""

from __future__ import annotations

import numpy as np
import torch

from tasks.quantize import formats
from tasks.serve.engine.backend import ModelError, ModelFiles
from tasks.stage import StageError

BLOCK = 16


class TorchBackend:
    """A LlamaForCausalLM in float32 with `slots` sequences' worth of blocks."""

    block_size = BLOCK

    def __init__(self, files: ModelFiles, *, threads: int, slots: int) -> None:
        from transformers import LlamaForCausalLM
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        torch.set_num_threads(threads)
        try:
            if formats.is_int4(files.directory):
                self.model = formats.load_dequantized(files.directory)
            else:
                self.model = LlamaForCausalLM.from_pretrained(files.directory, dtype=torch.float32).eval()
        except (OSError, ValueError, RuntimeError, StageError) as error:
            raise ModelError(f"{files.directory} does not load: {' '.join(str(error).split())[:300]}") from None
        config = self.model.config
        self.rotate = apply_rotary_pos_emb
        self.vocabulary, self.context = config.vocab_size, files.context
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.blocks = slots * (-(-self.context // BLOCK))
        shape = (config.num_hidden_layers, self.blocks * BLOCK, self.kv_heads, self.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)

    @torch.inference_mode()
    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray) -> np.ndarray:
        """See Backend.step."""
        places = torch.from_numpy(block_table[sequences, positions // BLOCK].astype(np.int64) * BLOCK
                                  + positions % BLOCK)
        spans = []
        for sequence in np.unique(sequences):
            rows = np.flatnonzero(sequences == sequence)
            held = np.arange(positions[rows[-1]] + 1)
            past = block_table[sequence, held // BLOCK].astype(np.int64) * BLOCK + held % BLOCK
            mask = torch.from_numpy(held[None] <= positions[rows, None])
            spans.append((slice(rows[0], rows[-1] + 1), torch.from_numpy(past), mask))
        x = self.model.model.embed_tokens(torch.from_numpy(tokens))
        rotary = self.model.model.rotary_emb(x[None], torch.from_numpy(positions)[None])
        for index, layer in enumerate(self.model.model.layers):
            x = x + self.attend(index, layer.self_attn, layer.input_layernorm(x), rotary, places, spans)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        rows = self.model.model.norm(x[torch.from_numpy(logit_rows)])
        return self.model.lm_head(rows).float().numpy()

    def attend(self, index: int, attention: torch.nn.Module, x: torch.Tensor,
               rotary: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor,
               spans: list[tuple[slice, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Write the step's keys and values to `places`, then attend each sequence to what its blocks hold."""
        count = len(x)
        q, k, v = (projection(x).view(1, count, heads, self.head_dim).transpose(1, 2) for projection, heads in
                   ((attention.q_proj, self.heads), (attention.k_proj, self.kv_heads),
                    (attention.v_proj, self.kv_heads)))
        q, k = self.rotate(q, k, *rotary)
        self.keys[index, places], self.values[index, places] = k[0].transpose(0, 1), v[0].transpose(0, 1)
        out = torch.empty(count, self.heads, self.head_dim)
        for rows, past, mask in spans:
            keys, values = (held[index, past].transpose(0, 1)[None] for held in (self.keys, self.values))
            out[rows] = torch.nn.functional.scaled_dot_product_attention(
                q[:, :, rows], keys, values, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
        return attention.o_proj(out.flatten(1))
