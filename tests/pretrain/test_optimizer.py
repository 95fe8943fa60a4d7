"""Muon against the singular value decomposition and torch's own; AdamW against torch's own."""

import io

import pytest
import torch
from torch import nn

from tasks.model import ModelParams
from tasks.pretrain import optimizer
from tasks.pretrain.model import scratch
from tasks.pretrain.settings import PretrainParams

VALUES = {
    "tokens": 1000, "sequence": 16, "batch": 2, "optimizer": "muon", "matrix_rate": 0.02, "rate": 0.005,
    "momentum": 0.9, "weight_decay": 0.1, "clip": 1.0, "warmup": 0.1, "decay": 0.5, "precision": "fp32",
    "zero_stage": 0, "score_steps": 10, "score_tokens": 100, "checkpoint_steps": 10,
    "watch": {"spike": 12.0, "rollbacks": 2}, "must_beat": []}
SETTINGS = PretrainParams(**VALUES)
SHAPE = ModelParams(base=None, hidden=64, intermediate=128, layers=2, heads=2, kv_heads=1, head_dim=32, positions=64,
                    rope_theta=10000.0)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 24, 96), (2, 1, 7), (2, 64, 65)])
def test_orthogonalize_is_near_the_polar_factor(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = optimizer.orthogonalize(matrices).float()
    kept = torch.linalg.svdvals(found)
    large = values > 0.05 * values.max()  # five steps lift smaller ones only part of the way
    assert (kept[:, 0] < 1.3).all()
    assert torch.linalg.matrix_norm(found, 2).max() < 1.3
    diagonal = torch.diagonal(left.mT @ found @ right.mT, dim1=-2, dim2=-1)
    assert (diagonal[large] > 0.6).all() and (diagonal < 1.3).all()


def test_the_same_direction_whatever_the_scale():
    matrix = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(2))
    assert torch.equal(optimizer.orthogonalize(matrix), optimizer.orthogonalize(matrix * 2.0**20))
    assert torch.isfinite(optimizer.orthogonalize(torch.zeros(1, 4, 4))).all()


def gradients(parameters, step):
    draw = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def test_muon_walks_with_torchs_own():
    mine, theirs = ([nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(i)))
                     for i, s in enumerate([(8, 24), (24, 8), (24, 8), (8, 8)])] for _ in range(2))
    group = {"params": mine, "use_muon": True, "peak": 1, "lr": 0.02, "weight_decay": 0.1}
    ours = optimizer.MuonAdamW([group], momentum=0.9)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=True)
    for step in range(5):
        for parameters, stepper in ((mine, ours), (theirs, reference)):
            gradients(parameters, step)
            stepper.step()
    for one, other in zip(mine, theirs):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)  # bf16, in another order of products


def test_adamw_walks_with_torchs_own():
    mine, theirs = ([nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(3, 4))] for _ in range(2))
    group = {"params": mine, "use_muon": False, "peak": 1, "lr": 0.01, "weight_decay": 0.1}
    ours = optimizer.MuonAdamW([group], momentum=0.9)
    reference = torch.optim.AdamW(theirs, lr=0.01, betas=optimizer.BETAS, eps=optimizer.EPS, weight_decay=0.1)
    for step in range(6):
        for parameters, stepper in ((mine, ours), (theirs, reference)):
            gradients(parameters, step)
            stepper.step()
    for one, other in zip(mine, theirs):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_the_state_survives_saving():
    def fresh():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))]
        return parameters, optimizer.MuonAdamW(
            [{"params": parameters[:1], "use_muon": True, "peak": 1, "lr": 0.1, "weight_decay": 0.0},
             {"params": parameters[1:], "use_muon": False, "peak": 1, "lr": 0.1, "weight_decay": 0.0}], 0.9)

    parameters, whole = fresh()
    for step in range(4):
        gradients(parameters, step)
        whole.step()
        if step == 1:
            kept = [p.detach().clone() for p in parameters]
            torch.save(whole.state_dict(), saved := io.BytesIO())
    again, resumed = fresh()
    for parameter, value in zip(again, kept):
        parameter.data.copy_(value)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    for step in (2, 3):
        gradients(again, step)
        resumed.step()
    assert all(torch.equal(one, other) for one, other in zip(parameters, again))


def test_the_groups_split_matrices_from_the_rest():
    model = scratch(SHAPE, 300, 0)
    matrices, others = optimizer.groups(model, SETTINGS)
    named = {id(p): name for name, p in model.named_parameters()}
    assert {named[id(p)].split(".")[-2] for p in matrices["params"]} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(matrices["params"]) + len(others["params"]) == len(named)
    assert "model.embed_tokens.weight" in {named[id(p)] for p in others["params"]}


def test_the_rate_warms_up_holds_and_falls_to_zero():
    run = SETTINGS.model_copy(update={"tokens": 100 * 32})
    assert run.steps() == 100
    rates = [run.rate_at(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and set(rates[9:51]) == {1.0}
    assert rates[75] == 0.5 and rates[99] == pytest.approx(0.02)
    assert all(later <= earlier for earlier, later in zip(rates[50:], rates[51:]))
