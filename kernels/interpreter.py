"""Where a Triton kernel runs: on a CUDA device, or on the CPU under Triton's interpreter (TRITON_INTERPRET=1).

The variable counts when Triton is first imported. The interpreter checks the mathematics and the addressing of a
kernel; it knows neither races nor speed. It keeps bfloat16 as bare bits, so products of that type are taken in
float32 there: the factors are the same numbers, rounded before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def interpreted() -> bool:
    """Whether kernels run under the interpreter."""
    return triton.knobs.runtime.interpret


def device() -> torch.device:
    """Where kernels can run here. Raises RuntimeError where there is neither a CUDA device nor the interpreter."""
    if interpreted():
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    raise RuntimeError("no CUDA device, and TRITON_INTERPRET=1 was not set before Triton was imported")


def operand(dtype: torch.dtype) -> tl.dtype:
    """The type a matrix product's factors of `dtype` are given in. Raises ValueError for another dtype."""
    if dtype not in TYPES:
        raise ValueError(f"kernels compute in float16, bfloat16 or float32, not {dtype}")
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else TYPES[dtype]
