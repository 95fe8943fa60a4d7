"""SmoothQuant as a user runs it: a directory that the server's CPU kernels read, its scores, and a gate that fails."""

import json

import numpy as np
import pytest
import torch

from kernels import build
from tasks.finetune import checkpoint
from tasks.quantize import w8a8 as stage_module
from tasks.serve.engine import backend as backends
from tasks.stage import StageError
from tests.quantize.test_awq import GATE, QUANTIZE, RUNTIME


def run(inputs, **changes):
    settings = QUANTIZE.model_copy(update={"windows": 2, "gate": GATE.model_copy(update={"windows": 2}), **changes})
    stage_module.w8a8(inputs / "chat", inputs / "corpus", inputs / "held_out.jsonl", inputs / "w8a8", inputs / "m.json",
                      quantize=settings, seed=1, runtime=RUNTIME)


def test_its_directory_is_scored_and_served(inputs):
    run(inputs)
    scores = json.loads((inputs / "m.json").read_text())
    assert scores["full"]["perplexity_ratio"] == 1 and 0 < scores["w8a8"]["kl"] < 0.01
    try:
        build.library()
    except build.CompilerMissing as missing:
        pytest.skip(str(missing))
    serving = backends.load(backends.read_files(inputs / "w8a8"), threads=1, slots=1, backend="cpu")
    tokens = np.arange(40)
    found = serving.step(tokens, tokens, np.zeros_like(tokens), np.arange(serving.blocks, dtype=np.int32)[None], tokens)
    with torch.inference_mode():
        wanted = checkpoint.load_model(inputs / "chat")(torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert np.sqrt(np.square(found - wanted).mean()) < 0.05 * wanted.std()
    serving.close()


def test_the_gate_and_bad_input_are_one_line(inputs):
    with pytest.raises(StageError, match="the W8A8 model agrees with the full one on .* quantize.gate.min_agreement"):
        run(inputs, gate=GATE.model_copy(update={"windows": 2, "min_agreement": 1.01}))
    with pytest.raises(StageError, match="quantize.length = 65 is beyond the model's 64 positions"):
        run(inputs, length=65)
