"""The CPU backend against transformers and the torch backend: logits, states, ragged batches, bits, adapters, faults."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from kernels import build
from kernels.linear import pack
from kernels.norm import reference as norm
from kernels.step.session import Session, Shape, Weights
from tasks.serve.engine import backend
from tasks.serve.engine.directory import ModelError
from tests.serve import tiny as making

try:
    build.library()
except build.CompilerMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

from tasks.serve.engine.backend_cpu import CpuBackend  # noqa: E402
from tasks.serve.engine.backend_torch import TorchBackend  # noqa: E402

SLOTS = 4


def opened(directory, threads=2, kv="fp16"):
    return CpuBackend(backend.read_files(directory), threads=threads, slots=SLOTS, kv=kv)


def table(runner):
    """Blocks of the sequences, interleaved so that no sequence's lie side by side."""
    return np.arange(runner.blocks, dtype=np.int32).reshape(-1, SLOTS).T.copy()


def ragged(runner, parts, rows=None, **more):
    """One step of (sequence, first position, tokens) parts; logits of `rows`, all by default."""
    tokens = np.concatenate([tokens for _, _, tokens in parts])
    positions = np.concatenate([np.arange(start, start + len(tokens)) for _, start, tokens in parts])
    sequences = np.concatenate([np.full(len(tokens), sequence) for sequence, _, tokens in parts])
    rows = np.arange(len(tokens)) if rows is None else rows
    return runner.step(tokens, positions, sequences, table(runner), rows, **more)


def prompt(length, seed=0, vocabulary=300):
    return np.random.default_rng(seed).integers(0, vocabulary, length)


def transformers_logits(model, tokens):
    with torch.inference_mode():
        return model(torch.from_numpy(tokens)[None]).logits[0].double().numpy()


@pytest.mark.parametrize("isa", ["avx512", "avx2", "scalar"])
def test_floating_directory_is_transformers(tmp_path, monkeypatch, isa):
    monkeypatch.setenv("CATENA_ISA", isa)
    model = making.write_chat(tmp_path, tied=False)
    runner, tokens = opened(tmp_path), prompt(70)
    wanted = transformers_logits(model, tokens)
    found = ragged(runner, [(1, 0, tokens)])
    assert np.abs(found - wanted).max() < 4e-3 * np.abs(wanted).max()  # keys and values are fp16
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.98
    runner.close()


@pytest.mark.parametrize("heads, kv_heads, head_dim, hidden, inner", [(3, 1, 32, 102, 150), (4, 4, 16, 64, 72),
                                                                      (6, 2, 48, 90, 33)])
def test_odd_shapes_are_transformers(tmp_path, heads, kv_heads, head_dim, hidden, inner):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=77, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=64, initializer_range=0.15,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0})).eval()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    shutil.copyfile(making_tokenizer(tmp_path), tmp_path / "tokenizer.json")
    tokens = prompt(40, vocabulary=77)
    wanted = transformers_logits(LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval(), tokens)
    found = ragged(opened(tmp_path), [(0, 0, tokens)])
    assert np.abs(found - wanted).max() < 4e-3 * np.abs(wanted).max()


def making_tokenizer(directory):
    path = directory / "words.json"
    making.tokenizer().save(str(path))
    return path


def test_int4_directory_is_near_its_dequantized_model(tiny):
    tokens = prompt(60)
    wanted = ragged(TorchBackend(backend.read_files(tiny / "int4"), threads=1, slots=SLOTS), [(2, 0, tokens)])
    found = ragged(opened(tiny / "int4"), [(2, 0, tokens)])
    difference = np.sqrt(np.square(found - wanted).mean()) / wanted.std()
    assert difference < 0.05  # int8 activations and an int8 head
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("kind", ["chat", "int4"])
@pytest.mark.parametrize("kv", ["fp16", "int8"])
def test_a_row_depends_on_nothing_else_in_the_batch(tiny, kind, kv):
    """The same bits alone or mixed with others, in one chunk or token by token, on one, two or three threads."""
    first, second, third = prompt(37, 1), prompt(50, 2), prompt(9, 3)
    runner = opened(tiny / kind, threads=1, kv=kv)
    alone = [ragged(runner, [(i, 0, tokens)]) for i, tokens in enumerate((first, second, third))]
    for threads in (1, 2, 3):
        runner = opened(tiny / kind, threads=threads, kv=kv)
        ragged(runner, [(0, 0, first[:20])])
        mixed = ragged(runner, [(2, 0, third), (0, 20, first[20:36]), (1, 0, second[:31])])
        assert np.array_equal(mixed, np.concatenate([alone[2], alone[0][20:36], alone[1][:31]]))
        mixed = ragged(runner, [(0, 36, first[36:]), (1, 31, second[31:])], rows=np.array([19, 0]))
        assert np.array_equal(mixed, np.stack([alone[1][-1], alone[0][-1]]))
        one_by_one = np.concatenate([ragged(runner, [(3, i, third[i:i + 1])]) for i in range(len(third))])
        assert np.array_equal(one_by_one, alone[2])
        runner.close()


