"""Tensors of a model directory as NumPy arrays mapped from the file, without torch: floating, AutoAWQ int4, int8.

bf16 comes as uint16, its bits. An int4 layer is AutoAWQ's gemm layout (tasks/quantize/formats.py); an int8 layer is
compressed-tensors' `weight` int8 [out, in] with `weight_scale` [out, 1].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kernels.linear.pack import INT4, INT8, SMALLEST_SCALE, Levels, Weight, as_float
from tasks.serve.engine.directory import ModelError

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I8": np.int8, "U8": np.uint8,
          "I64": np.int64}
NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word, from the lowest bits up, is this column
INT8_GROUP = 64                     # activations of an int8 layer are rounded in groups of this


class Checkpoint:
    """The tensors of `model.safetensors` by name, read where they are asked for."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        try:
            data = np.memmap(path, np.uint8, "r")
            length = int(data[:8].view(np.uint64)[0])
            header = json.loads(bytes(data[8:8 + length]))
            header.pop("__metadata__", None)
            self.data, self.header = data[8 + length:], header
            for entry in header.values():
                if entry["data_offsets"][1] > len(self.data):
                    raise ValueError("it is cut short")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is no readable safetensors file: {' '.join(str(error).split())[:200]}: "
                             f"restore it (dvc checkout)") from None

    def __contains__(self, name: str) -> bool:
        return name in self.header

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """The tensor `name`. Raises ModelError where it is missing, of an unknown dtype or not of `shape`."""
        if name not in self.header:
            raise ModelError(f"{self.path}: the tensor {name} is missing")
        entry = self.header[name]
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"{self.path}: {name} is {entry['dtype']}, which is not served ({', '.join(DTYPES)} are)")
        if shape and tuple(entry["shape"]) != shape:
            raise ModelError(f"{self.path}: {name} is {entry['shape']}, config.json asks for {list(shape)}")
        begin, end = entry["data_offsets"]
        return np.frombuffer(self.data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def linear(self, name: str, outputs: int, inputs: int) -> Weight:
        """The linear layer `name`. Raises ModelError where its tensors are not those of [outputs, inputs]."""
        if f"{name}.qweight" in self:
            return self.four_bits(name, outputs, inputs)
        weight = self.tensor(f"{name}.weight", outputs, inputs)
        if weight.dtype != np.int8:
            if weight.dtype not in (np.float32, np.float16, np.uint16):
                raise ModelError(f"{self.path}: {name}.weight is {weight.dtype}: int8, bf16, fp16 and fp32 are served")
            return weight
        group = INT8_GROUP if inputs % INT8_GROUP == 0 else 32
        scale = np.maximum(as_float(self.tensor(f"{name}.weight_scale", outputs, 1)), SMALLEST_SCALE)
        if inputs % group:
            raise ModelError(f"{self.path}: {name} has {inputs} inputs: int8 layers take multiples of 32")
        scales = np.repeat(scale.astype(np.float16), inputs // group, 1)
        return Levels(INT8, (weight.astype(np.int16) + 128).astype(np.uint8), scales,
                      np.full(scales.shape, 128, np.uint8))

    def four_bits(self, name: str, outputs: int, inputs: int) -> Levels:
        """An AutoAWQ layer: qweight [in, out/8], qzeros [in/group, out/8] (none: symmetric about 8), scales."""
        group = self.config["quantization_config"].get("group_size")
        if not isinstance(group, int) or group <= 0 or inputs % group or group % 32 or group > 256:
            raise ModelError(f"{self.path.parent / 'config.json'}: quantization_config.group_size is {group!r}: it "
                             f"must be a multiple of 32 up to 256 that divides {inputs}")
        levels = unpack(self.tensor(f"{name}.qweight", inputs, outputs // 8))
        scale = self.tensor(f"{name}.scales", inputs // group, outputs).astype(np.float16)
        zero = (unpack(self.tensor(f"{name}.qzeros", inputs // group, outputs // 8))
                if f"{name}.qzeros" in self else np.full(scale.shape, 8, np.uint8))
        return Levels(INT4, np.ascontiguousarray(levels.T), np.ascontiguousarray(scale.T),
                      np.ascontiguousarray(zero.T))


def unpack(words: np.ndarray) -> np.ndarray:
    """int32 words [rows, columns/8] to uint8 levels [rows, columns]."""
    levels = np.empty((*words.shape, 8), np.uint8)
    for nibble, column in enumerate(NIBBLES):
        levels[..., column] = words.view(np.uint32) >> 4 * nibble & 15
    return levels.reshape(len(words), -1)
