"""Build kernels/training/training.cpp once for this machine, and call it: torch tensors in, checked, no autograd.

The binary lies in .runtime/kernels under a hash of sources, flags, compiler and processor; it chooses the instruction
set at run time.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from kernels.compiler import compiler, run

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".runtime" / "kernels"
SOURCE, HEADER = "kernels/training/training.cpp", "kernels/threads.h"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd",
         "-Wall", "-pthread", "-shared")
BLOCK = 32  # rows of one partial sum of a norm's weight gradient, as in training.cpp


class _Norm(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("x", "weight", "y", "scale", "dx", "dweight")),
                ("rows", ctypes.c_int64), ("size", ctypes.c_int64), ("eps", ctypes.c_float)]


class _Swiglu(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("joined", "dy", "out")), ("rows", ctypes.c_int64),
                ("size", ctypes.c_int64)]


class _Rope(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("joined", "q", "k", "v", "cosines", "sines")),
                *((name, ctypes.c_int64) for name in ("rows", "length", "heads", "shared", "size", "angles"))]


class _Entropy(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("logits", "targets", "nats")), ("rows", ctypes.c_int64),
                ("size", ctypes.c_int64), ("share", ctypes.c_float)]


def build() -> Path:
    """The shared library, built where it is not there yet. Raises CompilerMissing."""
    root, command = HERE.parents[1], compiler()
    known = hashlib.sha256(repr((FLAGS, command, platform.machine())).encode())
    for path in (SOURCE, HEADER):
        known.update((root / path).read_bytes())
    final = CACHE / f"training-{known.hexdigest()[:24]}.so"
    if not final.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as folder:
            whole = Path(folder) / "training.so"
            run([*command, *FLAGS, str(root / SOURCE), "-o", str(whole)])
            whole.rename(final)
    return final


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, loaded. Raises CompilerMissing where they cannot be built."""
    loaded = ctypes.CDLL(str(build()))
    loaded.catena_pool.restype = ctypes.c_void_p
    return loaded


@functools.cache
def pool(threads: int) -> ctypes.c_void_p:
    """Worker threads that live as long as the process."""
    return ctypes.c_void_p(library().catena_pool(threads))


def call(name: str, arguments: ctypes.Structure, dtype: torch.dtype) -> None:
    """Run kernel `name` on torch's number of threads."""
    getattr(library(), f"catena_{name}")(pool(torch.get_num_threads()), int(dtype == torch.bfloat16),
                                         ctypes.byref(arguments))


def check(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> int:
    """Its address. Raises ValueError unless `tensor` is contiguous, on the CPU, of `shape` and one of `dtypes`."""
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes or not tensor.is_contiguous() or tensor.is_cuda:
        kinds = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}: contiguous CPU tensor of shape {shape} and {kinds} expected, not "
                         f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, strides {tensor.stride()}")
    return tensor.data_ptr()


EITHER = (torch.bfloat16, torch.float32)
FLOAT = torch.float32


def norm_forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(RMSNorm of float32 x [rows, size] times weight [size] as `dtype`, the rows' scales float32 [rows])."""
    rows, size = x.shape
    y, scale = torch.empty(rows, size, dtype=dtype), torch.empty(rows)
    call("norm_forward", _Norm(check("x", x, (rows, size), FLOAT), check("weight", weight, (size,), FLOAT),
                               check("y", y, (rows, size), *EITHER), scale.data_ptr(), None, None, rows, size, eps),
         dtype)
    return y, scale


def norm_backward(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """(dx float32 [rows, size], dweight float32 [size]) from dy [rows, size] and what the forward pass had."""
    rows, size = x.shape
    dx, parts = torch.empty_like(x), torch.empty(-(-rows // BLOCK), size)
    call("norm_backward", _Norm(check("x", x, (rows, size), FLOAT), check("weight", weight, (size,), FLOAT),
                                check("dy", dy, (rows, size), *EITHER), check("scale", scale, (rows,), FLOAT),
                                dx.data_ptr(), parts.data_ptr(), rows, size, 0.0), dy.dtype)
    return dx, parts.sum(0)


def swiglu_forward(joined: Tensor) -> Tensor:
    """silu(gate) * value [rows, size] of joined [rows, 2 size]: gates, then values."""
    rows, size = joined.shape[0], joined.shape[1] // 2
    out = joined.new_empty(rows, size)
    source = check("joined", joined, (rows, 2 * size), *EITHER)
    call("swiglu_forward", _Swiglu(source, None, out.data_ptr(), rows, size), joined.dtype)
    return out


def swiglu_backward(joined: Tensor, dy: Tensor) -> Tensor:
    """Gradient of `joined` [rows, 2 size] from dy [rows, size]."""
    rows, size = dy.shape
    out = torch.empty_like(joined)
    call("swiglu_backward", _Swiglu(check("joined", joined, (rows, 2 * size), *EITHER),
                                    check("dy", dy, (rows, size), joined.dtype), out.data_ptr(), rows, size), dy.dtype)
    return out


def rope_forward(joined: Tensor, cosines: Tensor, sines: Tensor, heads: int, shared: int
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [batch, heads, n, size] and keys [batch, shared, n, size], turned, and values like the keys, from joined
    [batch, n, heads + 2 shared, size] and the angles' float32 [1 or batch, n, size]."""
    batch, length, _, size = joined.shape
    q = joined.new_empty(batch, heads, length, size)
    k, v = (joined.new_empty(batch, shared, length, size) for _ in range(2))
    _rope("rope_forward", joined, q, k, v, cosines, sines)
    return q, k, v


def rope_backward(q: Tensor, k: Tensor, v: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Gradient of `joined` from those of queries, keys and values."""
    batch, heads, length, size = q.shape
    joined = q.new_empty(batch, length, heads + 2 * k.shape[1], size)
    _rope("rope_backward", joined, q, k, v, cosines, sines)
    return joined


def _rope(name: str, joined: Tensor, q: Tensor, k: Tensor, v: Tensor, cosines: Tensor, sines: Tensor) -> None:
    batch, heads, length, size = q.shape
    shared, angles, kind = k.shape[1], len(cosines), joined.dtype
    if size % 2 or angles not in (1, batch):
        raise ValueError(f"rope: an even head size ({size}) and angles for 1 or {batch} sequences ({angles}) expected")
    call(name, _Rope(check("joined", joined, (batch, length, heads + 2 * shared, size), *EITHER),
                     check("q", q, (batch, heads, length, size), kind),
                     check("k", k, (batch, shared, length, size), kind),
                     check("v", v, (batch, shared, length, size), kind),
                     check("cosines", cosines, (angles, length, size), FLOAT),
                     check("sines", sines, (angles, length, size), FLOAT),
                     batch * length, length, heads, shared, size, angles), kind)


def entropy(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Nats float32 [rows] of int64 targets [rows] (-100: none) under logits [rows, size], which become the gradient of
    `share` times their sum. Raises ValueError for a target that is no column."""
    rows, size = logits.shape
    if bool(((targets < 0) & (targets != -100) | (targets >= size)).any()):
        raise ValueError(f"entropy: targets in 0..{size - 1}, or -100, expected")
    nats = torch.empty(rows)
    call("entropy", _Entropy(check("logits", logits, (rows, size), *EITHER),
                             check("targets", targets, (rows,), torch.int64), nats.data_ptr(), rows, size, share),
         logits.dtype)
    return nats
