"""model.onnx of an int4 model: the graph written (onnx_graph.py), and read back by plain onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tasks.quantize import formats, onnx_graph
from tasks.quantize.parity import Reader
from tasks.stage import StageError

PROTOBUF_LIMIT = 2 ** 31 - 2 ** 24  # bytes one protobuf file may hold, less room for the graph itself


def graph_of(stored: formats.Int4Model) -> onnx.ModelProto:
    """The ONNX graph of an int4 model. Raises StageError where its shape is none that the graph can hold."""
    config, group = stored.config, stored.group
    formats.rope_theta(config)
    if config["hidden_size"] % group or config["intermediate_size"] % group:
        raise StageError(f"hidden {config['hidden_size']} and inner {config['intermediate_size']} must be multiples "
                         f"of the group {group}: choose another quantize.group")
    tensors: dict[str, Any] = {
        name: onnx_graph.Codes(layer.q.numpy(), layer.scale.float().numpy(), layer.zero.numpy(), 4)
        for name, layer in stored.linears.items()}
    tensors |= {name: tensor.float().numpy() for name, tensor in stored.rest.items()}
    tied = config.get("tie_word_embeddings", False) or "lm_head.weight" not in tensors
    head = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return onnx_graph.build(config, tensors, onnx_graph.eight_bits(head, group), tied)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` as one file, or with `model.onnx.data` beside it where a protobuf cannot hold its weights."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(model, path, save_as_external_data=size > PROTOBUF_LIMIT, location=f"{path.name}.data")


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves torch beside it
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def reader(path: Path, config: dict[str, Any], threads: int) -> Reader:
    """Log-probabilities by plain onnxruntime, as any user runs it."""
    session = open_session(path, threads)
    return lambda tokens: torch.from_numpy(logits(session, config, tokens)).log_softmax(-1)


def logits(session: onnxruntime.InferenceSession, config: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """float32 [n, vocabulary] of one sequence int64 [n], nothing cached."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    empty = np.zeros((1, config["num_key_value_heads"], 0, head_dim), np.float32)
    feed = {"input_ids": tokens[None], "seqlens_k": np.array([len(tokens) - 1], np.int32),
            "total_sequence_length": np.array(len(tokens), np.int32), "logit_rows": np.arange(len(tokens))}
    for i in range(config["num_hidden_layers"]):
        feed |= {f"past_key_values.{i}.key": empty, f"past_key_values.{i}.value": empty}
    return session.run(["logits"], feed)[0]
