"""A Llama at work in the C++ kernels: the ctypes face of kernels/step/abi.cpp, arguments checked.

`Weights` are arrays that stay in memory, and a file that stays open, as long as the session lives.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field
from io import FileIO

import numpy as np

from kernels import build
from kernels.linear.pack import Packed, panels

PAGE = 16  # tokens of a block
WRITE, ADD, GATE = 0, 1, 2


class _Linear(ctypes.Structure):
    _fields_ = [("weights", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("zeros", ctypes.c_void_p),
                *((name, ctypes.c_int32) for name in ("outputs", "inputs", "group", "kind"))]


class _Model(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in (
        "vocabulary", "hidden", "inner", "layers", "heads", "kv_heads", "head_dim", "context", "blocks", "kv_kind",
        "embedding_kind")), ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "norms", "cosines", "sines", "linears")),
        ("embedding_at", ctypes.c_int64), ("embedding_file", ctypes.c_int32)]


class _Step(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in ("rows", "spans", "blocks_a_sequence", "wanted")),
                *((name, ctypes.c_void_p) for name in ("tokens", "positions", "span_starts", "span_tables",
                                                       "block_table", "wanted_rows", "row_adapters",
                                                       "low_ranks")),
                ("most_rank", ctypes.c_int64), ("logits", ctypes.c_void_p), ("states", ctypes.c_void_p)]


class _LowRank(ctypes.Structure):
    _fields_ = [("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("rank", ctypes.c_int64)]


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    theta: float


@dataclass(frozen=True)
class Stored:
    """An array that stays in its file, `at` bytes from the beginning; a step reads the rows it wants."""

    file: FileIO
    at: int


@dataclass(frozen=True)
class Weights:
    """Arrays of a model: embedding [vocabulary, hidden] of a floating kind, norms float32 [2 layers + 1, hidden]."""

    embedding: np.ndarray | Stored
    embedding_kind: int
    norms: np.ndarray
    linears: list[Packed] = field(default_factory=list)  # for each layer q k v, o, gate and up, down; then the head


def isa() -> str:
    """The instruction set in use: avx512, avx2 or scalar."""
    library = build.library()
    library.catena_isa.restype = ctypes.c_char_p
    return library.catena_isa().decode()


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _linear(packed: Packed) -> _Linear:
    return _Linear(_address(packed.weights), _address(packed.scales), _address(packed.zeros), packed.outputs,
                   packed.inputs, packed.group, packed.kind)


class Session:
    """A model, its worker threads and its pages of keys and values."""

    def __init__(self, shape: Shape, weights: Weights, *, threads: int, blocks: int, kv_kind: int) -> None:
        self.library = build.library()
        self.shape, self.blocks = shape, blocks
        padded = -(-shape.hidden // 16) * 16
        norms = np.zeros((len(weights.norms), padded), np.float32)
        norms[:, :shape.hidden] = weights.norms
        cosines, sines = rotations(shape)
        linears = (_Linear * len(weights.linears))(*map(_linear, weights.linears))
        self.kept = (weights, norms, cosines, sines, linears)
        stored = weights.embedding if isinstance(weights.embedding, Stored) else None
        model = _Model(shape.vocabulary, shape.hidden, shape.inner, shape.layers, shape.heads, shape.kv_heads,
                       shape.head_dim, shape.context, blocks, kv_kind, weights.embedding_kind, shape.eps,
                       None if stored else _address(weights.embedding), _address(norms), _address(cosines),
                       _address(sines), ctypes.addressof(linears), stored.at if stored else 0,
                       stored.file.fileno() if stored else -1)
        self.lock = threading.Lock()  # steps, new adapters and the end follow one another, whoever calls
        self.adapters: list[tuple] = []
        self.low_ranks = (_LowRank * 0)()
        self.most_rank = 0
        self.library.catena_open.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.library.catena_open(ctypes.byref(model), threads))
        if not self.handle:
            raise MemoryError(f"no room for {blocks} blocks of keys and values: serve fewer slots or a smaller context")

    def close(self) -> None:
        """Stop the threads and give the pages back."""
        with self.lock:
            if self.handle:
                self.library.catena_close(self.handle)
                self.handle = ctypes.c_void_p()

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.close()

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Let blocks `targets` hold what blocks `sources` hold, int32 [n] each; no target is a source as well."""
        sources, targets = whole("sources", sources, np.int32), whole("targets", targets, np.int32)
        if len(sources) != len(targets) or np.intersect1d(sources, targets).size:
            raise ValueError("sources and targets must be as many, and no block both")
        for name, found in (("sources", sources), ("targets", targets)):
            if found.size and not 0 <= found.min() <= found.max() < self.blocks:
                raise ValueError(f"{name}: blocks are 0 to {self.blocks - 1}")
        with self.lock:
            if not self.handle:
                raise ValueError("the session is closed")
            self.library.catena_copy(self.handle, len(sources), ctypes.c_void_p(_address(sources)),
                                     ctypes.c_void_p(_address(targets)))

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             rows: np.ndarray, *, adapters: np.ndarray | None = None, states: bool = False) -> np.ndarray:
        """Logits float32 [len(rows), vocabulary] of one step, or its final states [len(rows), hidden].

        See tasks/serve/engine/backend.py for the arguments. Raises ValueError naming what is wrong with one, OSError
        where the embedding's file does not hold a row.
        """
        tokens, positions, sequences, rows = (
            whole(name, value, np.int64) for name, value in (("tokens", tokens), ("positions", positions),
                                                             ("sequences", sequences), ("rows", rows)))
        table = whole("block_table", block_table, np.int32, dimensions=2)
        width = self.shape.hidden if states else self.shape.vocabulary
        out = np.empty((len(rows), width), np.float32)
        starts = self.checked(tokens, positions, sequences, table, rows)
        if not len(tokens):
            return out
        tables = sequences[starts[:-1]].astype(np.int32)
        used = self.row_adapters(adapters, sequences, len(table))
        where = _address(out)
        with self.lock:
            if not self.handle:
                raise ValueError("the session is closed")
            step = _Step(len(tokens), len(starts) - 1, table.shape[1], len(rows), _address(tokens),
                         _address(positions), _address(starts), _address(tables), _address(table), _address(rows),
                         None if used is None else _address(used), ctypes.addressof(self.low_ranks), self.most_rank,
                         None if states else where, where if states else None)
            failed = self.library.catena_step(self.handle, ctypes.byref(step))
        if failed == 1:
            raise MemoryError(f"no memory for a step of {len(tokens)} tokens")
        if failed:
            raise OSError(f"{self.kept[0].embedding.file.name} has been cut short since it was opened: start again")
        return out

    def add_adapter(self, layers: list[tuple[np.ndarray, np.ndarray] | None]) -> int:
        """Keep an adapter and return its index. layers: for each of the 4 * layers fused linears A float32
        [rank, inputs] and B float32 [outputs, rank], scaling included, or None."""
        kept, structures, rank = [], [], 0
        for layer in layers:
            if layer is None:
                structures.append(_LowRank(None, None, 0))
                continue
            a, b = np.ascontiguousarray(layer[0], np.float32), panels(layer[1].astype(np.float32))
            kept.append((a, b))
            structures.append(_LowRank(_address(a), _address(b), len(a)))
            rank = max(rank, len(a))
        with self.lock:  # a step that runs now still reads the array that was
            self.adapters.append(tuple(kept))
            whole = [*self.low_ranks, *structures]
            self.low_ranks = (_LowRank * len(whole))(*whole)
            self.most_rank = max(self.most_rank, rank)
            return len(self.adapters) - 1

    def row_adapters(self, adapters: np.ndarray | None, sequences: np.ndarray, count: int) -> np.ndarray | None:
        """Each row's adapter int32, or None where no row has one. Raises ValueError for an unknown index."""
        if adapters is None:
            return None
        adapters = whole("adapters", adapters, np.int32)
        if len(adapters) != count or (count and (adapters.min() < -1 or adapters.max() >= len(self.adapters))):
            raise ValueError(f"adapters must be {count} numbers in -1..{len(self.adapters) - 1}, found {adapters}")
        used = np.ascontiguousarray(adapters[sequences])
        return used if len(used) and used.max() >= 0 else None

    def checked(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, table: np.ndarray,
                rows: np.ndarray) -> np.ndarray:
        """First row of each sequence's span and the number of rows, int32. Raises ValueError for bad input."""
        count = len(tokens)
        if len(positions) != count or len(sequences) != count:
            raise ValueError(f"{count} tokens but {len(positions)} positions and {len(sequences)} sequences")
        for name, values, limit in (("tokens", tokens, self.shape.vocabulary), ("sequences", sequences, len(table)),
                                    ("positions", positions, min(self.shape.context, table.shape[1] * PAGE)),
                                    ("rows", rows, count)):
            if len(values) and (values.min() < 0 or values.max() >= limit):
                raise ValueError(f"{name} must lie in 0..{limit - 1}, found {values.min()}..{values.max()}")
        starts = np.flatnonzero(np.r_[True, sequences[1:] != sequences[:-1]]) if count else np.empty(0, np.int64)
        if len(np.unique(sequences[starts])) != len(starts):
            raise ValueError("a sequence's tokens must stand together")
        follow = positions[1:] == positions[:-1] + 1
        if not np.all(follow | (sequences[1:] != sequences[:-1])):
            raise ValueError("a sequence's positions must rise one by one")
        ends = np.r_[starts[1:], count]
        for start, end in zip(starts, ends):
            held = table[sequences[start], :positions[end - 1] // PAGE + 1]
            if held.min() < 0 or held.max() >= self.blocks:
                raise ValueError(f"block_table of sequence {sequences[start]} must lie in 0..{self.blocks - 1}, "
                                 f"found {held.min()}..{held.max()}")
        return np.r_[starts, count].astype(np.int32)


def whole(name: str, values: np.ndarray, dtype: type, *, dimensions: int = 1) -> np.ndarray:
    """`values` contiguous and of `dtype`. Raises ValueError where they are no integers or of another shape."""
    values = np.asarray(values)
    if values.ndim != dimensions or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be {dimensions}-dimensional integers, not {values.dtype} {values.shape}")
    return np.ascontiguousarray(values, dtype)


def rotations(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin float32 [context, head_dim/2] of each position's angles (Su et al. 2021), in float32 as Llama's."""
    even = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    frequencies = (1 / np.float32(shape.theta) ** even).astype(np.float32)
    angles = np.arange(shape.context, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class Threads:
    """Worker threads by themselves, to run one operator: what tests and benchmarks need."""

    def __init__(self, count: int) -> None:
        self.library = build.library()
        self.library.catena_threads.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.library.catena_threads(count))

    def linear(self, weight: Packed, x: np.ndarray, out: np.ndarray, epilogue: int = WRITE) -> np.ndarray:
        """x float32 [rows, inputs] through `weight` into out [rows, outputs], which is also returned.

        Raises ValueError where x or out have another shape or dtype.
        """
        outputs = weight.outputs // 2 if epilogue == GATE else weight.outputs
        for name, array, width in (("x", x, weight.inputs), ("out", out, outputs)):
            if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != width or len(array) != len(x) or (
                    not array.flags.c_contiguous):
                raise ValueError(f"{name} must be contiguous float32 [{len(x)}, {width}], not {array.dtype} "
                                 f"{array.shape}")
        if len(x) and self.library.catena_linear(self.handle, ctypes.byref(_linear(weight)), epilogue, len(x),
                                                 ctypes.c_void_p(_address(x)), ctypes.c_void_p(_address(out))):
            raise MemoryError(f"no memory for {len(x)} rows")
        return out

    def read_memory(self, data: np.ndarray) -> None:
        """Read float32 `data` once, whole megabytes of it."""
        self.library.catena_read_memory(self.handle, ctypes.c_void_p(_address(data)), ctypes.c_int64(data.nbytes >> 20))

    def multiply(self, items: int, *, integers: bool) -> int:
        """`items` * 2^20 vector multiply-adds on registers; returns the scalar multiply-adds that were."""
        self.library.catena_multiply(self.handle, ctypes.c_int64(items), int(integers))
        return items * 2 ** 20 * self.library.catena_width() * (4 if integers else 1)

    def close(self) -> None:
        """Stop the threads."""
        if self.handle:
            self.library.catena_join(self.handle)
            self.handle = ctypes.c_void_p()

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.close()
