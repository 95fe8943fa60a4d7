"""Quantize a Llama to int4 by activation-aware search, and gate what it costs.

    python -m tasks.quantize.awq models/T/chat data/corpus data/evalsets/held_out.jsonl models/T/int4
        metrics/quantize/T.json --track T

Calibrated on text of the training corpus: scales and clipped ranges are searched as in AWQ (search.py), rounding
errors handed on as in GPTQ (compensate.py), the scales then refined (refine.py), layer after layer (layers.py).
Embedding and head stay as they are. The directory is AutoAWQ's (formats.py), with `manifest.json` beside (the sha256 of
each file); what it costs on held-out text is measured beside round-to-nearest (gate.py).
"""

from __future__ import annotations

import copy

from tasks import params, stage
from tasks.finetune import environment
from tasks.quantize.settings import QuantizeParams
from tasks.stage import Input, Output


def awq(model: Input, corpus: Input, held_out: Input, quantized: Output, metrics: Output, *,
        quantize: QuantizeParams, seed: int, runtime: params.Runtime) -> None:
    """Write the int4 directory of `model` and its scores. Raises StageError where a limit of the gate is missed."""
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.quantize import formats, gate, layers, manifest, passages

    full, tokenizer, calibration, text = passages.prepared(model, corpus, held_out, quantize, seed)
    stored = layers.int4(copy.deepcopy(full), calibration, quantize)
    formats.write(stored, quantized)
    tokenizer.save_pretrained(quantized)
    full.generation_config.save_pretrained(quantized)
    manifest.write(quantized)
    candidates = {"nearest": layers.nearest(copy.deepcopy(full), quantize.group),
                  "awq": formats.load_dequantized(quantized)}
    scores = gate.compare(full, candidates, text)
    stage.write_json(metrics, gate.report(scores, text, quantized, quantize.gate) | {"group": quantize.group})
    gate.judge("int4", scores["awq"], quantize.gate)


if __name__ == "__main__":
    stage.run(awq)
