"""LoRA adapters (Hu et al. 2021) as peft writes them, read without peft or torch: y = W x + scale * B (A x)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from tasks.serve.engine.directory import ModelError, read_json

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAME = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)"
                  r"\.lora_([AB])(?:\.\w+)?\.weight")
REFUSED = ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "layer_replication")

Pair = tuple[np.ndarray, np.ndarray]


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer of a Llama with this config.json."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    keys = config["num_key_value_heads"] * size
    return {"q_proj": (heads * size, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden),
            "o_proj": (hidden, heads * size), "gate_proj": (inner, hidden), "up_proj": (inner, hidden),
            "down_proj": (hidden, inner)}


def read(directory: Path, config: dict[str, Any]) -> dict[tuple[int, str], Pair]:
    """(layer, linear) -> A float32 [rank, inputs] and B float32 [outputs, rank], B already scaled.

    `config` is the model's. Raises ModelError where the directory is no plain LoRA of this model.
    """
    stated = read_json(directory / "adapter_config.json")
    if stated.get("peft_type") != "LORA":
        raise ModelError(f"{directory}: peft_type is {stated.get('peft_type')!r}: only LORA is served")
    for key in REFUSED:
        if stated.get(key):
            raise ModelError(f"{directory}: {key} is not served: train a plain LoRA, or merge it into the model")
    if stated.get("bias", "none") != "none":
        raise ModelError(f"{directory}: bias {stated['bias']!r} is not served: merge it into the model")
    halves: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for name, tensor in tensors(directory / "adapter_model.safetensors").items():
        found = NAME.fullmatch(name)
        if not found or found[2] not in LINEARS or int(found[1]) >= config["num_hidden_layers"]:
            raise ModelError(f"{directory}: {name} is no linear layer of this model")
        halves.setdefault((int(found[1]), found[2]), {})[found[3]] = tensor
    if not halves:
        raise ModelError(f"{directory}: adapter_model.safetensors is empty")
    return {place: pair(directory, place, half, shapes(config)[place[1]], stated) for place, half in halves.items()}


def pair(directory: Path, place: tuple[int, str], half: dict[str, np.ndarray], shape: tuple[int, int],
         stated: dict[str, Any]) -> Pair:
    """A and the scaled B of one linear of `shape` (outputs, inputs). Raises ModelError where they do not fit it."""
    a, b = half.get("A"), half.get("B")
    if a is None or b is None or a.ndim != 2 or (b.shape, a.shape[1]) != ((shape[0], a.shape[0]), shape[1]):
        raise ModelError(f"{directory}: layer {place[0]} {place[1]} has A {getattr(a, 'shape', None)} and B "
                         f"{getattr(b, 'shape', None)}, the model's weight is {shape}: an adapter of another model")
    module = f"model.layers.{place[0]}.{'mlp' if place[1] in LINEARS[4:] else 'self_attn'}.{place[1]}"
    alpha = next((value for key, value in (stated.get("alpha_pattern") or {}).items()
                  if module == key or module.endswith(f".{key}")), stated.get("lora_alpha", a.shape[0]))
    rank = a.shape[0]
    return a, b * np.float32(alpha / (math.sqrt(rank) if stated.get("use_rslora") else rank))


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file of fp32, fp16 or bf16 ones. Raises ModelError where it is none."""
    from safetensors import SafetensorError, safe_open

    out = {}
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():
                if file.get_slice(name).get_dtype() == "BF16":
                    return bfloat16(path)
                out[name] = file.get_tensor(name).astype(np.float32)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is not readable: {' '.join(str(error).split())[:200]}") from None
    return out


def bfloat16(path: Path) -> dict[str, np.ndarray]:
    """The same where tensors are bf16, a type that numpy lacks."""
    from safetensors.torch import load_file

    return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
