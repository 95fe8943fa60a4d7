"""Export an int4 directory to the forms that other runtimes load, and check that each computes what it computes.

    python -m tasks.quantize.export models/T/int4 data/evalsets/held_out.jsonl models/T/onnx models/T/compressed
        models/T/gguf metrics/export/T.json

- `onnx`: `model.onnx` (tasks/quantize/onnx_graph.py), for ONNX Runtime.
- `compressed`: compressed-tensors `pack-quantized` (compressed.py), for vLLM and transformers.
- `gguf`: `model.gguf` (gguf_file.py), for llama.cpp.

The first two hold the tokenizer and `config.json` too (a GGUF file holds both in itself), each `manifest.json` with the
sha256 of every file. The gate reads each back by a reader that is not ours (ONNX Runtime; transformers with
compressed-tensors; transformers with the gguf package) and runs it and the dequantized torch model over held-out text:
they must choose the same next token and agree in distribution within the limits of the `export` section.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import Field
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, logging

from tasks import params, progress, stage
from tasks.quantize import compressed as compressed_tensors
from tasks.quantize import formats, gguf_file, manifest, onnx_graph, parity
from tasks.stage import Input, Output, StageError

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
          "generation_config.json")
PROTOBUF_LIMIT = 2 ** 31 - 2 ** 24  # bytes one protobuf file may hold, less room for the graph itself


class ExportParams(params.Section):
    """How much text the gate reads and what it asks for."""

    documents: int = Field(ge=1, le=10_000, description="held-out documents the gate reads")
    tokens: int = Field(ge=8, le=8192, description="tokens read of each")
    min_top1: float = Field(ge=0, le=1, description="least share of positions with the same most likely token")
    max_kl: float = Field(gt=0, description="largest mean KL(torch || the other runtime), nats a token")


def export(quantized: Input, held_out: Input, model: Output, compressed: Output, gguf: Output, metrics: Output, *,
           export: ExportParams, runtime: params.Runtime) -> None:
    """Write the exported directories of `quantized` and gate each. Raises StageError where a limit is missed."""
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    stored = formats.read(quantized)
    if not (quantized / "tokenizer.json").exists():
        raise StageError(f"{quantized} has no tokenizer.json: the served directory needs one")
    plain = {key: value for key, value in stored.config.items() if key != "quantization_config"}
    for directory in (model, compressed, gguf):
        directory.mkdir(parents=True)
    save(graph_of(stored), model / "model.onnx")
    stage.write_json(model / "config.json", plain)
    compressed_tensors.write_int4(stored, compressed)
    for directory in (model, compressed):
        for name in COPIED:
            if (quantized / name).exists():
                shutil.copyfile(quantized / name, directory / name)
    gguf_file.write(stored, quantized, gguf / "model.gguf")
    for directory in (model, compressed, gguf):
        manifest.write(directory)
    length = min(export.tokens, plain["max_position_embeddings"])
    texts = parity.held_out_tokens(held_out, Tokenizer.from_file(str(quantized / "tokenizer.json")), export.documents,
                                   length)
    reference = formats.load_dequantized(quantized)
    expected = [parity.log_probabilities(reference, tokens) for tokens in progress.track(texts, what="torch")]
    del reference
    readers: dict[str, Callable[[], Callable[[np.ndarray], torch.Tensor]]] = {
        "onnx": lambda: onnx_reader(model / "model.onnx", plain, runtime.threads),
        "compressed": lambda: compressed_reader(compressed),
        "gguf": lambda: transformers_reader(gguf, gguf_file="model.gguf")}
    found = {}
    for (name, read), directory in zip(readers.items(), (model, compressed, gguf), strict=True):
        scores = parity.compare(read(), expected, texts)
        found[name] = scores | {"bytes": sum(file.stat().st_size for file in directory.iterdir())}
    loss = -sum(float(scores[:-1].gather(1, torch.from_numpy(tokens[1:, None])).sum())
                for scores, tokens in zip(expected, texts, strict=True))
    positions = sum(map(len, texts))
    onnx_scores = found.pop("onnx")
    stage.write_json(metrics, {
        "bytes": onnx_scores["bytes"], "documents": len(texts), "kl": onnx_scores["kl"],
        "limits": {"top1": export.min_top1, "kl": export.max_kl}, "loss_onnx": onnx_scores["loss"],
        "loss_torch": round(loss / (positions - len(texts)), 6), "positions": positions, "top1": onnx_scores["top1"],
        "others": found})
    for name, scores in {"onnx": onnx_scores, **found}.items():
        judge(name, scores, export, positions)


def judge(name: str, scores: dict[str, float], limits: ExportParams, positions: int) -> None:
    """Raise StageError with figure and limit where the export `name` computes something else."""
    if not (scores["top1"] >= limits.min_top1 and scores["kl"] <= limits.max_kl):  # so that NaN fails too
        raise StageError(
            f"the {name} export and torch differ: top-1 {scores['top1']:.4f} (at least {limits.min_top1}), KL "
            f"{scores['kl']:.5f} (at most {limits.max_kl}) on {positions} positions: the export is "
            f"wrong, or export.min_top1 / export.max_kl is too tight for this model")


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


def onnx_reader(path: Path, config: dict[str, Any], threads: int) -> Callable[[np.ndarray], torch.Tensor]:
    """Log-probabilities by plain onnxruntime, as any user runs it."""
    session = open_session(path, threads)
    return lambda tokens: torch.from_numpy(logits(session, config, tokens)).log_softmax(-1)


def compressed_reader(directory: Path) -> Callable[[np.ndarray], torch.Tensor]:
    """Log-probabilities by transformers and compressed-tensors, weights dequantized while they load.

    Left packed they do not load: compressed-tensors 0.20 makes room for zero points that are not packed, its own too.
    """
    return transformers_reader(directory, quantization_config=CompressedTensorsConfig(dequantize=True))


def transformers_reader(directory: Path, **how: Any) -> Callable[[np.ndarray], torch.Tensor]:
    """Log-probabilities by transformers' own loader of `directory`. Raises StageError where it does not load."""
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True, **how)
    except Exception as error:
        raise StageError(f"transformers does not load the export {directory.name}: {stage.one_line(error)[:300]}"
                         ) from None
    return lambda tokens: parity.log_probabilities(model.eval(), tokens)


def logits(session: onnxruntime.InferenceSession, config: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """float32 [n, vocabulary] of one sequence int64 [n], nothing cached."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    empty = np.zeros((1, config["num_key_value_heads"], 0, head_dim), np.float32)
    feed = {"input_ids": tokens[None], "seqlens_k": np.array([len(tokens) - 1], np.int32),
            "total_sequence_length": np.array(len(tokens), np.int32), "logit_rows": np.arange(len(tokens))}
    for i in range(config["num_hidden_layers"]):
        feed |= {f"past_key_values.{i}.key": empty, f"past_key_values.{i}.value": empty}
    return session.run(["logits"], feed)[0]


if __name__ == "__main__":
    stage.run(export)
