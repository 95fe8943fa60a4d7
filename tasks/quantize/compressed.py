"""The compressed-tensors layouts, which vLLM and transformers read: `pack-quantized` int4 and `int-quantized` W8A8.

`pack-quantized`, for a linear of K inputs and N outputs: `weight_packed` int32 [N, K/8], nibble i of a word (from the
lowest bits up) being column 8 * word + i; `weight_scale` fp16 [N, K/g]; `weight_zero_point` int32 [N/8, K/g], packed
down the rows; `weight_shape` int64 [2]. Stored nibbles are the signed level plus 8, so our levels 0..15 go in as they
are and (q - zero) * scale is unchanged. `int-quantized`: `weight` int8 [N, K], `weight_scale` [N, 1], and activations
rounded to int8 at run time with one scale a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.quantize import formats
from tasks.stage import write_json


@dataclass(frozen=True)
class Channels:
    """One int8 linear layer: levels int8 [N, K] in -127..127 and scale fp16 [N], one an output."""

    levels: torch.Tensor
    scale: torch.Tensor

    def weight(self) -> torch.Tensor:
        """The float32 weight [N, K]."""
        return self.levels.float() * self.scale.float()[:, None]


@dataclass(frozen=True)
class W8A8Model:
    """A W8A8 directory in memory: `linears` by module name, `rest` by tensor name, `config` as the model's own."""

    config: dict[str, Any]
    linears: dict[str, Channels]
    rest: dict[str, torch.Tensor]


def words(levels: torch.Tensor) -> torch.Tensor:
    """uint8 levels [rows, columns] in 0..15 to int32 words [rows, ceil(columns / 8)], lowest nibble first."""
    padded = torch.nn.functional.pad(levels.to(torch.int64), (0, -levels.shape[1] % 8))
    packed = (padded.unflatten(-1, (-1, 8)) << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(packed >= 2 ** 31, packed - 2 ** 32, packed).to(torch.int32)


def config(layout: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    """The `quantization_config` of a directory whose decoder linears are stored as `layout`."""
    return {"quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
            "ignore": ["lm_head"], "kv_cache_scheme": None,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "output_activations": None,
                                          "input_activations": activations}}}


def write_int4(model: formats.Int4Model, directory: Path) -> None:
    """Write config.json and model.safetensors of `model` as `pack-quantized` under `directory`."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.rest.items()}
    for name, layer in model.linears.items():
        tensors[f"{name}.weight_packed"] = words(layer.q)
        tensors[f"{name}.weight_scale"] = layer.scale.half().contiguous()
        tensors[f"{name}.weight_zero_point"] = words(layer.zero.T).T.contiguous()
        tensors[f"{name}.weight_shape"] = torch.tensor(layer.q.shape)
    stated = config("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group",
                                       "group_size": model.group, "dynamic": False}, None)
    save(tensors, model.config | {"quantization_config": stated}, directory)


def write_w8a8(model: W8A8Model, directory: Path) -> None:
    """Write config.json and model.safetensors of `model` as `int-quantized` under `directory`."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.rest.items()}
    for name, layer in model.linears.items():
        tensors[f"{name}.weight"] = layer.levels
        tensors[f"{name}.weight_scale"] = layer.scale[:, None].contiguous()
    stated = config("int-quantized",
                    {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
                    {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True})
    save(tensors, model.config | {"quantization_config": stated}, directory)


def save(tensors: dict[str, torch.Tensor], values: dict[str, Any], directory: Path) -> None:
    """Write tensors and config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "config.json", values)
