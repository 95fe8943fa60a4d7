"""The exported graph, run by plain onnxruntime, against transformers on the dequantized weights."""

import hashlib
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from tasks.quantize import export as exporting
from tasks.quantize import compressed, formats, gguf_file, onnx_file, onnx_graph, parity
from tasks.stage import StageError
from tests.serve import tiny as making


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def made(request, tmp_path_factory):
    torch.set_num_threads(1)
    return making.write_all(tmp_path_factory.mktemp("export"), tied=request.param)


def run_plain(path, config, tokens, past=None):
    """Logits of every position and the new keys and values, from an ordinary session and an ordinary feed."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = (1, config["num_key_value_heads"], 0, config["hidden_size"] // config["num_attention_heads"])
    length = len(tokens) + (past[0].shape[2] if past else 0)
    feed = {"input_ids": tokens[None], "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32), "logit_rows": np.arange(len(tokens))}
    for i in range(2 * config["num_hidden_layers"]):
        name = f"past_key_values.{i // 2}.{('key', 'value')[i % 2]}"
        feed[name] = past[i] if past else np.zeros(shape, np.float32)
    logits, *present = session.run(None, feed)
    return logits, present


def test_logits_are_the_dequantized_models(made):
    """Rounded activations cost a little; with weights that differ by one code a layer it would cost far more."""
    config = json.loads((made / "onnx/config.json").read_text())
    tokens = np.arange(20, 60)
    found, _ = run_plain(made / "onnx/model.onnx", config, tokens)
    with torch.no_grad():
        expected = formats.load_dequantized(made / "int4")(torch.from_numpy(tokens)[None]).logits[0].numpy()
    spread = expected.std()
    assert np.abs(found - expected).mean() < 0.05 * spread
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.85


def test_decode_continues_prefill(made):
    config = json.loads((made / "onnx/config.json").read_text())
    tokens = np.arange(20, 44)
    whole, _ = run_plain(made / "onnx/model.onnx", config, tokens)
    _, past = run_plain(made / "onnx/model.onnx", config, tokens[:-1])
    last, _ = run_plain(made / "onnx/model.onnx", config, tokens[-1:], past)
    assert np.abs(last[0] - whole[-1]).max() < 0.2 * whole.std()
    assert last[0].argmax() == whole[-1].argmax()


def test_same_bytes_twice(made, tmp_path):
    exporting.export(made / "int4", made / "held_out.jsonl", tmp_path / "onnx", tmp_path / "compressed",
                     tmp_path / "gguf", tmp_path / "m.json", export=making.LOOSE, runtime=making.RUNTIME)
    for file in (made / "onnx").iterdir():
        assert file.read_bytes() == (tmp_path / "onnx" / file.name).read_bytes(), file.name
    assert (made / "export.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    sums = json.loads((made / "onnx/manifest.json").read_text())["sha256"]
    assert sums["model.onnx"] == hashlib.sha256((made / "onnx/model.onnx").read_bytes()).hexdigest()


def test_the_gate_fails_with_number_and_limit(made, tmp_path):
    tight = exporting.ExportParams(documents=4, tokens=32, min_top1=1.0, max_kl=1e-9)
    with pytest.raises(StageError, match=r"KL 0\.\d+ \(at most 1e-09\)"):
        exporting.export(made / "int4", made / "held_out.jsonl", tmp_path / "onnx", tmp_path / "compressed",
                     tmp_path / "gguf", tmp_path / "m.json", export=tight, runtime=making.RUNTIME)


@pytest.mark.parametrize("form", ["onnx", "compressed", "gguf"])
def test_the_gate_sees_a_wrong_weight(made, tmp_path, form):
    """Another weight than the reference's: one projection's zero points moved by one."""
    stored = formats.read(made / "int4")
    stored.linears["model.layers.1.mlp.down_proj"].zero.add_(1)
    shutil.copytree(made / form, tmp_path / form)
    config = json.loads((made / "onnx/config.json").read_text())
    if form == "onnx":
        onnx_file.save(onnx_file.graph_of(stored), tmp_path / "onnx/model.onnx")
    elif form == "compressed":
        compressed.write_int4(stored, tmp_path / "compressed")
    else:
        gguf_file.write(stored, made / "int4", tmp_path / "gguf/model.gguf")

    def read(root):
        return {"onnx": lambda: onnx_file.reader(root / "onnx/model.onnx", config, 1),
                "compressed": lambda: parity.compressed_reader(root / "compressed"),
                "gguf": lambda: parity.transformers_reader(root / "gguf", gguf_file="model.gguf")}[form]()

    texts = [np.arange(20, 60)]
    expected = [parity.log_probabilities(formats.load_dequantized(made / "int4"), texts[0])]
    right, wrong = (parity.compare(read(root), expected, texts) for root in (made, tmp_path))
    assert wrong["kl"] > 5 * right["kl"] and wrong["kl"] > 1e-3


def test_external_data_beyond_the_protobuf_limit(made, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PROTOBUF_LIMIT", 1000)
    onnx_file.save(onnx_file.graph_of(formats.read(made / "int4")), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > (tmp_path / "model.onnx").stat().st_size
    config = json.loads((made / "onnx/config.json").read_text())
    one, _ = run_plain(tmp_path / "model.onnx", config, np.arange(20, 30))
    other, _ = run_plain(made / "onnx/model.onnx", config, np.arange(20, 30))
    assert (one == other).all()


@pytest.mark.parametrize("harm, message", [
    (lambda d: (d / "model.safetensors").write_bytes(b"torn"), "no readable int4"),
    (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json"),
    (lambda d: (d / "config.json").write_text("{}"), "AutoAWQ"),
])
def test_bad_input_is_one_line(made, tmp_path, harm, message):
    shutil.copytree(made / "int4", tmp_path / "int4")
    harm(tmp_path / "int4")
    with pytest.raises(StageError, match=message):
        exporting.export(tmp_path / "int4", made / "held_out.jsonl", tmp_path / "onnx", tmp_path / "compressed",
                     tmp_path / "gguf", tmp_path / "m.json", export=making.LOOSE, runtime=making.RUNTIME)


def test_a_torn_held_out_line(made, tmp_path):
    (tmp_path / "held_out.jsonl").write_text('{"text": "whole"}\n{"text": "to')
    with pytest.raises(StageError, match="no document"):
        exporting.export(made / "int4", tmp_path / "held_out.jsonl", tmp_path / "onnx", tmp_path / "compressed",
                     tmp_path / "gguf", tmp_path / "m.json", export=making.LOOSE, runtime=making.RUNTIME)


def test_eight_bits_round_to_the_nearest():
    weight = np.random.default_rng(0).normal(size=(6, 128)).astype(np.float32)
    codes = onnx_graph.eight_bits(weight, 64)
    error = np.abs(codes.dequantized() - weight).reshape(6, 2, 64)
    assert (error <= codes.scales[..., None] * 0.501).all()


def test_nibbles_pack_the_even_code_low():
    codes = np.array([[1, 2, 15, 0, 7]], np.uint8)
    assert nibbles_back(onnx_graph.nibbles(codes))[:5] == [1, 2, 15, 0, 7]


def nibbles_back(packed):
    return [code for byte in packed[0].tolist() for code in (byte % 16, byte // 16)]
