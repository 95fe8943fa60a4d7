"""A model's weights in the kernels' layout, made once: `.runtime/packed/<digest>`.

The file is the arrays, each at a multiple of 64 bytes, then one JSON object that says where each lies and of what shape
it is, then 12 bytes: where that object begins and the CRC-32 of all before them. Its name covers the sha256 of the
weights' file, the config and this layout's version; it is written aside and renamed. What does not have its CRC is made
again. The folder is bounded: what was opened longest ago goes first (a server that runs keeps its own file open).

The linear layers, which every step reads whole, are copied to large pages: with small ones each 4 KB cost a walk
through the page tables. The embedding, of which a step wants a row a token, stays in the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import sys
import time
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np

from kernels.linear import pack
from kernels.step.session import Shape, Stored, Weights
from tasks.serve.engine.checkpoint import Checkpoint
from tasks.serve.engine.directory import ModelError, ModelFiles, sha256

VERSION = 2
CACHE = Path(__file__).resolve().parents[3] / ".runtime" / "packed"
MOST_BYTES, MOST_FILES = 8 << 30, 64
ABANDONED = 3600   # seconds after which a file that nobody writes to any more was left by a process that was killed
ALIGNMENT = 64
TRAILER = 12
LARGE_PAGE = 2 << 20
PIECE = 1 << 20    # bytes read at once where they are only summed
PARTS = ("weights", "scales", "zeros")


def open_weights(files: ModelFiles, shape: Shape) -> Weights:
    """The packed weights of a directory; packed first where they are not in the cache, or not as they were written."""
    path = CACHE / key(files, shape)
    try:
        return read(path, shape)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        print(f"{path}: {error}; packing the weights again", file=sys.stderr, flush=True)
    checkpoint = Checkpoint(files.directory / "model.safetensors", files.config)
    try:
        write(path, arrays(checkpoint, shape))
        weights = read(path, shape)
        prune(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}: free space or make .runtime writable") from None
    return weights


def key(files: ModelFiles, shape: Shape) -> str:
    """Hex digest of all that the packed file depends on."""
    name = "model.safetensors"
    weights = files.sums.get(name) or sha256(files.directory / name)
    stated = repr((VERSION, weights, shape, files.config.get("quantization_config")))
    return hashlib.sha256(stated.encode()).hexdigest()


def arrays(checkpoint: Checkpoint, shape: Shape) -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
    """(name, array, facts) of everything the kernels read. Raises ModelError where a tensor does not fit."""
    hidden, inner, width = shape.hidden, shape.inner, shape.heads * shape.head_dim
    embedding = checkpoint.tensor("model.embed_tokens.weight", shape.vocabulary, hidden)
    yield "embedding", embedding, {"kind": pack.kind_of(embedding)}
    norms = [checkpoint.tensor(f"model.layers.{i}.{name}.weight", hidden) for i in range(shape.layers)
             for name in ("input_layernorm", "post_attention_layernorm")]
    yield "norms", np.stack([pack.as_float(norm) for norm in
                             (*norms, checkpoint.tensor("model.norm.weight", hidden))]), {}
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        kv = shape.kv_heads * shape.head_dim
        yield from packed(checkpoint, f"{4 * i}", pack.stack([
            checkpoint.linear(f"{layer}.self_attn.{name}_proj", outputs, hidden)
            for name, outputs in (("q", width), ("k", kv), ("v", kv))]))
        yield from packed(checkpoint, f"{4 * i + 1}", checkpoint.linear(f"{layer}.self_attn.o_proj", hidden, width))
        yield from packed(checkpoint, f"{4 * i + 2}", pack.interleave(*(
            checkpoint.linear(f"{layer}.mlp.{name}_proj", inner, hidden) for name in ("gate", "up"))))
        yield from packed(checkpoint, f"{4 * i + 3}", checkpoint.linear(f"{layer}.mlp.down_proj", hidden, inner))
    tied = checkpoint.config.get("tie_word_embeddings", False) or "lm_head.weight" not in checkpoint
    head = embedding if tied else checkpoint.linear("lm_head", shape.vocabulary, hidden)
    if "quantization_config" in checkpoint.config and isinstance(head, np.ndarray):
        group = next((size for size in (64, 32) if hidden % size == 0), None)
        head = head if group is None else pack.eight_bits(head, group)
    yield from packed(checkpoint, f"{4 * shape.layers}", head)


def packed(checkpoint: Checkpoint, name: str, weight: pack.Weight) -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
    """The arrays of one linear layer."""
    try:
        layer = pack.pack(weight)
    except ValueError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from None
    facts = {"kind": layer.kind, "outputs": layer.outputs, "inputs": layer.inputs, "group": layer.group}
    for part in PARTS:
        yield f"{name}.{part}", getattr(layer, part), facts


def write(path: Path, items: Iterator[tuple[str, np.ndarray, dict[str, int]]]) -> None:
    """Write the arrays to `path`, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    index: dict[str, dict] = {}
    total = 0
    try:
        with aside.open("wb") as file:
            def put(data: bytes | memoryview) -> None:
                nonlocal total
                file.write(data)
                total = zlib.crc32(data, total)

            for name, array, facts in items:
                put(bytes(-file.tell() % ALIGNMENT))
                index[name] = {"at": file.tell(), "dtype": array.dtype.str, "shape": array.shape, **facts}
                put(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            start = file.tell()
            put(json.dumps(index).encode())
            file.write(start.to_bytes(8, "little") + total.to_bytes(4, "little"))
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path, shape: Shape) -> Weights:
    """The weights in a packed file, which stays open. Raises OSError, or ValueError where it is not as written."""
    file = path.open("rb", buffering=0)
    try:
        return checked(file, shape)
    except ValueError:
        file.close()
        raise


