"""Which backend serves a directory, and the refusals."""

import json
import shutil

import numpy as np
import pytest

from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.backend_ort import OrtBackend
from tasks.serve.engine.backend_torch import TorchBackend


def load(directory, **more):
    return backends.load(backends.read_files(directory), threads=1, slots=2, **more)


def test_the_directory_and_the_wish_decide(tiny, monkeypatch):
    assert isinstance(load(tiny / "onnx"), OrtBackend)
    assert isinstance(load(tiny / "int4", backend="torch"), TorchBackend)
    monkeypatch.setenv("CATENA_BACKEND", "torch")
    assert isinstance(load(tiny / "chat"), TorchBackend)
    monkeypatch.setenv("CATENA_BACKEND", "cuda")
    with pytest.raises(ModelError, match="backend 'cuda': choose one of cpu, ort, torch, triton"):
        load(tiny / "chat")


@pytest.mark.parametrize("ends, stops", [(7, {2, 7}), ([0, 2], {0, 2}), (None, {2})])
def test_answers_end_where_either_configuration_says(tiny, tmp_path, ends, stops):
    shutil.copytree(tiny / "chat", tmp_path / "chat")
    (tmp_path / "chat/generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert backends.read_files(tmp_path / "chat").stop_ids == stops


def test_what_cannot_be_is_refused_with_the_remedy(tiny):
    with pytest.raises(ModelError, match="kv 'fp8': choose one of fp32, fp16, int8, int4"):
        load(tiny / "int4", kv="fp8")
    with pytest.raises(ModelError, match="kv int8: ONNX Runtime keeps"):
        load(tiny / "onnx", kv="int8")
    with pytest.raises(ModelError, match="has no model.onnx"):
        load(tiny / "int4", backend="ort")
    with pytest.raises(ModelError, match="no model.safetensors: only ort serves"):
        load(tiny / "onnx", backend="torch")


def test_the_default_is_the_kernels_and_without_a_compiler_the_export(tiny, monkeypatch, capsys):
    cpu = pytest.importorskip("tasks.serve.engine.backend_cpu", reason="no CPU kernels in this checkout")
    from kernels.build import CompilerMissing

    assert isinstance(load(tiny / "int4"), cpu.CpuBackend)

    def missing(*_, **__):
        raise CompilerMissing("no C++ compiler")

    monkeypatch.setattr(cpu.CpuBackend, "__init__", missing)
    assert isinstance(load(tiny / "int4"), OrtBackend)
    assert capsys.readouterr().err.count("\n") == 1
    assert isinstance(load(tiny / "int4", kv="int8"), TorchBackend)
    with pytest.raises(ModelError, match="backend cpu: no C"):
        load(tiny / "int4", backend="cpu")


def test_a_fallback_says_in_one_line_what_serves(tiny, capsys):
    found = backends.without_compiler(backends.read_files(tiny / "int4"), 1, 2, "fp16", "no C++ compiler")
    assert isinstance(found, OrtBackend)
    assert capsys.readouterr().err == (f"{tiny / 'int4'}: no C++ compiler; ONNX Runtime serves {tiny / 'onnx'}\n")
    found = backends.without_compiler(backends.read_files(tiny / "chat"), 1, 2, "fp16", "no C++ compiler")
    assert isinstance(found, TorchBackend) and "torch serves, slowly" in capsys.readouterr().err


@pytest.mark.parametrize("kv, worst", [("int8", 0.02), ("int4", 0.3)])
def test_torch_rounds_keys_and_values_as_asked(tiny, kv, worst):
    """The logits move, by as much as so many bits may; the tokens after the rounded past are the point."""
    tokens = np.random.default_rng(0).integers(4, 270, 60)
    rows = []
    for kind in ("fp16", kv):
        backend = load(tiny / "int4", backend="torch", kv=kind)
        table = np.arange(4, dtype=np.int32)[None]
        rows.append(backend.step(tokens, np.arange(60), np.zeros(60, np.int64), table, np.arange(60)))
    moved = np.sqrt(((rows[1] - rows[0]) ** 2).mean() / rows[0].var())
    assert 0 < moved < worst


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_a_model_of_another_family_is_refused_and_never_served_without_its_norms(tiny, tmp_path, backend, family):
    shutil.copytree(tiny / "chat", tmp_path / "chat")
    config = json.loads((tmp_path / "chat/config.json").read_text())
    (tmp_path / "chat/config.json").write_text(json.dumps(config | {"model_type": family}))
    with pytest.raises(ModelError, match=f"model_type is '{family}': .* model.qk_norm: false and model.sliding_window"):
        load(tmp_path / "chat", backend=backend)
