"""Weights as kernels/linear/linear.h wants them: panels of 32 outputs, in NumPy.

Done once for each model; the result is cached, so that plainness matters more than speed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PANEL = 32
GATE_BLOCK = PANEL // 2
INT4, INT8, BF16, FP16, FP32 = 4, 8, 16, 17, 32
SMALLEST_SCALE = 2.0 ** -14  # smallest normal fp16


@dataclass(frozen=True)
class Packed:
    """One layer's arrays in the kernels' order; `scales` and `zeros` are empty for floating kinds."""

    kind: int
    outputs: int
    inputs: int
    group: int
    weights: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray


@dataclass(frozen=True)
class Levels:
    """Integer weights [out, in]: levels uint8, scale fp16 and zero uint8 [out, in/group]; (level - zero) * scale."""

    bits: int
    levels: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def group(self) -> int:
        return self.levels.shape[1] // self.scale.shape[1]


Weight = Levels | np.ndarray  # or a floating [out, in]: float32, float16, or bf16 held as uint16


def kind_of(weight: Weight) -> int:
    """The kernels' kind of a weight. Raises ValueError for a dtype they do not know."""
    if isinstance(weight, Levels):
        return weight.bits
    kinds = {np.dtype(np.uint16): BF16, np.dtype(np.float16): FP16, np.dtype(np.float32): FP32}
    if weight.dtype not in kinds:
        raise ValueError(f"weights of dtype {weight.dtype} are none of {', '.join(map(str, kinds))}")
    return kinds[weight.dtype]


def stack(parts: list[Weight]) -> Weight:
    """Layers that read the same input as one, outputs one below the other. Raises ValueError where they differ."""
    groups = {part.group for part in parts if isinstance(part, Levels)}
    if len({kind_of(part) for part in parts}) > 1 or len(groups) > 1:
        raise ValueError("layers that read the same input have different kinds or groups")
    if isinstance(parts[0], Levels):
        return Levels(parts[0].bits, *(np.concatenate([getattr(part, name) for part in parts])
                                       for name in ("levels", "scale", "zero")))
    return np.concatenate(parts)


def interleave(gate: Weight, up: Weight) -> Weight:
    """Gate and up as one layer: 16 gates, their 16 ups, the next 16 gates. The last block is filled up with zeros."""
    both = stack([gate, up])

    def mixed(rows: np.ndarray) -> np.ndarray:
        half = len(rows) // 2
        halves = [filled(part, GATE_BLOCK).reshape(-1, GATE_BLOCK, *rows.shape[1:])
                  for part in (rows[:half], rows[half:])]
        return np.stack(halves, 1).reshape(-1, *rows.shape[1:])

    if isinstance(both, Levels):
        return Levels(both.bits, mixed(both.levels), mixed(both.scale), mixed(both.zero))
    return mixed(both)


def eight_bits(weight: np.ndarray, group: int) -> Levels:
    """Symmetric int8 of a floating weight [out, in]: one fp16 scale for `group` inputs, the levels' zero at 128."""
    levels = np.empty(weight.shape, np.uint8)
    scale = np.empty((weight.shape[0], weight.shape[1] // group), np.float16)
    for start in range(0, len(weight), 4096):
        rows = as_float(weight[start:start + 4096]).reshape(-1, scale.shape[1], group)
        part = np.maximum(np.abs(rows).max(-1) / 127, SMALLEST_SCALE).astype(np.float16)
        whole = np.clip(np.rint(rows / part.astype(np.float32)[..., None]), -127, 127)
        levels[start:start + 4096] = (whole + 128).astype(np.uint8).reshape(len(rows), -1)
        scale[start:start + 4096] = part
    return Levels(INT8, levels, scale, np.full(scale.shape, 128, np.uint8))


def as_float(values: np.ndarray) -> np.ndarray:
    """float32 of float32, float16 or bf16 (uint16) values."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def pack(weight: Weight) -> Packed:
    """`weight` in panels. Raises ValueError where inputs do not divide into groups of a multiple of 32."""
    kind = kind_of(weight)
    if not isinstance(weight, Levels):
        return Packed(kind, *weight.shape, 1, panels(weight), np.empty(0, np.float16),
                      np.empty(0, np.uint8))
    outputs, inputs = weight.levels.shape
    if weight.group % 32 or weight.group > 256:
        raise ValueError(f"groups of {weight.group}: the kernels take multiples of 32 up to 256")
    levels = filled(weight.levels, PANEL).reshape(-1, PANEL, inputs // 4, 4)
    if kind == INT4:
        levels = levels[:, :, 0::2] | levels[:, :, 1::2] << 4
    return Packed(kind, outputs, inputs, weight.group, np.ascontiguousarray(levels.transpose(0, 2, 1, 3)),
                  panels(weight.scale), panels(weight.zero))


def panels(rows: np.ndarray) -> np.ndarray:
    """[outputs, columns] as [panel, column, PANEL]."""
    return np.ascontiguousarray(filled(rows, PANEL).reshape(-1, PANEL, rows.shape[1]).transpose(0, 2, 1))


def filled(rows: np.ndarray, multiple: int) -> np.ndarray:
    """`rows` with zero rows added up to a multiple."""
    missing = -len(rows) % multiple
    return rows if not missing else np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
