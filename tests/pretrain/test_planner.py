"""The planner against figures worked by hand from the papers, published sizes, and what torch really keeps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.pretrain import footprint, planner
from tasks.pretrain.footprint import Method, Shape
from tasks.stage import StageError

ROOT = Path(__file__).parents[2]
SEVEN = planner.NAMED["7b"]
GPU = planner.Machine(memory=80 * planner.GIB, flops=1e14, baseline=0.0)
MIX = Method("full", 512, 1, "bf16", attention="flash")


@pytest.mark.parametrize("name, published", [("135m", 134_515_008), ("1b", 1_235_814_400), ("7b", 6_738_415_616),
                                             ("8b", 8_030_261_248), ("70b", 70_553_706_496)])
def test_parameters_are_the_published_ones(name, published):
    assert planner.NAMED[name].parameters == published


@pytest.mark.parametrize("stage, gigabytes", [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_divides_states_as_in_the_papers_first_figure(stage, gigabytes, monkeypatch):
    """Rajbhandari et al. 2020, figure 1: 7.5 billion weights, 64 devices, K = 12."""
    monkeypatch.setattr(footprint, "trained", lambda shape, method: 7_500_000_000)
    kept = footprint.states(SEVEN, replace(MIX, zero=stage), 64)
    assert sum(kept.values()) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_gpt_activations_are_equation_1():
    """Korthikanti et al. 2022: GPT-3 has 5 a s / h = 80, so a layer keeps 114 s b h bytes."""
    assert footprint.gpt_layer_activations(2048, 1, 12288, 96) == 114 * 2048 * 12288


def test_four_bits_and_double_quantization_are_qloras():
    """Dettmers et al. 2023, section 3: 0.127 bits a weight for the constants."""
    assert footprint.NF4_BITS == pytest.approx(4.127, abs=5e-4)
    kept = footprint.states(SEVEN, replace(MIX, kind="qlora", rank=1), 1)
    assert kept["weights"] / 1e9 == pytest.approx(6.476e9 * 4.127 / 8e9 + 2 * 262.4e6 / 1e9, rel=0.01)


def test_adapters_are_counted_as_peft_counts_them():
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Shape(64, 192, 2, 4, 2, 16, 300, True)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True))
    assert sum(p.numel() for p in made.parameters()) == shape.parameters
    adapted = get_peft_model(made, LoraConfig(r=4, target_modules=list(footprint.TARGETS)))
    learning = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert footprint.adapters(shape, Method("lora", 16, 1, rank=4)) == learning


@pytest.mark.parametrize("kind, precision, checkpointing", [
    ("full", "fp32", False), ("full", "autocast", False), ("lora", "fp32", False), ("lora", "autocast", False),
    ("full", "fp32", True), ("qlora", "autocast", False)])
def test_what_autograd_keeps_is_what_is_counted(kind, precision, checkpointing, tmp_path):
    """Bytes of the distinct storages that torch saves for the backward pass of this project's own loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.finetune import lora, training
    from tasks.finetune.masking import Example
    from tasks.finetune.method import prepared
    from tasks.finetune.settings import LoraParams
    from tasks.pretrain import model as models

    shape, method = Shape(128, 352, 3, 4, 2, 32, 512, True), Method(kind, 128, 4, precision, checkpointing)
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=128, tie_word_embeddings=True))
    models.use_products(made)
    if checkpointing:
        made.gradient_checkpointing_enable({"use_reentrant": False})
    low = LoraParams(rank=16, alpha=16.0, targets=list(footprint.TARGETS), max_merge_error=1.0)
    if kind == "lora":
        made = lora.adapt(made, low, [], 0)
    elif kind == "qlora":
        made.save_pretrained(tmp_path)
        made = prepared(tmp_path, kind, low, [], False, 0)
        models.use_products(training.plain(made))
    made.train()
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    rows = torch.randint(0, 512, (4, 128), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            training.loss_of(made, [Example("x", row, [1] * 128) for row in rows], 0)
    # of the logits only the log-probabilities are kept; checkpointing recomputes its one layer later
    counted = footprint.activations(shape, method) + footprint.copies(shape, method)
    counted += footprint.logits(shape, method) / 3
    if kind == "qlora":  # brought to 16 bits where it is used, never kept
        counted -= shape.matrices / shape.layers * 2
    if checkpointing:
        counted -= method.tokens * footprint.layer_activations(shape, method)
    assert sum(size for _, size in kept.values()) == pytest.approx(counted, rel=0.06)


def test_seven_billion_in_eight_gigabytes():
    """Full and LoRA do not fit, QLoRA does, activations and all."""
    machine = planner.Machine(memory=8 * planner.GIB, flops=4e13)
    plans = planner.compare(SEVEN, machine, MIX, 1_000_000)
    best = planner.recommend(plans)
    assert [made.method.kind for made in best] == ["qlora"]
    assert 5 < best[0].peak / planner.GIB < 8
    assert "Full training does not do" in planner.advice(plans, None)
    assert not planner.recommend(planner.compare(SEVEN, replace(machine, memory=4 * planner.GIB), MIX, 1))


def test_offload_moves_the_optimizer_to_the_host_and_needs_it_there():
    method = replace(MIX, offload=True)
    enough = planner.plan(SEVEN, replace(GPU, host_memory=100 * planner.GIB), method)
    assert enough.fits and enough.parts["optimizer"] == 0 and enough.host == 12 * SEVEN.parameters
    lacking = planner.plan(SEVEN, replace(GPU, host_memory=10 * planner.GIB), method)
    assert not lacking.fits and "of the host's 10.0 GiB" in lacking.reason


def test_time_is_work_over_rate():
    """6 operations a weight and token, 8 where activations are recomputed (the head is not)."""
    shape, tokens = replace(SEVEN, layers=32), 1000
    plain = planner.plan(shape, GPU, replace(MIX, sequence=1), tokens)
    assert plain.flops / tokens == pytest.approx(6 * (shape.matrices + shape.table), rel=0.01)
    again = planner.plan(shape, GPU, replace(MIX, sequence=1, checkpointing=True), tokens)
    assert (again.flops - plain.flops) / tokens == pytest.approx(2 * shape.matrices, rel=0.01)
    two = planner.plan(shape, replace(GPU, devices=2, network=1e18), replace(MIX, sequence=1), tokens)
    assert two.seconds == pytest.approx(plain.seconds / 2, rel=0.01)


def test_a_deadline_takes_the_next_method_or_says_so():
    plans = planner.compare(planner.NAMED["135m"], replace(GPU, flops=1e11), replace(MIX, precision="autocast"),
                            100_000)
    full, lora = (next(p.seconds for p in plans if p.method.kind == kind) for kind in ("full", "lora"))
    assert lora < full
    assert [p.method.kind for p in planner.recommend(plans, (lora + full) / 2)][0] == "lora"
    assert planner.recommend(plans, 1) == [] and "Nothing ends in time" in planner.advice(plans, 1)


@pytest.mark.parametrize("change, shown", [
    ({"zero": 4}, "zero = 4"), ({"batch": 0}, "at least 1"), ({"targets": ("x_proj",)}, "no linear layer 'x_proj'"),
    ({"learned": 0.0}, "learned"), ({"kind": "qlora", "zero": 3}, "not divided")])
def test_a_method_that_cannot_be_is_refused(change, shown):
    with pytest.raises(StageError, match=shown):
        planner.plan(SEVEN, GPU, replace(MIX, **change))


def test_a_config_that_is_none_is_refused(tmp_path):
    with pytest.raises(StageError, match="hidden = None"):
        planner.plan({"num_attention_heads": 4}, GPU, MIX)
    (tmp_path / "config.json").write_text("[]")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StageError, match="configuration|no model directory"):
            planner.plan(place, GPU, MIX)


def test_the_command_line(tmp_path):
    def asked(*words):
        return subprocess.run([sys.executable, "-m", "tasks.pretrain.planner", *words], cwd=ROOT, capture_output=True,
                              text=True)
    shown = asked("7b", "--memory", "8", "--flops", "4e13", "--bf16", "--flash")
    assert shown.returncode == 0 and "Take qlora" in shown.stdout, shown.stderr
    assert asked("70b", "--memory", "8").returncode == 1
    wrong = asked(str(tmp_path))
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
