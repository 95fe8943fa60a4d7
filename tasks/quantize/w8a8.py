"""Quantize a Llama to int8 weights and activations (SmoothQuant), gated as the chain's int4 is; run by hand.

    python -m tasks.quantize.w8a8 models/T/chat data/corpus data/evalsets/held_out.jsonl models/T/w8a8
        metrics/w8a8.json --track T

The directory is compressed-tensors' `int-quantized` (compressed.py), which vLLM, transformers and this server read:
`python -m tasks.serve.api T=models/T/w8a8`. No stage makes it: at twice int4's size it serves those who want the least
loss. Calibration, held-out text and limits are those of the track's `quantize` section.
"""

from __future__ import annotations

import copy

from tasks import params, stage
from tasks.data import documents
from tasks.finetune import environment
from tasks.quantize.settings import QuantizeParams
from tasks.stage import Input, Output, StageError


def w8a8(model: Input, corpus: Input, held_out: Input, quantized: Output, metrics: Output, *,
         quantize: QuantizeParams, seed: int, runtime: params.Runtime) -> None:
    """Write the W8A8 directory of `model` and its scores. Raises StageError where a limit of the gate is missed."""
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.finetune import checkpoint
    from tasks.quantize import compressed, gate, manifest, passages, smooth

    full = checkpoint.load_model(model)
    tokenizer = checkpoint.load_tokenizer(model, full.config.vocab_size)
    if quantize.length > full.config.max_position_embeddings:
        raise StageError(f"quantize.length = {quantize.length} is beyond the model's "
                         f"{full.config.max_position_embeddings} positions")
    calibration, text = (
        passages.windows(source, tokenizer, count, quantize.length, quantize.languages, seed) for source, count in
        ((documents.shards(corpus), quantize.windows), ([held_out], quantize.gate.windows)))
    rounded = copy.deepcopy(full)
    compressed.write_w8a8(smooth.w8a8(rounded, calibration, quantize.scales), quantized)
    tokenizer.save_pretrained(quantized)
    full.generation_config.save_pretrained(quantized)
    manifest.write(quantized)
    scores = gate.compare(full, {"w8a8": rounded}, text)
    stage.write_json(metrics, {**scores, "bytes": sum(file.stat().st_size for file in sorted(quantized.iterdir())),
                               "positions": text[:, 1:].numel(),
                               "limits": {"perplexity_ratio": quantize.gate.max_perplexity_ratio,
                                          "agreement": quantize.gate.min_agreement}})
    try:
        gate.judge(scores["w8a8"], quantize.gate)
    except StageError as missed:  # it speaks of what the chain makes
        raise StageError(str(missed).replace("int4", "W8A8")) from None


if __name__ == "__main__":
    stage.run(w8a8)
