"""What runs the model: one `step` over a flat ragged list of tokens. `load` picks the backend of a model directory.

A backend owns the keys and values of `blocks` blocks of `block_size` tokens each; the scheduler says which blocks
belong to which sequence. Prefill chunks and decodes mix freely in one step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from tasks.serve.engine.directory import ModelError, ModelFiles, read_files

BACKENDS = ("cpu", "ort", "torch", "triton")
KV = ("fp32", "fp16", "int8", "int4")


class BackendLost(RuntimeError):
    """A backend can never step again: its engine stops, and /health says so."""


class Backend(Protocol):
    """A model with its keys and values."""

    vocabulary: int
    context: int
    hidden_size: int
    block_size: int
    blocks: int

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """Compute one step and return float32 logits [len(logit_rows), vocabulary].

        tokens, positions, sequences: int64 [n]; a sequence's tokens stand together, at rising positions that follow
        what its blocks already hold. sequences indexes rows of block_table int32 [sequences, blocks a sequence].
        logit_rows int64: which of the n rows are wanted. adapters int32 [sequences]: what add_adapter returned, -1
        for the model itself; None is -1 for all.
        """
        ...

    def embed(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
              rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """As step, but the hidden states after the last norm, float32 [len(rows), hidden_size]."""
        ...

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Let blocks `targets` hold what blocks `sources` hold, int32 [n] each: sequences part within a block."""
        ...

    def add_adapter(self, directory: Path) -> int:
        """Load a peft LoRA directory; its index. Raises ModelError where it does not fit, or none can be served."""
        ...

    def close(self) -> None:
        """Give back threads, processes and the memory of keys and values; once closed it steps no more."""
        ...


def load(files: ModelFiles, *, threads: int, slots: int, kv: str = "fp16", backend: str | None = None,
         tensor_parallel: int = 1) -> Backend:
    """The backend of a directory, with memory for `slots` sequences of the whole context.

    A `model.onnx` runs in ONNX Runtime; `model.safetensors` (AutoAWQ int4, or floating point) in this repository's
    kernels: the CPU's where a compiler builds them, else a GPU's, else the ONNX export beside it, else torch. backend
    ("cpu", "ort", "torch", "triton"), or $CATENA_BACKEND, forces one. kv: how keys and values are kept ("fp32", "fp16",
    "int8", "int4"). tensor_parallel: torch processes that share the model. Raises ModelError.
    """
    wanted = backend or os.environ.get("CATENA_BACKEND") or ("torch" if tensor_parallel > 1 else None)
    if wanted not in (None, *BACKENDS):
        raise ModelError(f"backend {wanted!r}: choose one of {', '.join(BACKENDS)}")
    if kv not in KV:
        raise ModelError(f"kv {kv!r}: choose one of {', '.join(KV)}")
    if tensor_parallel > 1 and wanted != "torch":
        raise ModelError(f"tensor parallel needs the torch backend, not {wanted}")
    stored = (files.directory / "model.safetensors").is_file()
    if wanted == "ort" or (wanted is None and not stored):
        from tasks.serve.engine.backend_ort import OrtBackend
        return OrtBackend(files, threads=threads, slots=slots, kv=kv)
    if not stored:
        raise ModelError(f"{files.directory} has no model.safetensors: only ort serves model.onnx alone")
    if wanted == "torch":
        return load_torch(files, threads, slots, kv, tensor_parallel)
    if wanted == "triton":
        from tasks.serve.engine.backend_triton import TritonBackend
        return TritonBackend(files, threads=threads, slots=slots, kv=kv)
    from kernels.build import CompilerMissing
    from tasks.serve.engine.backend_cpu import CpuBackend
    try:
        return CpuBackend(files, threads=threads, slots=slots, kv=kv)
    except CompilerMissing as missing:
        if wanted == "cpu":
            raise ModelError(f"backend cpu: {missing}") from None
        return without_compiler(files, threads, slots, kv, str(missing))


def load_torch(files: ModelFiles, threads: int, slots: int, kv: str, ranks: int) -> Backend:
    """The reference, in this process alone or as the first of `ranks`."""
    if ranks > 1:
        from tasks.serve.engine.parallel import TensorParallel
        return TensorParallel(files, threads=threads, slots=slots, kv=kv, ranks=ranks)
    from tasks.serve.engine.backend_torch import TorchBackend
    return TorchBackend(files, threads=threads, slots=slots, kv=kv)


def without_compiler(files: ModelFiles, threads: int, slots: int, kv: str, why: str) -> Backend:
    """What serves `files` where the CPU kernels cannot be built; says so in one line on stderr."""
    import torch

    export = files.directory.parent / "onnx"
    if torch.cuda.is_available() and kv == "fp16":
        from tasks.serve.engine.backend_triton import TritonBackend
        choice, make = "the GPU serves", lambda: TritonBackend(files, threads=threads, slots=slots, kv=kv)
    elif kv == "fp16" and files.directory.name == "int4" and (export / "model.onnx").is_file():
        from tasks.serve.engine.backend_ort import OrtBackend
        choice = f"ONNX Runtime serves {export}"
        make = lambda: OrtBackend(read_files(export), threads=threads, slots=slots, kv=kv)  # noqa: E731
    else:
        choice, make = "torch serves, slowly", lambda: load_torch(files, threads, slots, kv, 1)
    print(f"{files.directory}: {why}; {choice}", file=sys.stderr, flush=True)
    return make()
