"""ONNX Runtime backend: a sequence's keys and values lie in one contiguous slot, so a block is a whole slot.

A step is one run for each prefill chunk (the operator takes a past with several tokens at batch 1 only) and one run
for all decodes together, over the range of slots they span. Rows of that range that decode nothing write where their
own next token will overwrite. The operator's integer GEMM computes rows in pairs and an odd last row by another
order of additions: the range is kept even, so that a row's bits do not depend on what else is in the batch.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import onnxruntime

from tasks.serve.engine.directory import ModelError, ModelFiles

PAIR = 2


class OrtBackend:
    """`model.onnx` with past and present bound to the same memory."""

    def __init__(self, files: ModelFiles, *, threads: int, slots: int, kv: str = "fp16") -> None:
        if kv != "fp16":
            raise ModelError(f"kv {kv}: ONNX Runtime keeps keys and values in float32 only; choose fp16 or backend cpu")
        if not (files.directory / "model.onnx").is_file():
            raise ModelError(f"{files.directory} has no model.onnx: export it, or choose another backend")
        config = files.config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        try:
            self.session = onnxruntime.InferenceSession(str(files.directory / "model.onnx"), options,
                                                        providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each status code, without a base
            raise ModelError(f"{files.directory / 'model.onnx'} does not load: {' '.join(str(error).split())}"
                             ) from None
        self.vocabulary, self.context = config["vocab_size"], files.context
        self.hidden_size = config["hidden_size"]
        self.block_size, self.blocks = self.context, slots
        self.layers, heads = config["num_hidden_layers"], config["num_key_value_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.slot_shape = (heads, self.context, head_dim)
        rows = -(-slots // PAIR) * PAIR
        self.store = zeroed((2 * self.layers, rows, *self.slot_shape))
        self.length = np.zeros(rows, np.int64)  # tokens held by each slot
        self.bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.step; block_table is int32 [sequences, 1], the slot of each; there are no adapters."""
        logits = np.empty((len(logit_rows), self.vocabulary), np.float32)
        wanted = np.full(len(tokens), -1)
        wanted[logit_rows] = np.arange(len(logit_rows))
        starts = np.flatnonzero(np.r_[True, sequences[1:] != sequences[:-1]])
        ends = np.r_[starts[1:], len(tokens)]
        slots = block_table[sequences[starts], 0]
        self.length[slots] = positions[ends - 1] + 1
        chunk = ends - starts > 1
        for start, end, slot in zip(starts[chunk], ends[chunk], slots[chunk]):
            rows = np.flatnonzero(wanted[start:end] >= 0)
            found = self.run(tokens[None, start:end], slot, positions[end - 1:end] + 1, rows)
            logits[wanted[start:end][rows]] = found
        if not chunk.all():
            self.decode(tokens[starts[~chunk]], slots[~chunk], wanted[starts[~chunk]], logits)
        return logits

    def embed(self, *_: object) -> np.ndarray:
        """Raises ModelError: the graph gives logits only."""
        raise ModelError("the ONNX export has no hidden states: serve embeddings with backend cpu or torch")

    def add_adapter(self, directory: Path) -> int:
        """Raises ModelError: the graph's weights are fixed."""
        raise ModelError(f"{directory}: the ONNX export takes no adapters: serve them with backend cpu or torch")

    def close(self) -> None:
        """See Backend.close."""
        self.bindings.clear()
        self.store = np.empty(0, np.float32)

    def decode(self, tokens: np.ndarray, slots: np.ndarray, wanted: np.ndarray, logits: np.ndarray) -> None:
        """One token for each of `slots`, in one run over the even range that spans them; fills logits[wanted]."""
        low = slots.min() // PAIR * PAIR
        high = -(-(slots.max() + 1) // PAIR) * PAIR
        ids = np.zeros((high - low, 1), np.int64)
        ids[slots - low, 0] = tokens
        ends = np.minimum(self.length[low:high] + 1, self.context)
        ends[slots - low] = self.length[slots]
        found = self.run(ids, low, ends, np.arange(high - low))
        logits[wanted[wanted >= 0]] = found[(slots - low)[wanted >= 0]]

    def run(self, ids: np.ndarray, low: int, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Run `ids` [batch, n] over slots low..low+batch, of lengths `ends` after it; logits of the flat `rows`."""
        binding = self.binding(int(low), len(ids))
        if not len(rows):
            rows = np.zeros(1, np.int64)  # the graph wants a row; the caller drops it
            return self.run(ids, low, ends, rows)[:0]
        feed = {"input_ids": np.ascontiguousarray(ids), "seqlens_k": (ends - 1).astype(np.int32),
                "total_sequence_length": np.array(ends.max(), np.int32), "logit_rows": rows.astype(np.int64)}
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        logits = np.empty((len(rows), self.vocabulary), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self.session.run_with_iobinding(binding)
        return logits

    def binding(self, low: int, batch: int) -> onnxruntime.IOBinding:
        """The binding whose past and present are slots low..low+batch, made once for each range."""
        if (low, batch) not in self.bindings:
            binding = self.session.io_binding()
            for layer in range(self.layers):
                for part, name in enumerate(("key", "value")):
                    memory = self.store[2 * layer + part, low:low + batch]
                    place = ("cpu", 0, np.float32, memory.shape, memory.ctypes.data)
                    binding.bind_input(f"past_key_values.{layer}.{name}", *place)
                    binding.bind_output(f"present.{layer}.{name}", *place)
            self.bindings[low, batch] = binding
        return self.bindings[low, batch]


def zeroed(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros that take memory only where touched: small pages, as 2 MB ones would fill every slot."""
    count = int(np.prod(shape))
    pages = mmap.mmap(-1, 4 * count)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32, count).reshape(shape)
