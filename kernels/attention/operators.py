"""The C++ attention and RoPE operators by themselves, one library an instruction set, for their tests and benchmark."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

KERNELS = Path(__file__).resolve().parents[1]
BUILT = KERNELS.parent / ".runtime" / "kernels"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")
ISAS = {"scalar": ((), ()), "avx2": (("avx2", "fma", "f16c"), ("-mavx2", "-mfma", "-mf16c")),
        "avx512": (("avx512f", "avx512bw", "avx512dq", "avx512vl"),
                   ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"))}


class Pages(ctypes.Structure):
    """kernels/attention/pages.h's Pages."""

    _fields_ = [("base", ctypes.c_void_p), ("kv_heads", ctypes.c_int), ("head_dim", ctypes.c_int),
                ("kind", ctypes.c_int), ("page_bytes", ctypes.c_size_t)]


def compiler() -> list[str] | None:
    """$CXX or g++ as a command; None where neither is there."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    return command if command and shutil.which(command[0]) else None


@functools.cache
def isas() -> list[str]:
    """The paths that this processor runs, the slowest first."""
    cpuinfo = Path("/proc/cpuinfo")
    have = set(cpuinfo.read_text().split()) if cpuinfo.is_file() and platform.machine() == "x86_64" else set()
    return [isa for isa, (needed, _) in ISAS.items() if have.issuperset(needed)]


@functools.cache
def library(isa: str) -> ctypes.CDLL:
    """The operators of one path, built where they are not there yet. Raises RuntimeError where that fails."""
    files = sorted([*(KERNELS / "attention").glob("*.[hc]*"), *(KERNELS / "rope").glob("*.[hc]*")])
    command = [*compiler(), *FLAGS, *ISAS[isa][1], str(KERNELS / "attention" / "attention.cpp")]
    known = hashlib.sha256(repr((command, [path.read_bytes() for path in files])).encode()).hexdigest()[:24]
    built = BUILT / f"attention-{isa}-{known}.so"
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} cannot build attention.cpp for {isa}: {done.stderr[:600]}")
        part.rename(built)
    loaded = ctypes.CDLL(str(built))
    number, size, many, real = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_float
    pages = ctypes.POINTER(Pages)
    for name, result, arguments in (
            ("attention_page_bytes", size, [number, number]), ("attention_scratch_floats", size, [number]),
            ("attention_partial_floats", number, [number]), ("exp2_all", None, [many, number]),
            ("kv_store", None, [pages, number, number, number, many, many]),
            ("attend", None, [pages, number, many, number, many, number, number, size, many, size, real, many]),
            ("attend_segment", None, [pages, number, many, number, many, number, number, size, number, many, real,
                                      many]),
            ("combine", None, [pages, many, number, number, number, many, size]),
            ("attend_layers", None, [pages, number, many, number, number, number, many, number, number, many, real,
                                     many, number, number]),
            ("multiply_add", real, [number]),
            ("rope", None, [many, number, number, many, many])):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Cache:
    """Pages of one layer for `blocks` blocks, all bytes 0xff (NaN wherever a float is read) until stored to."""

    def __init__(self, isa: str, kind: int, head_dim: int, kv_heads: int, blocks: int) -> None:
        self.native = library(isa)
        size = self.native.attention_page_bytes(kind, head_dim)
        memory = np.full(blocks * kv_heads * size + 64, 0xff, np.uint8)
        self.memory = memory[-memory.ctypes.data % 64:][:blocks * kv_heads * size].reshape(blocks, kv_heads, size)
        self.pages = Pages(self.memory.ctypes.data, kv_heads, head_dim, kind, size)
        self.scratch = np.full(self.native.attention_scratch_floats(head_dim), np.nan, np.float32)

    def store(self, table: np.ndarray, head: int, k: np.ndarray, v: np.ndarray, first: int = 0) -> None:
        """Store k, v [tokens, head_dim] at positions from `first` on of the sequence whose block table is `table`."""
        k, v = np.ascontiguousarray(k, np.float32), np.ascontiguousarray(v, np.float32)
        for index in range(len(k)):
            block, slot = divmod(first + index, 16)
            self.native.kv_store(self.pages, int(table[block]), slot, head, k[index].ctypes.data, v[index].ctypes.data)

    def attend(self, table: np.ndarray, head: int, first: int, q: np.ndarray, scale: float) -> np.ndarray:
        """Attention of float32 q [rows, group, head_dim], first row at position `first`; alike shaped."""
        q = np.ascontiguousarray(q)
        rows, group, dim = q.shape
        out = np.empty_like(q)
        self.native.attend(self.pages, head, table.ctypes.data, first, q.ctypes.data, rows, group, group * dim,
                           out.ctypes.data, group * dim, scale, self.scratch.ctypes.data)
        return out

    def attend_split(self, table: np.ndarray, head: int, first: int, q: np.ndarray, scale: float,
                     order: list[int]) -> np.ndarray:
        """The same by segments, computed in the order given, then combined in theirs."""
        q = np.ascontiguousarray(q)
        rows, group, dim = q.shape
        partials = np.full((len(order), rows * group, self.native.attention_partial_floats(dim)), np.nan, np.float32)
        for segment in order:
            self.native.attend_segment(self.pages, head, table.ctypes.data, first, q.ctypes.data, rows, group,
                                       group * dim, segment, partials[segment].ctypes.data, scale,
                                       self.scratch.ctypes.data)
        out = np.empty_like(q)
        self.native.combine(self.pages, partials.ctypes.data, len(order), rows, group, out.ctypes.data, group * dim)
        return out