@pytest.mark.parametrize("kv", ["fp16", "int4"])
def test_a_long_sequence_shared_by_threads_has_the_bits_of_one(tiny, kv):
    """Alone on two or more threads its segments of 256 positions are computed apart; beside others, or on one, not."""
    tokens, others = prompt(500, 5), [prompt(500, seed) for seed in (6, 7, 8)]
    single = opened(tiny / "int4", threads=1, kv=kv)
    whole = ragged(single, [(1, 0, tokens)])
    for threads in (2, 3, 5):
        runner = opened(tiny / "int4", threads=threads, kv=kv)
        chunks = [ragged(runner, [(1, at, tokens[at:end])]) for at, end in ((0, 200), (200, 301), (301, 480))]
        decoded = [ragged(runner, [(1, at, tokens[at:at + 1])]) for at in range(480, 490)]
        ragged(runner, [(sequence, 0, given[:490]) for sequence, given in zip((0, 2, 3), others)])
        decoded += [ragged(runner, [(1, at, tokens[at:at + 1]), *((sequence, at, given[at:at + 1]) for sequence, given
                                                                  in zip((0, 2, 3), others))])[:1]
                    for at in range(490, 495)]
        assert np.array_equal(np.concatenate([*chunks, *decoded]), whole[:495])
        runner.close()


def test_embeddings_are_the_last_states(tiny):
    model_rows, tokens = np.array([5, 0]), prompt(12)
    torch_backend = TorchBackend(backend.read_files(tiny / "chat"), threads=1, slots=SLOTS)
    where = tokens, np.arange(12), np.zeros(12, np.int64)
    wanted = torch_backend.embed(*where, table(torch_backend), model_rows)
    runner = opened(tiny / "chat")
    found = runner.embed(*where, table(runner), model_rows)
    assert found.shape == (2, runner.hidden_size) and np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("hidden", [16, 100, 576])
def test_norm_is_float64s(hidden):
    """A model whose one layer is all zeros: its states are the last norm of the embedding."""
    rng = np.random.default_rng(hidden)
    embedding = (rng.standard_normal((9, hidden)) * 10.0 ** rng.integers(-4, 4, (9, 1))).astype(np.float32)
    weight = rng.standard_normal((3, hidden)).astype(np.float32)
    zeros = [pack.pack(np.zeros(shape, np.float32))
             for shape in ((48, hidden), (hidden, 16), (32, hidden), (hidden, 16))]
    session = Session(Shape(9, hidden, 16, 1, 1, 1, 16, 16, 1e-5, 1e4),
                      Weights(embedding, pack.FP32, weight, [*zeros, pack.pack(embedding)]),
                      threads=1, blocks=1, kv_kind=16)
    found = session.step(np.arange(9), np.arange(9), np.zeros(9, int), np.zeros((1, 1), int), np.arange(9), states=True)
    wanted = norm.rms_norm(torch.from_numpy(embedding), torch.from_numpy(weight[2]), 1e-5).numpy()
    assert np.abs(found - wanted).max() < 2e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("linears", ["all-linear", ["q_proj", "down_proj"], ["up_proj", "v_proj"]])
