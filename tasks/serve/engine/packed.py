"""A model's weights in the kernels' layout, made once: `.runtime/packed/<digest>`.

The file is one line of JSON that says where each array lies, then the arrays, each at a multiple of 64 bytes. Its name
covers the sha256 of the weights' file, the config and this layout's version; it is written aside and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kernels.linear import pack
from kernels.step.session import Shape, Weights
from tasks.serve.engine.directory import ModelError, ModelFiles
from tasks.serve.engine.checkpoint import Checkpoint

VERSION = 1
CACHE = Path(__file__).resolve().parents[3] / ".runtime" / "packed"
ALIGNMENT = 64
LARGE_PAGE = 2 << 20
PARTS = ("weights", "scales", "zeros")


def open_weights(files: ModelFiles, shape: Shape) -> Weights:
    """The packed weights of a directory; packed first where they are not in the cache."""
    path = CACHE / key(files, shape)
    if not path.is_file():
        checkpoint = Checkpoint(files.directory / "model.safetensors", files.config)
        try:
            write(path, arrays(checkpoint, shape))
        except OSError as error:
            raise ModelError(f"{path} cannot be written: {error.strerror}: free space or make .runtime writable"
                             ) from None
    return mapped(path, shape)


def key(files: ModelFiles, shape: Shape) -> str:
    """Hex digest of all that the packed file depends on."""
    source = files.directory / "model.safetensors"
    try:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}") from None
    digest.update(repr((VERSION, shape, files.config.get("quantization_config"))).encode())
    return digest.hexdigest()


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
    try:
        with aside.open("wb") as file:
            for name, array, facts in items:
                file.write(bytes(-file.tell() % ALIGNMENT))
                index[name] = {"at": file.tell(), "dtype": array.dtype.str, "shape": array.shape, **facts}
                file.write(np.ascontiguousarray(array).data if array.size else b"")
            start = file.tell()
            file.write(json.dumps(index).encode() + start.to_bytes(8, "little"))
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def mapped(path: Path, shape: Shape) -> Weights:
    """The weights in a packed file. Embedding and norms are the file's pages; the linear layers, which every step
    reads whole, are copied to large pages: with small ones each 4 KB cost a walk through the page tables."""
    data = np.memmap(path, np.uint8, "r")
    start = int.from_bytes(data[-8:].tobytes(), "little")
    index = json.loads(data[start:-8].tobytes())
    first = index["0.weights"]["at"]  # embedding and norms stand before it
    linear = on_large_pages(path, first, start - first)

    def array(name: str) -> np.ndarray:
        entry = index[name]
        count = int(np.prod(entry["shape"]))
        source, at = (data, entry["at"]) if entry["at"] < first else (linear, entry["at"] - first)
        return np.frombuffer(source, np.dtype(entry["dtype"]), count, at).reshape(entry["shape"]) \
            if count else np.empty(0, np.dtype(entry["dtype"]))

    linears = []
    for number in range(4 * shape.layers + 1):
        entry = index[f"{number}.weights"]
        linears.append(pack.Packed(entry["kind"], entry["outputs"], entry["inputs"], entry["group"],
                                   *(array(f"{number}.{part}") for part in PARTS)))
    return Weights(array("embedding"), index["embedding"]["kind"], array("norms"), linears)


def on_large_pages(path: Path, start: int, size: int) -> np.ndarray:
    """uint8 [size]: a file's bytes from `start` on, in pages of 2 MB where the system has them."""
    arena = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a kernel without them, or no Linux
        arena.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(arena, np.uint8)
    begin = -whole.ctypes.data % LARGE_PAGE
    found = whole[begin:begin + size]
    with path.open("rb") as file:
        file.seek(start)
        file.readinto(found.data)
    return found
