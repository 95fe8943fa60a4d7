"""Export an int4 directory to ONNX, so that ONNX Runtime serves it anywhere: the portable form of the model.

    python -m tasks.quantize.export models/T/int4 data/evalsets/held_out.jsonl models/T/onnx metrics/export/T.json

The directory holds `model.onnx` (tasks/quantize/onnx_graph.py), the tokenizer, `config.json` and `manifest.json`
with the sha256 of each. The gate runs ONNX Runtime and the dequantized torch model over held-out text: they must
choose the same next token and agree in distribution within the limits of the `export` section.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import Field
from tokenizers import Tokenizer

from tasks import params, progress, stage
from tasks.quantize import formats, onnx_graph
from tasks.stage import Input, Output, StageError

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
          "generation_config.json")
PROTOBUF_LIMIT = 2 ** 31 - 2 ** 24  # bytes one protobuf file may hold, less room for the graph itself


class ExportParams(params.Section):
    """How much text the gate reads and what it asks for."""

    documents: int = Field(ge=1, le=10_000, description="held-out documents the gate reads")
    tokens: int = Field(ge=8, le=8192, description="tokens read of each")
    min_top1: float = Field(ge=0, le=1, description="least share of positions with the same most likely token")
    max_kl: float = Field(gt=0, description="largest mean KL(torch || ONNX Runtime), nats a token")


def export(quantized: Input, held_out: Input, model: Output, metrics: Output, *,
           export: ExportParams, runtime: params.Runtime) -> None:
    """Write the ONNX directory of `quantized` and gate it. Raises StageError where a limit is missed."""
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    stored = formats.read(quantized)
    model.mkdir(parents=True)
    save(graph_of(stored), model / "model.onnx")
    plain = {key: value for key, value in stored.config.items() if key != "quantization_config"}
    stage.write_json(model / "config.json", plain)
    for name in COPIED:
        if (quantized / name).exists():
            shutil.copyfile(quantized / name, model / name)
    if not (model / "tokenizer.json").exists():
        raise StageError(f"{quantized} has no tokenizer.json: the served directory needs one")
    write_manifest(model)
    texts = held_out_tokens(held_out, Tokenizer.from_file(str(model / "tokenizer.json")), export,
                            plain["max_position_embeddings"])
    session = open_session(model / "model.onnx", runtime.threads)
    agreement = compare(session, formats.load_dequantized(quantized), plain, texts)
    size = sum(file.stat().st_size for file in model.iterdir())
    stage.write_json(metrics, {**agreement, "bytes": size, "limits": {"top1": export.min_top1, "kl": export.max_kl}})
    if agreement["top1"] < export.min_top1 or agreement["kl"] > export.max_kl:
        raise StageError(
            f"ONNX Runtime and torch differ: top-1 {agreement['top1']:.4f} (at least {export.min_top1}), KL "
            f"{agreement['kl']:.5f} (at most {export.max_kl}) on {agreement['positions']} positions: the export is "
            f"wrong, or export.min_top1 / export.max_kl is too tight for this model")


def graph_of(stored: formats.Int4Model) -> onnx.ModelProto:
    """The ONNX graph of an int4 model. Raises StageError where its shape is none that the graph can hold."""
    config, group = stored.config, stored.group
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise StageError(f"rope_type {rope['rope_type']!r} is not exported: only plain rotary positions are")
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


def write_manifest(directory: Path) -> None:
    """manifest.json: the sha256 of every other file of `directory`, for the server to check before it loads them."""
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}
    stage.write_json(directory / "manifest.json", {"sha256": sums})


def held_out_tokens(path: Path, tokenizer: Tokenizer, limits: ExportParams, context: int) -> list[np.ndarray]:
    """The first tokens of held-out documents, int64 [<= limits.tokens] each, at least two tokens long."""
    texts = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise StageError(f"{path} holds a line that is no document: {stage.one_line(error)}") from None
            tokens = tokenizer.encode(text, add_special_tokens=False).ids[:min(limits.tokens, context)]
            if len(tokens) > 1:
                texts.append(np.array(tokens, np.int64))
            if len(texts) == limits.documents:
                break
    if not texts:
        raise StageError(f"{path} holds no document of two tokens: the gate has nothing to read")
    return texts


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves torch beside it
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits(session: onnxruntime.InferenceSession, config: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """float32 [n, vocabulary] of one sequence int64 [n], nothing cached: plain onnxruntime, as any user runs it."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    empty = np.zeros((1, config["num_key_value_heads"], 0, head_dim), np.float32)
    feed = {"input_ids": tokens[None], "seqlens_k": np.array([len(tokens) - 1], np.int32),
            "total_sequence_length": np.array(len(tokens), np.int32), "logit_rows": np.arange(len(tokens))}
    for i in range(config["num_hidden_layers"]):
        feed |= {f"past_key_values.{i}.key": empty, f"past_key_values.{i}.value": empty}
    return session.run(["logits"], feed)[0]


@torch.inference_mode()
def compare(session: onnxruntime.InferenceSession, reference: torch.nn.Module, config: dict[str, Any],
            texts: list[np.ndarray]) -> dict[str, float]:
    """Top-1 agreement, mean KL(torch || ONNX Runtime) and both losses (nats a token) over `texts`."""
    positions = same = 0
    divergence = loss_torch = loss_onnx = 0.0
    for tokens in progress.track(texts, what="gate", unit="document"):
        expected = reference(torch.from_numpy(tokens)[None]).logits[0].log_softmax(-1)
        found = torch.from_numpy(logits(session, config, tokens)).log_softmax(-1)
        positions += len(tokens)
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        divergence += float((expected.exp() * (expected - found)).sum())
        following = torch.from_numpy(tokens[1:, None])
        loss_torch -= float(expected[:-1].gather(1, following).sum())
        loss_onnx -= float(found[:-1].gather(1, following).sum())
    predicted = positions - len(texts)
    return {"documents": len(texts), "positions": positions, "top1": round(same / positions, 6),
            "kl": round(divergence / positions, 7), "loss_torch": round(loss_torch / predicted, 6),
            "loss_onnx": round(loss_onnx / predicted, 6)}


if __name__ == "__main__":
    stage.run(export)
