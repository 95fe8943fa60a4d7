"""Triton backend: a Llama on a CUDA device (or, for tests, under Triton's interpreter) over paged keys and values.

An AutoAWQ directory is used as it lies: its words go to the kernels unchanged, query, key and value joined column by
column, gate and up likewise. A bf16 or fp16 directory runs in its own dtype. The residual stream is float32. Every
kernel adds in an order that depends on a row alone, so a row's logits are the same bits whatever shares the step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tasks.quantize import formats
from tasks.serve.engine.directory import ModelError, ModelFiles, require_llama

BLOCK = 16
STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # angles that do not change with a sequence's length
Linear = Callable[[torch.Tensor], torch.Tensor]


class TritonBackend:
    """A LlamaForCausalLM with `slots` sequences' worth of blocks on the device that Triton runs on here."""

    block_size = BLOCK

    def __init__(self, files: ModelFiles, *, threads: int, slots: int, kv: str = "fp16",
                 dtype: torch.dtype | None = None) -> None:
        """`threads` are the host's; keys and values are kept in the computing dtype: int4 in fp16, others their own.

        Raises ModelError where there is no device, or the directory is no Llama these kernels compute.
        """
        if kv != "fp16":
            raise ModelError(f"the triton backend keeps keys and values in 16 bits, not {kv}: leave kv at fp16")
        try:
            from kernels import interpreter
            self.device = interpreter.device()
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"the triton backend cannot run here: {error}") from None
        torch.set_num_threads(threads)
        tensors = read_tensors(files.directory, self.device)
        embedding = take(tensors, "model.embed_tokens.weight", files)
        quantized = formats.is_int4(files.directory)
        self.dtype = dtype or (torch.float16 if quantized else embedding.dtype)
        self.config = files.config
        self.vocabulary, self.context = files.config["vocab_size"], files.context
        self.hidden_size = files.config["hidden_size"]
        self.heads, self.kv_heads = (files.config[name] for name in ("num_attention_heads", "num_key_value_heads"))
        self.head_dim = files.config.get("head_dim") or self.hidden_size // self.heads
        self.blocks = slots * (-(-self.context // BLOCK))
        self.embedding = embedding.to(self.dtype)
        self.layers = [self.layer(f"model.layers.{number}", tensors, files)
                       for number in range(files.config["num_hidden_layers"])]
        self.norm = take(tensors, "model.norm.weight", files).to(self.dtype)
        tied = files.config.get("tie_word_embeddings", False)
        self.head = self.embedding if tied else take(tensors, "lm_head.weight", files).to(self.dtype)
        left = sorted(name for name in tensors if name != "lm_head.weight" and not name.endswith("inv_freq"))
        if left:
            raise ModelError(f"{files.directory} holds tensors this backend has no place for: {', '.join(left[:3])}")
        self.cosine, self.sine = angles(files, self.device)
        shape = (files.config["num_hidden_layers"], self.blocks, self.kv_heads, BLOCK, self.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))

    def layer(self, name: str, tensors: dict[str, torch.Tensor], files: ModelFiles) -> dict[str, Any]:
        """A decoder layer: its norms' weights and its four joined linears."""
        joined = {"qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "out": ("self_attn.o_proj",),
                  "gate_up": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",)}
        norms = {"before": "input_layernorm", "between": "post_attention_layernorm"}
        return ({key: take(tensors, f"{name}.{part}.weight", files).to(self.dtype) for key, part in norms.items()}
                | {key: linear([f"{name}.{part}" for part in parts], tensors, self.dtype, files)
                   for key, parts in joined.items()})

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.step. Raises ModelError where a sequence names an adapter."""
        from kernels.linear.triton import dense_linear

        if adapters is not None and (np.asarray(adapters) >= 0).any():
            raise ModelError("the triton backend has no LoRA adapters: serve the merged model")
        rows = self.hidden(tokens, positions, sequences, block_table, logit_rows, self.dtype)
        return dense_linear(rows, self.head, torch.float32).cpu().numpy()

    def embed(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
              rows: np.ndarray) -> np.ndarray:
        """Final hidden states float32 [len(rows), hidden_size] after the last norm; the rest as in step."""
        return self.hidden(tokens, positions, sequences, block_table, rows, torch.float32).cpu().numpy()

    def add_adapter(self, directory: Path) -> int:
        """Raises ModelError: no adapters here."""
        raise ModelError(f"the triton backend has no LoRA adapters: merge {directory} into the model first")

    @torch.inference_mode()
    def hidden(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
               rows: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        """Run the layers over a ragged batch; the last norm's output of `rows`, in `dtype`, on the device."""
        from kernels.attention.triton import paged_attention, tiles_of
        from kernels.norm.triton import add_rms_norm, rms_norm
        from kernels.rope.triton import rope_and_store
        from kernels.swiglu.triton import swiglu

        longest, eps, scale = int(positions.max()) + 1, self.config["rms_norm_eps"], self.head_dim ** -0.5
        tiles = self.on_device(tiles_of(sequences, self.heads // self.kv_heads))
        ids, at, owners, table, rows = map(self.on_device, (tokens, positions, sequences, block_table, rows))
        residual = self.embedding[ids].float()
        change = None
        for number, layer in enumerate(self.layers):
            x = (rms_norm(residual, layer["before"], eps, dtype=self.dtype) if change is None
                 else add_rms_norm(change, residual, layer["before"], eps))
            query = rope_and_store(layer["qkv"](x), self.cosine, self.sine, at, owners, table, self.keys[number],
                                   self.values[number])
            mixed = paged_attention(query, self.keys[number], self.values[number], table, tiles, at, longest, scale)
            x = add_rms_norm(layer["out"](mixed.flatten(1)), residual, layer["between"], eps)
            change = layer["down"](swiglu(layer["gate_up"](x)))
        return rms_norm(residual[rows] + change[rows], self.norm, eps, dtype=dtype)

    def on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def read_tensors(directory: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors on `device`. Raises ModelError where it cannot be read or is of another kind."""
    try:
        tensors = load_file(directory / "model.safetensors", device=str(device))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{directory / 'model.safetensors'} does not load: {' '.join(str(error).split())}") from None
    return tensors


def take(tensors: dict[str, torch.Tensor], name: str, files: ModelFiles) -> torch.Tensor:
    """Remove and return a tensor. Raises ModelError where it is missing."""
    try:
        return tensors.pop(name)
    except KeyError:
        raise ModelError(f"{files.directory / 'model.safetensors'} lacks {name}") from None


def linear(names: list[str], tensors: dict[str, torch.Tensor], dtype: torch.dtype, files: ModelFiles) -> Linear:
    """The linears `names`, which read the same rows, as one: their outputs side by side.

    Raises ModelError where the directory is quantized in another layout.
    """
    from kernels.linear.triton import dense_linear, int4_linear

    if not formats.is_int4(files.directory):
        weight = torch.cat([take(tensors, f"{name}.weight", files) for name in names]).to(dtype)
        return lambda x: dense_linear(x, weight)
    stated = files.config["quantization_config"]
    expected = formats.quantization_config(stated.get("group_size", 0))
    if any(stated.get(key) != expected[key] for key in expected):
        raise ModelError(f"{files.directory / 'config.json'}: quantization_config {stated} is not AutoAWQ's gemm "
                         f"layout of 4 bits")
    qweight, scales, qzeros = (torch.cat([take(tensors, f"{name}.{part}", files) for name in names], 1).contiguous()
                               for part in ("qweight", "scales", "qzeros"))
    return lambda x: int4_linear(x, qweight, scales, qzeros)


def angles(files: ModelFiles, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine float32 [context, head_dim / 2] of the model's rotary positions, as transformers computes them.

    Raises ModelError where they would change with a sequence's length.
    """
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    require_llama(files)
    plain = {key: value for key, value in files.config.items() if key != "quantization_config"}
    rope = plain.get("rope_parameters") or plain.get("rope_scaling") or {}
    if rope.get("rope_type", "default") not in STATIC_ROPE:
        raise ModelError(f"{files.directory / 'config.json'}: rope_type {rope['rope_type']!r} is none of "
                         f"{', '.join(STATIC_ROPE)}")
    rotary = LlamaRotaryEmbedding(AutoConfig.for_model(**plain))
    both = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(files.context)[None])
    return tuple(part[0, :, :part.shape[-1] // 2].float().contiguous().to(device) for part in both)