@pytest.mark.parametrize("kind", ["chat", "int4"])
def test_adapters_side_by_side(tiny, tmp_path, linears, kind):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(3)
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(tiny / "chat"), LoraConfig(
        r=5, lora_alpha=20, target_modules=linears, init_lora_weights=False, task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path)
    files, tokens = backend.read_files(tiny / kind), prompt(30, 4)
    runner, wanted = opened(tiny / kind), TorchBackend(files, threads=1, slots=SLOTS)
    assert runner.add_adapter(tmp_path) == wanted.add_adapter(tmp_path) == 0
    parts = [(0, 0, tokens), (1, 0, tokens[:11]), (3, 0, tokens)]
    used = np.array([0, -1, 0, -1], np.int32)
    plain = ragged(runner, parts)
    found, right = ragged(runner, parts, adapters=used), ragged(wanted, parts, adapters=used)
    tolerance = 0.004 if kind == "chat" else 0.05
    assert np.sqrt(np.square(found - right).mean()) < tolerance * right.std()
    assert np.array_equal(found[30:], plain[30:]) and np.abs(found[:30] - plain[:30]).max() > 0.1 * plain.std()


def test_int8_directory(tiny, tmp_path):
    """compressed-tensors' int-quantized: int8 rows with one scale each."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny / "chat" / "model.safetensors")
    plain, stored = dict(tensors), {}
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            scale = weight.abs().amax(1, keepdim=True).half().float() / 128
            scale = scale.half().float()
            stored[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
            stored[name + "_scale"] = scale
            plain[name] = stored[name].float() * scale
        else:
            stored[name] = weight
    for folder, content, more in (("plain", plain, {}), ("int8", stored, {"quantization_config": {
            "quant_method": "compressed-tensors", "format": "int-quantized"}})):
        shutil.copytree(tiny / "chat", tmp_path / folder)
        save_file(content, tmp_path / folder / "model.safetensors")
        config = json.loads((tmp_path / folder / "config.json").read_text()) | more
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    tokens = prompt(40)
    wanted, found = (ragged(opened(tmp_path / folder), [(0, 0, tokens)]) for folder in ("plain", "int8"))
    assert np.sqrt(np.square(found - wanted).mean()) < 0.05 * wanted.std()


@pytest.mark.parametrize("change, words", [
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters .* type default"),
    ({"attention_bias": True}, "attention_bias is True"), ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"), ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
    ({"head_dim": 24}, "head_dim is 24"), ({"intermediate_size": None}, "intermediate_size is None"),
    ({"intermediate_size": 200}, "gate_proj.weight is .* config.json asks for"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is 'gptq' of 4 bits")])
def test_refused_configs_name_the_key(tiny, tmp_path, change, words):
    shutil.copytree(tiny / "chat", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=words):
        opened(tmp_path / "model")


@pytest.mark.parametrize("change, words", [
    ({"tokens": [10 ** 6, 1]}, "tokens must lie in 0"), ({"tokens": [-1, 1]}, "tokens must lie in 0"),
    ({"positions": [0]}, "2 tokens but 1 positions"), ({"positions": [0, 2]}, "must rise one by one"),
    ({"positions": [511, 512]}, "positions must lie in 0..511"), ({"sequences": [0, 9]}, "sequences must lie in"),
    ({"rows": [2]}, "rows must lie in 0..1"), ({"tokens": [0.5, 1.0]}, "tokens must be 1-dimensional integers"),
    ({"table": [[10 ** 6] * 32]}, "block_table of sequence 0"), ({"table": [0]}, "block_table must be 2-dim"),
    ({"adapters": [7]}, "adapters must be 1 numbers")])
def test_bad_steps_are_refused_and_harm_nothing(tiny, change, words):
    runner = opened(tiny / "int4")
    given = {"tokens": [3, 4], "positions": [0, 1], "sequences": [0, 0], "table": [list(range(32))], "rows": [0, 1],
             "adapters": None}
    right = runner.step(*(np.array(given[key]) for key in list(given)[:5]))
    given |= change
    with pytest.raises(ValueError, match=words):
        runner.step(*(np.array(given[key]) for key in list(given)[:5]),
                    None if given["adapters"] is None else np.array(given["adapters"]))
    given = {"tokens": [3, 4], "positions": [0, 1], "sequences": [0, 0], "table": [list(range(32))], "rows": [0, 1]}
    assert np.array_equal(runner.step(*map(np.array, given.values())), right)


def test_idle_threads_sleep(tiny):
    import time

    import psutil

    runner = opened(tiny / "int4", threads=3)
    ragged(runner, [(0, 0, prompt(5))])
    spent = []
    while len(spent) < 10 and min(spent, default=1) >= 0.05:  # another thread of this process may have work of its own
        before = sum(psutil.Process().cpu_times()[:2])
        time.sleep(0.5)
        spent.append(sum(psutil.Process().cpu_times()[:2]) - before)
    assert min(spent) < 0.05
    runner.close()
