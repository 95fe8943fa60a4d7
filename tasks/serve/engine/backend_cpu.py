"""CPU backend: the C++ kernels over paged keys and values (kernels/step). A Llama from an AutoAWQ int4, int8 or plain
bf16, fp16 or fp32 directory, packed once (see packed.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kernels.linear import pack
from kernels.step.session import PAGE, Session, Shape
from tasks.serve.engine import adapters as lora
from tasks.serve.engine import packed
from tasks.serve.engine.directory import ModelError, ModelFiles, require_llama

KV_KINDS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
MOST_THREADS = 256


class CpuBackend:
    """See tasks/serve/engine/backend.py. Raises kernels.build.CompilerMissing where the kernels cannot be built."""

    block_size = PAGE

    def __init__(self, files: ModelFiles, *, threads: int, slots: int, kv: str = "fp16") -> None:
        if kv not in KV_KINDS:
            raise ModelError(f"kv={kv!r}: the kernels hold keys and values as {', '.join(KV_KINDS)}")
        shape, self.config = read_shape(files), files.config
        self.vocabulary, self.context, self.hidden_size = shape.vocabulary, shape.context, shape.hidden
        self.blocks = slots * (-(-shape.context // PAGE))
        weights = packed.open_weights(files, shape)
        try:
            self.session = Session(shape, weights, threads=min(threads, MOST_THREADS), blocks=self.blocks,
                                   kv_kind=KV_KINDS[kv])
        except MemoryError as error:
            raise ModelError(f"{files.directory}: {error}") from None

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.step."""
        return self.session.step(tokens, positions, sequences, block_table, logit_rows, adapters=adapters)

    def embed(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
              rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.embed."""
        return self.session.step(tokens, positions, sequences, block_table, rows, adapters=adapters, states=True)

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See Backend.copy."""
        self.session.copy(sources, targets)

    def add_adapter(self, directory: Path) -> int:
        """See Backend.add_adapter."""
        pairs = lora.read(directory, self.config)
        layers = []
        for i in range(self.config["num_hidden_layers"]):
            q, k, v, o, gate, up, down = (pairs.get((i, name)) for name in lora.LINEARS)
            sizes = [lora.shapes(self.config)[name][0] for name in lora.LINEARS]
            layers += [side_by_side([q, k, v], sizes[:3]), o,
                       side_by_side([gate, up], sizes[4:6], interleave=True), down]
        return self.session.add_adapter(layers)

    def close(self) -> None:
        """Stop the worker threads and give back the keys' and values' memory."""
        self.session.close()


def side_by_side(parts: list[lora.Pair | None], outputs: list[int], *, interleave: bool = False) -> lora.Pair | None:
    """Adapters of layers that read one input as one: A's rows stacked, B on a diagonal of blocks."""
    if not any(parts):
        return None
    ranks = [0 if part is None else len(part[0]) for part in parts]
    b = np.zeros((sum(outputs), sum(ranks)), np.float32)
    for i, part in enumerate(parts):
        if part is not None:
            b[sum(outputs[:i]):sum(outputs[:i + 1]), sum(ranks[:i]):sum(ranks[:i + 1])] = part[1]
    if interleave:
        b = pack.interleave(b[:outputs[0]], b[outputs[0]:])
    return np.concatenate([part[0] for part in parts if part is not None]), b


def read_shape(files: ModelFiles) -> Shape:
    """The Llama that config.json describes. Raises ModelError naming the key that the kernels cannot follow."""
    config, path = files.config, files.directory / "config.json"

    def refuse(key: str, why: str) -> ModelError:
        return ModelError(f"{path}: {key} is {config.get(key)!r}: {why}")

    require_llama(files)
    if config.get("hidden_act", "silu") != "silu":
        raise refuse("hidden_act", "only silu is computed")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise refuse(key, "linear layers with a bias are not computed")
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise refuse("rope_parameters" if config.get("rope_parameters") else "rope_scaling",
                     "only rotary positions of type default are computed")
    heads, kv_heads, hidden = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    head_dim = config.get("head_dim") or hidden // heads
    if not isinstance(config.get("intermediate_size"), int):
        raise refuse("intermediate_size", "it must be an integer")
    if heads % kv_heads:
        raise refuse("num_key_value_heads", f"it must divide num_attention_heads, {heads}")
    if head_dim % 16 or head_dim > 256:
        raise refuse("head_dim", f"heads of {head_dim}: the kernels take multiples of 16 up to 256")
    check_quantization(config, path)
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    return Shape(config["vocab_size"], hidden, config["intermediate_size"], config["num_hidden_layers"], heads,
                 kv_heads, head_dim, files.context, float(config.get("rms_norm_eps", 1e-6)), float(theta))


def check_quantization(config: dict[str, Any], path: Any) -> None:
    """Raise ModelError where quantization_config is neither AutoAWQ's gemm of 4 bits nor compressed-tensors int8."""
    stated = config.get("quantization_config")
    if stated is None:
        return
    if not isinstance(stated, dict):
        raise ModelError(f"{path}: quantization_config must be an object")
    method = stated.get("quant_method")
    if method == "awq" and stated.get("bits") == 4 and stated.get("version", "gemm").lower() == "gemm":
        return
    if method == "compressed-tensors" and stated.get("format", "int-quantized") == "int-quantized":
        return
    raise ModelError(f"{path}: quantization_config is {method!r} of {stated.get('bits')!r} bits: AutoAWQ's gemm of 4 "
                     f"bits and compressed-tensors' int-quantized are served")
