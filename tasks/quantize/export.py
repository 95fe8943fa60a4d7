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

from pydantic import Field

from tasks import params, progress, stage
from tasks.finetune import environment
from tasks.quantize import manifest
from tasks.stage import Input, Output, StageError

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
          "generation_config.json")


class ExportParams(params.Section):
    """How much text the gate reads and what it asks for."""

    documents: int = Field(ge=1, le=10_000, description="held-out documents the gate reads")
    tokens: int = Field(ge=8, le=8192, description="tokens read of each")
    min_top1: float = Field(ge=0, le=1, description="least share of positions with the same most likely token")
    max_kl: float = Field(gt=0, description="largest mean KL(torch || the other runtime), nats a token")


def export(quantized: Input, held_out: Input, model: Output, compressed: Output, gguf: Output, metrics: Output, *,
           export: ExportParams, runtime: params.Runtime) -> None:
    """Write the exported directories of `quantized` and gate each. Raises StageError where a limit is missed."""
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tokenizers import Tokenizer

    from tasks.quantize import compressed as compressed_tensors
    from tasks.quantize import formats, gguf_file, onnx_file, parity

    stored = formats.read(quantized)
    if not (quantized / "tokenizer.json").exists():
        raise StageError(f"{quantized} has no tokenizer.json: the served directory needs one")
    plain = {key: value for key, value in stored.config.items() if key != "quantization_config"}
    for directory in (model, compressed, gguf):
        directory.mkdir(parents=True)
    onnx_file.save(onnx_file.graph_of(stored), model / "model.onnx")
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
    readers = {
        "onnx": lambda: onnx_file.reader(model / "model.onnx", plain, runtime.threads),
        "compressed": lambda: parity.compressed_reader(compressed),
        "gguf": lambda: parity.transformers_reader(gguf, gguf_file="model.gguf")}
    found = {}
    for (name, read), directory in zip(readers.items(), (model, compressed, gguf), strict=True):
        scores = parity.compare(read(), expected, texts)
        found[name] = scores | {"bytes": sum(file.stat().st_size for file in directory.iterdir())}
    positions = sum(map(len, texts))
    onnx_scores = found.pop("onnx")
    stage.write_json(metrics, {
        "bytes": onnx_scores["bytes"], "documents": len(texts), "kl": onnx_scores["kl"],
        "limits": {"top1": export.min_top1, "kl": export.max_kl}, "loss_onnx": onnx_scores["loss"],
        "loss_torch": parity.loss(expected, texts), "positions": positions, "top1": onnx_scores["top1"],
        "others": found})
    for name, scores in {"onnx": onnx_scores, **found}.items():
        parity.judge(f"the {name} export", scores, export, "export")


if __name__ == "__main__":
    stage.run(export)
