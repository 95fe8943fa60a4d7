"""The int4 model directory: AutoAWQ's `gemm` layout, written and read back.

For a linear layer of K inputs and N outputs: `qweight` int32 [K, N/8], `qzeros` int32 [K/g, N/8], `scales` fp16
[K/g, N]. A word holds eight neighbouring columns; its nibble i, from the lowest bits up, is column ORDER[i]. Weights
read back as (q - zero) * scale. Everything else (embedding, norms, an untied head) stays fp16 under its usual name,
and `config.json` carries the `quantization_config` that vLLM, LMDeploy and transformers read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kernels.int4 import reference as rounding
from tasks.stage import StageError, write_json

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales")


@dataclass(frozen=True)
class Packed:
    """One int4 linear layer, unpacked: q uint8 [N, K] in 0..15, scale fp16 and zero uint8 [N, K/g] (rows = outputs)."""

    q: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def weight(self) -> torch.Tensor:
        """The float32 weight [N, K]."""
        return rounding.dequantize(self.q, self.scale, self.zero)

    def split(self, sizes: list[int]) -> list[Packed]:
        """The layer as one for each of `sizes` rows."""
        return [Packed(*parts) for parts in zip(*(part.split(sizes) for part in (self.q, self.scale, self.zero)),
                                                strict=True)]

    def divided(self, divisor: torch.Tensor) -> Packed:
        """The layer with row n of its weight divided by divisor[n]: other scales, the same levels."""
        scale = (self.scale.float() / divisor[:, None]).clamp(min=rounding.SMALLEST_SCALE)
        return Packed(self.q, scale.half(), self.zero)


@dataclass(frozen=True)
class Int4Model:
    """An int4 directory in memory: `linears` by module name, `rest` by tensor name (fp16), `config` as stored."""

    config: dict[str, Any]
    linears: dict[str, Packed] = field(default_factory=dict)
    rest: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Group size along the inputs."""
        return self.config["quantization_config"]["group_size"]


def pack(levels: torch.Tensor) -> torch.Tensor:
    """uint8 levels [rows, N] in 0..15 to int32 words [rows, N/8]. Raises ValueError where 8 does not divide N."""
    rows, columns = levels.shape
    if columns % 8:
        raise ValueError(f"{columns} columns do not fill words of 8 nibbles")
    nibbles = levels.to(torch.int64).view(rows, columns // 8, 8)[..., list(ORDER)]
    words = (nibbles << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 2 ** 31, words - 2 ** 32, words).to(torch.int32)


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int32 words [rows, N/8] to uint8 levels [rows, N]."""
    nibbles = (words[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15
    levels = torch.empty_like(nibbles)
    levels[..., list(ORDER)] = nibbles
    return levels.flatten(-2).to(torch.uint8)


def rope_theta(config: dict[str, Any]) -> float:
    """The base of the rotary positions. Raises StageError where they are others than plain ones."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise StageError(f"rope_type {rope['rope_type']!r} is not exported: only plain rotary positions are")
    return (config.get("rope_parameters") or config)["rope_theta"]


def quantization_config(group: int) -> dict[str, Any]:
    """The `quantization_config` of an AutoAWQ gemm directory."""
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": ["lm_head"]}


def write(model: Int4Model, directory: Path) -> None:
    """Write `model` as config.json and model.safetensors under `directory` (tokenizer files are the caller's).

    Raises StageError where a value is beyond fp16.
    """
    tensors = {name: tensor.half().contiguous() for name, tensor in model.rest.items()}
    for name, layer in model.linears.items():
        tensors[f"{name}.qweight"] = pack(layer.q.T.contiguous())
        tensors[f"{name}.qzeros"] = pack(layer.zero.T.contiguous())
        tensors[f"{name}.scales"] = layer.scale.T.half().contiguous()
    require_finite(tensors)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "config.json", model.config)


def require_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raise StageError naming the first fp16 tensor that holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise StageError(f"{name} holds values beyond fp16 (65504) or not finite: the weights are too large to be "
                             "stored; train with weight decay or a smaller learning rate")


def read(directory: Path) -> Int4Model:
    """Read an int4 directory. Raises StageError where a file is missing, torn or not of this layout."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(directory / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{directory} is no readable int4 model: {' '.join(str(error).split())[:200]}") from None
    stated = config.get("quantization_config", {})
    expected = quantization_config(stated.get("group_size", 0))
    if config.get("model_type") != "llama" or any(stated.get(key) != expected[key] for key in expected):
        raise StageError(f"{directory}: not a Llama in AutoAWQ's gemm layout of 4 bits (config.json says "
                         f"{config.get('model_type')!r}, {stated or 'no quantization_config'})")
    model = Int4Model(config)
    for name in sorted(name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")):
        try:
            words, zeros, scales = (tensors.pop(f"{name}.{part}") for part in PARTS)
        except KeyError as error:
            raise StageError(f"{directory}: the layer {name} lacks {error}") from None
        inputs, outputs = words.shape[0], words.shape[1] * 8
        if tuple(scales.shape) != (inputs // model.group, outputs) or zeros.shape[1] != words.shape[1]:
            raise StageError(f"{directory}: {name} has qweight {tuple(words.shape)}, qzeros {tuple(zeros.shape)}, "
                             f"scales {tuple(scales.shape)}: not groups of {model.group}")
        model.linears[name] = Packed(unpack(words).T.contiguous(), scales.T.contiguous(),
                                     unpack(zeros).T.contiguous())
    model.rest.update(tensors)
    return model


def is_int4(directory: Path) -> bool:
    """Whether `directory`'s config.json states a quantization (so load_dequantized reads it, not from_pretrained)."""
    try:
        return "quantization_config" in json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def load_dequantized(directory: Path, dtype: torch.dtype = torch.float32):
    """The LlamaForCausalLM of `dtype`, in eval mode, that computes what the int4 directory stores.

    Raises StageError where tensors and config do not make one whole Llama.
    """
    from transformers import AutoConfig, LlamaForCausalLM

    stored = read(directory)
    plain = {key: value for key, value in stored.config.items() if key != "quantization_config"}
    config = AutoConfig.for_model(**plain)
    state = {name: tensor.to(dtype) for name, tensor in stored.rest.items()}
    state |= {f"{name}.weight": layer.weight().to(dtype) for name, layer in stored.linears.items()}
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state.get("model.embed_tokens.weight")
    try:
        model.load_state_dict(state, assign=True, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise StageError(f"{directory}: tensors and config.json do not make one model: "
                         f"{' '.join(str(error).split())[:300]}") from None
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are in no file: made, not loaded
    return model.eval()