def checked(file: FileIO, shape: Shape) -> Weights:
    """See `read`."""
    size = os.fstat(file.fileno()).st_size
    ending = os.pread(file.fileno(), TRAILER, max(0, size - TRAILER))
    start, end = int.from_bytes(ending[:8], "little"), size - TRAILER
    if not 0 < start < end:
        raise ValueError("it is cut short")
    stated = os.pread(file.fileno(), end - start, start)
    try:
        index = json.loads(stated)
        first = index["0.weights"]["at"]  # embedding and norms stand before it
        if not 0 < first < start:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError("its index is damaged") from None
    linear = large_pages(start - first)
    summed = copied(file, first, linear, summed_to(file, first))
    if zlib.crc32(stated, summed) != int.from_bytes(ending[8:], "little"):
        raise ValueError("its checksum is wrong")
    now = time.time_ns()
    with contextlib.suppress(OSError):  # another user's, or a file system that is read only
        os.utime(file.fileno(), ns=(now, os.fstat(file.fileno()).st_mtime_ns))

    def array(name: str) -> np.ndarray:
        entry = index[name]
        dtype, count = np.dtype(entry["dtype"]), int(np.prod(entry["shape"]))
        if entry["at"] < first:
            held = np.frombuffer(os.pread(file.fileno(), count * dtype.itemsize, entry["at"]), dtype)
        else:
            held = linear[entry["at"] - first:][:count * dtype.itemsize].view(dtype)
        return held.reshape(entry["shape"])

    linears = []
    for number in range(4 * shape.layers + 1):
        entry = index[f"{number}.weights"]
        linears.append(pack.Packed(entry["kind"], entry["outputs"], entry["inputs"], entry["group"],
                                   *(array(f"{number}.{part}") for part in PARTS)))
    embedding = index["embedding"]
    return Weights(Stored(file, embedding["at"]), embedding["kind"], array("norms"), linears)


def summed_to(file: FileIO, end: int) -> int:
    """CRC-32 of a file's first `end` bytes; leaves it there."""
    file.seek(0)
    total, left, buffer = 0, end, memoryview(bytearray(PIECE))
    while left and (count := file.readinto(buffer[:left])):
        total = zlib.crc32(buffer[:count], total)
        left -= count
    return total


def copied(file: FileIO, start: int, into: np.ndarray, total: int) -> int:
    """Fill `into` uint8 with a file's bytes from `start` on; the CRC-32 `total` continued over them."""
    file.seek(start)
    left = memoryview(into)
    while left and (count := file.readinto(left)):
        total = zlib.crc32(left[:count], total)
        left = left[count:]
    return total


def large_pages(size: int) -> np.ndarray:
    """uint8 [size] of zeros, in pages of 2 MB where the system has them."""
    arena = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a kernel without them, or no Linux
        arena.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(arena, np.uint8)
    begin = -whole.ctypes.data % LARGE_PAGE
    return whole[begin:begin + size]


def prune(kept: Path) -> None:
    """Remove what was used longest ago beyond MOST_BYTES or MOST_FILES, never `kept`, and what was never finished."""
    found = []
    for path in kept.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may prune too
            stat = path.stat()
            if path.name.startswith("."):
                if time.time() - stat.st_mtime > ABANDONED:
                    path.unlink()
            elif path != kept:
                found.append((stat.st_atime_ns, stat.st_size, path))
    count, total = 1, kept.stat().st_size
    for _, size, path in sorted(found, reverse=True):
        count, total = count + 1, total + size
        if count > MOST_FILES or total > MOST_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()
