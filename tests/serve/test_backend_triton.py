"""The Triton backend against the torch reference on a ragged mix of chunks and decodes, int4 and plain."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from tasks.serve.engine import backend  # noqa: E402
from tasks.serve.engine.directory import ModelError  # noqa: E402
from tasks.serve.engine.backend_torch import TorchBackend  # noqa: E402
from tasks.serve.engine.backend_triton import TritonBackend  # noqa: E402


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """chat (float32 tensors) and int4 (AutoAWQ, group 64) of the tiny random Llama."""
    from tests.serve import tiny

    root = tmp_path_factory.mktemp("triton")
    tiny.write_int4(root / "chat", tiny.write_chat(root / "chat"), root / "int4")
    return root


@pytest.fixture(scope="module", autouse=True)
def runnable():
    from kernels import interpreter

    try:
        interpreter.device()
    except RuntimeError as error:
        pytest.skip(str(error))


def batch(spans, table):
    """Arrays of a step: spans are (sequence, first position, tokens)."""
    tokens = np.concatenate([TOKENS[sequence, first:first + count] for sequence, first, count in spans])
    positions = np.concatenate([np.arange(first, first + count) for _, first, count in spans])
    sequences = np.repeat(np.arange(len(spans)), [count for *_, count in spans])
    return tokens, positions, sequences, table[[sequence for sequence, *_ in spans]]


TOKENS = np.random.default_rng(3).integers(0, 390, (3, 64))
TABLE = np.array([[7, 2, 9], [1, 5, 3], [8, 0, 4]], np.int32)
STEPS = [[(0, 0, 19), (1, 0, 3)], [(0, 19, 1), (1, 3, 14), (2, 0, 1)], [(0, 20, 1), (1, 17, 1), (2, 1, 1)]]


def run(model, steps=3):
    """Logits of every row of the first `steps` steps."""
    found = []
    for spans in STEPS[:steps]:
        arrays = batch(spans, TABLE)
        found.append(model.step(*arrays, np.arange(len(arrays[0]))))
    return np.concatenate(found)


def load(kind, directory, **options):
    return kind(backend.read_files(directory), threads=1, slots=1, **options)


@pytest.mark.parametrize("form", ["int4", "chat"])
def test_logits_and_greedy_tokens_of_the_reference(directories, form):
    ours, reference = load(TritonBackend, directories / form, dtype=torch.float32), load(TorchBackend,
                                                                                          directories / form)
    assert (ours.vocabulary, ours.context, ours.block_size, ours.blocks) == (
        reference.vocabulary, reference.context, 16, reference.blocks)
    found, expected = run(ours), run(reference)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.fixture(scope="module")
def half(directories):
    """The int4 model as it comes, in float16, and its logits of the first two steps."""
    model = load(TritonBackend, directories / "int4")
    return model, run(model, 2)


def test_int4_computes_in_half_precision_by_itself(directories, half):
    model, found = half
    assert model.dtype == torch.float16 and model.keys.dtype == torch.float16
    expected = run(load(TorchBackend, directories / "int4"), 2)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


def test_a_row_is_the_same_bits_alone_and_in_chunks_of_any_size(half):
    model, mixed = half
    # (sequence, its chunks now, the row of the mixed steps that ends each, where there is one)
    for sequence, chunks, rows in ((0, (7, 12, 1), (None, 18, 22)), (1, (17,), (36,))):
        start = 0
        for count, row in zip(chunks, rows):
            alone = model.step(*batch([(sequence, start, count)], TABLE), np.array([count - 1]))[0]
            assert row is None or np.array_equal(alone, mixed[row])
            start += count


def test_embed_is_what_the_head_reads(directories):
    model = load(TritonBackend, directories / "chat", dtype=torch.float32)
    arrays = batch(STEPS[0], TABLE)
    rows = np.array([21, 4])
    states = model.embed(*arrays, rows)
    assert states.shape == (2, model.hidden_size) and states.dtype == np.float32
    head = model.head.cpu().double().numpy()
    np.testing.assert_allclose(states.astype(np.float64) @ head.T, model.step(*arrays, rows), rtol=1e-4, atol=1e-4)
    assert model.step(*arrays, np.array([], np.int64)).shape == (0, model.vocabulary)


def test_what_it_cannot_do_is_said_in_one_line(directories, tmp_path):
    model = load(TritonBackend, directories / "chat", dtype=torch.float32)
    with pytest.raises(ModelError, match="LoRA"):
        model.add_adapter(tmp_path)
    with pytest.raises(ModelError, match="LoRA"):
        model.step(*batch([(0, 0, 1)], TABLE), np.array([0]), np.array([0], np.int32))
    with pytest.raises(ModelError, match="not int8"):
        load(TritonBackend, directories / "chat", kv="int8")


@pytest.mark.parametrize("change, message", [
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv", "group_size": 64}}, "gemm"),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope_type 'dynamic'"),
    ({"model_type": "mistral"}, "model_type is 'mistral'"), ({"num_hidden_layers": 3}, "lacks model.layers.2"),
    ({"num_hidden_layers": 1}, "no place for: model.layers.1")])
def test_other_directories_are_refused(directories, tmp_path, change, message):
    shutil.copytree(directories / "int4", tmp_path / "int4")
    config = json.loads((tmp_path / "int4" / "config.json").read_text())
    (tmp_path / "int4" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load(TritonBackend, tmp_path / "int4")


def test_a_torn_file_is_refused(directories, tmp_path):
    shutil.copytree(directories / "chat", tmp_path / "chat")
    (tmp_path / "chat" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="does not load"):
        load(TritonBackend, tmp_path / "chat")
