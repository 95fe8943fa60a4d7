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
from tasks.finetune import environment
from tasks.quantize.settings import QuantizeParams
from tasks.stage import Input, Output


def w8a8(model: Input, corpus: Input, held_out: Input, quantized: Output, metrics: Output, *,
         quantize: QuantizeParams, seed: int, runtime: params.Runtime) -> None:
    """Write the W8A8 directory of `model` and its scores. Raises StageError where a limit of the gate is missed."""
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.quantize import compressed, gate, manifest, passages, smooth

    full, tokenizer, calibration, text = passages.prepared(model, corpus, held_out, quantize, seed)
    rounded = copy.deepcopy(full)
    compressed.write_w8a8(smooth.w8a8(rounded, calibration, quantize.scales), quantized)
    tokenizer.save_pretrained(quantized)
    full.generation_config.save_pretrained(quantized)
    manifest.write(quantized)
    scores = gate.compare(full, {"w8a8": rounded}, text)
    stage.write_json(metrics, gate.report(scores, text, quantized, quantize.gate))
    gate.judge("W8A8", scores["w8a8"], quantize.gate)


if __name__ == "__main__":
    stage.run(w8a8)
