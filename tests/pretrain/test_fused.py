"""The fused step against the stock model's under autograd: the same loss and gradients, the same model afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from kernels.compiler import CompilerMissing
from tasks.model import ModelParams
from tasks.pretrain import fused, model as models
from tasks.stage import StageError

SHAPE = ModelParams(base=None, hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, head_dim=32, positions=64,
                    rope_theta=10000.0)
IDS = torch.randint(0, 300, (3, 34), generator=torch.Generator().manual_seed(2))


def made() -> LlamaForCausalLM:
    """A model of which every block counts."""
    model = models.scratch(SHAPE, 300, 1).train()
    draw = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    models.use_products(model)
    return model


def stepped(installed: bool, bf16: bool, **more: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and every gradient of one step."""
    model = made()
    if installed:
        fused.install(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = fused.loss(model, {"input_ids": IDS[:, :-1]} | more, IDS[:, 1:])
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in other)


def test_the_loss_and_gradients_are_the_stock_ones():
    exact, ours = stepped(False, False), stepped(True, False)
    torch.testing.assert_close(ours[0], exact[0], rtol=1e-6, atol=1e-6)
    assert apart(ours[1], exact[1]) < 1e-5


def test_documents_that_keep_to_themselves_are_as_the_stock_model_reads_them():
    starts = torch.tensor([[0, 0, 0], [9, 20, 9], [25, 20, 30]])   # of each row's documents
    places = torch.arange(33).expand(3, 33)
    begun = torch.stack([torch.where(places[row] >= starts[:, row, None], starts[:, row, None], 0).amax(0)
                         for row in range(3)])
    exact, ours = (stepped(installed, False, position_ids=places - begun) for installed in (False, True))
    torch.testing.assert_close(ours[0], exact[0], rtol=1e-6, atol=1e-6)
    assert apart(ours[1], exact[1]) < 1e-5
    assert abs(ours[0] - stepped(True, False)[0]) > 1e-3   # they do see less


def test_in_bf16_it_is_as_near_to_fp32_as_autocast_is():
    exact, stock, ours = stepped(False, False), stepped(False, True), stepped(True, True)
    assert abs(ours[0] - exact[0]) < 2e-3
    assert apart(ours[1], exact[1]) < 1.25 * apart(stock[1], exact[1])


def test_two_steps_from_one_state_give_the_same_bits():
    one, other = stepped(True, True), stepped(True, True)
    assert torch.equal(one[0], other[0]) and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_accumulated_losses_scale_their_gradients():
    model = made()
    fused.install(model)
    whole = torch.autograd.grad(fused.loss(model, {"input_ids": IDS[:, :-1]}, IDS[:, 1:]), list(model.parameters()))
    half = torch.autograd.grad(fused.loss(model, {"input_ids": IDS[:, :-1]}, IDS[:, 1:]) / 2, list(model.parameters()))
    for one, other in zip(whole, half):
        torch.testing.assert_close(one / 2, other, rtol=1e-5, atol=1e-7)


def test_evaluation_and_what_is_saved_stay_the_stock_ones(tmp_path):
    model, stock = made(), made().eval()
    fused.install(model)
    model.eval()
    assert torch.equal(model(IDS).logits, stock(IDS).logits)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM
    assert all(torch.equal(one, other) for one, other in zip(loaded.state_dict().values(), stock.state_dict().values()))


def test_only_the_llama_it_knows_fits():
    model = made()
    assert fused.fits(model)
    for key, value in (("hidden_act", "gelu"), ("attention_bias", True), ("attention_dropout", 0.1)):
        other = made()
        setattr(other.config, key, value)
        assert not fused.fits(other)
    assert not fused.fits(nn.Linear(1, 1))


def test_without_a_compiler_it_says_so(monkeypatch):
    def missing() -> None:
        raise CompilerMissing("no C++ compiler: install g++")

    monkeypatch.setattr(fused, "load", missing)
    with pytest.raises(StageError, match="training on a CPU builds its kernels first: no C.. compiler: install g.."):
        fused.install(made())


@pytest.mark.parametrize("places", [[5], [0, 33]])
def test_no_token_sees_a_later_one(places):
    model = made()
    fused.install(model)
    ids = IDS.clone()
    ids[:, places] = 7
    first = min(places)
    with torch.no_grad():
        one, other = (model(input_ids=x, use_cache=False).logits for x in (IDS, ids))
    assert torch.equal(one[:, :first], other[:, :first]) and not torch.equal(one[:, first:], other[:, first:])
