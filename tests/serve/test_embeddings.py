"""Embeddings: transformers' hidden states, pooled, whatever the chunks and the company."""

import numpy as np
import pytest
import torch

from tasks.quantize import formats
from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.text import Vocabulary
from tests.serve.driven import Driven

CHANCE = np.random.default_rng(4)
PROMPTS = [tuple(map(int, CHANCE.integers(4, 270, n))) for n in (1, 17, 300, 500)]
WRITING = Request((5, 6, 7), 12, Sampling(temperature=0), ignore_eos=True)


@pytest.fixture(scope="module")
def backend(tiny):
    return backends.load(backends.read_files(tiny / "int4"), threads=1, slots=4, backend="torch")


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_the_pooled_hidden_states(tiny, backend, pooling):
    model = formats.load_dequantized(tiny / "int4").model
    engine = Driven(backend, Vocabulary(tiny / "int4"), slots=3)
    alone = engine.tokens([WRITING])
    found = engine.run([Request(prompt, 0, embed=True, pooling=pooling) for prompt in PROMPTS] + [WRITING])
    assert [found[-1][1]] == alone and all(last.finish == "stop" for last, _ in found[:-1])
    for prompt, (last, tokens) in zip(PROMPTS, found):
        with torch.no_grad():
            states = model(torch.tensor([prompt])).last_hidden_state[0].double().numpy()
        pooled = states.mean(0) if pooling == "mean" else states[-1]
        assert last.embedding.dtype == np.float32 and last.embedding.shape == (128,) and tokens == []
        np.testing.assert_allclose(last.embedding, pooled / np.linalg.norm(pooled), atol=2e-5)
    engine.check_empty()


def test_a_backend_without_hidden_states_says_so_and_harms_nobody(tiny, capsys):
    ort = backends.load(backends.read_files(tiny / "onnx"), threads=1, slots=2)
    engine = Driven(ort, Vocabulary(tiny / "onnx"), slots=2)
    found = engine.run([Request((5, 6, 7), 0, embed=True), WRITING])
    assert found[0][0].finish == "error" and "no hidden states" in found[0][0].error
    assert found[1][0].finish == "length" and len(found[1][1]) == 12
    engine.check_empty()
    with pytest.raises(ModelError, match="takes no adapters"):
        engine.add_adapter("any", tiny)
