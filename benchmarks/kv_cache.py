"""Claim: keys and values in int8 cost a model next to nothing; what int4 costs, with and without rotation.

    python -m benchmarks.kv_cache MODEL HELD_OUT... [--windows 8] [--length 512]

A Llama in float32 reads windows of held-out text; between RoPE and attention its keys and values go through what pages
of each kind keep (kernels/attention/reference.py), and beside that through plain asymmetric int4, a scale and a minimum
a token and head, as other servers store it. Perplexity, agreement and KL are against the same model with exact keys and
values. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AttentionInterface, AutoTokenizer, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kernels.attention import reference
from tasks.quantize import gate, passages


def uniform(x: torch.Tensor) -> torch.Tensor:
    """Plain int4 [..., head_dim] read back: 16 even steps from each vector's least value to its largest."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=reference.SMALLEST).half().float()
    low = low.half().float()
    return ((x - low) / scale).round().clamp(0, 15) * scale + low


class Kept:
    """`model` with every key and value replaced by `keep` of it."""

    def __init__(self, model: LlamaForCausalLM, keys: Callable, values: Callable) -> None:
        self.model, self.keys, self.values = model, keys, values

    def __call__(self, batch: torch.Tensor, **given):
        def attend(module, q, k, v, mask, **rest):
            return sdpa_attention_forward(module, q, self.keys(k), self.values(v), mask, **rest)
        AttentionInterface.register("kept", attend)
        self.model.config._attn_implementation = "kept"
        try:
            return self.model(batch, **given)
        finally:
            self.model.config._attn_implementation = "sdpa"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("held_out", type=Path, nargs="+")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--languages", nargs="+", default=["en"])
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = LlamaForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    windows = passages.windows(given.held_out, tokenizer, given.windows, given.length, given.languages, 0)
    page = {name: functools.partial(reference.read_back, kind=kind) for name, kind in reference.KINDS.items()}
    ways = {**{name: (keep, keep) for name, keep in page.items()}, "plain int4": (uniform, uniform),
            "int8 K, int4 V": (page["int8"], page["int4"])}
    scores = gate.compare(model, {name: Kept(model, *way) for name, way in ways.items()}, windows)
    print(f"{windows.numel()} tokens of {', '.join(path.name for path in given.held_out)}")
    print(f"{'':16}perplexity   ratio   top-1 kept  agreement   KL")
    for name, row in scores.items():
        print(f"{name:16}{row['perplexity']:10.3f}{row['perplexity_ratio']:8.4f}{row['top1_kept']:13.4f}"
              f"{row['agreement']:11.4f}{row['kl']:9.5f}")
    print(json.dumps({"tokens": windows.numel(), **scores}))


if __name__ == "__main__":
    main()
