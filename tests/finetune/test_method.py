"""Every method's merge: the plain model that is written computes what the adapted one did, worked out apart."""

import json

import pytest
import torch

from tasks.finetune import checkpoint, method, training
from tasks.finetune.masking import Example
from tasks.finetune.settings import LoraParams, TrainingParams
from tasks.pretrain.best import Best
from tasks.stage import StageError

LORA = LoraParams(rank=4, alpha=8.0, targets=["q_proj", "o_proj", "up_proj", "down_proj"], max_merge_error=1e-3)
PROBE = torch.arange(4, 64).view(2, 30)


def stirred(model):
    """Every trained weight moved, as training would."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.03)
    return model


def by_hand(trained, base, dora):
    """Each adapted matrix by the papers' formulas in double: W + s B A, with DoRA m (W + s B A) / |W + s B A| by row."""
    weights = checkpoint.load_model(base).state_dict()
    found = dict(trained.named_parameters())
    for name in [name for name in found if name.endswith("lora_A.default.weight")]:
        part = name.removesuffix("lora_A.default.weight")
        own = part.removeprefix("base_model.model.") + "weight"
        whole = weights[own].double() + LORA.alpha / LORA.rank * (
            found[f"{part}lora_B.default.weight"].double() @ found[name].double())
        if dora:
            length = found[f"{part}lora_magnitude_vector.default.weight"].double()
            whole = whole * (length / whole.norm(dim=1))[:, None]
        weights[own] = whole.detach()
    return weights


@pytest.mark.parametrize("kind", ["lora", "dora", "qlora"])
@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_the_merged_weights_are_the_papers(base, kind, rows):
    trained = stirred(method.prepared(base, kind, LORA, rows, False, 0))
    expected = by_hand(trained, base, kind == "dora")
    learned = [weight.detach().clone() for name, weight in trained.named_parameters() if "trainable_tokens" in name]
    model, moved = method.merged(trained, base, kind, LORA, PROBE)
    state = model.state_dict()
    assert moved["merge_error"] <= 1e-5 and state.keys() == checkpoint.load_model(base).state_dict().keys()
    for name, weight in state.items():
        if "embed_tokens" not in name and "lm_head" not in name:
            assert weight.dtype == torch.float32
            assert torch.allclose(weight.double(), expected[name].double(), atol=1e-6)
    assert all(torch.equal(state["model.embed_tokens.weight"][rows], one) for one in learned[:1])
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_merged_model_computes_what_the_adapted_one_did(base, kind):
    trained = stirred(method.prepared(base, kind, LORA, [1, 2], False, 0)).eval()
    with torch.no_grad():
        before = trained(PROBE).logits
        untouched = checkpoint.load_model(base)(PROBE).logits
        model, moved = method.merged(trained, base, kind, LORA, PROBE)
        after = model(PROBE).logits
    assert torch.allclose(before, after, atol=1e-4) and (before - untouched).abs().max() > 0.1


def test_qloras_merge_leaves_the_four_bits_behind_and_says_by_how_much(base):
    """Written out in full, the 4-bit weights with the adapters compute what was trained; the merge stands on others."""
    import bitsandbytes

    trained = stirred(method.prepared(base, "qlora", LORA, [], False, 0)).eval()
    with torch.no_grad():
        before = trained(PROBE).logits
    twin = checkpoint.load_model(base)
    found = dict(trained.named_parameters())
    with torch.no_grad():
        for name, module in trained.named_modules():
            layer = getattr(module, "base_layer", module)
            if isinstance(layer, bitsandbytes.nn.Linear4bit) and not name.endswith("base_layer"):
                whole = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
                if hasattr(module, "lora_A"):
                    whole += LORA.alpha / LORA.rank * (found[f"{name}.lora_B.default.weight"] @
                                                       found[f"{name}.lora_A.default.weight"])
                twin.get_submodule(name.removeprefix("base_model.model.")).weight.copy_(whole)
        same = (twin(PROBE).logits - before).abs().max().item()
        model, moved = method.merged(trained, base, "qlora", LORA, PROBE)
        away = (model(PROBE).logits - before).abs().max().item()
    assert moved["rounding_error"] == pytest.approx(away, rel=1e-3) and away > 5 * same


def test_full_trains_every_weight_and_merging_is_nothing(base):
    made = method.prepared(base, "full", LORA, [], False, 0)
    assert all(weight.requires_grad for weight in made.parameters())
    assert method.merged(made, base, "full", LORA, PROBE) == (made, {"merge_error": 0.0})


def test_doras_lengths_are_adamws(base):
    trained = method.prepared(base, "dora", LORA, [], False, 0)
    given = TrainingParams(epochs=1, batch=2, drill_batch=2, matrix_rate=0.01, learning_rate=0.01, warmup=0.0, clip=1.0,
                           precision="fp32", keep_every=9)
    muon, adamw = training.optimizer_of(trained, given).param_groups
    assert {weight.ndim for weight in muon["params"]} == {2} and {weight.ndim for weight in adamw["params"]} == {1}
    assert len(adamw["params"]) == 2 * len(LORA.targets)


def test_another_architecture_and_missing_weights_are_one_line(base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(StageError, match=r"lacks \d+ of the model's weights, model.layers.2"):
        method.prepared(base, "lora", LORA, [], False, 0)
    (base / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    for kind in ("full", "lora", "dora", "qlora"):
        with pytest.raises(StageError, match="holds a 'qwen2' model; this chain handles 'llama' only"):
            method.prepared(base, kind, LORA, [], False, 0)


@pytest.mark.parametrize("kind", ["full", "lora", "dora"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_resumed_run_draws_the_same_noise(base, tmp_path, kind, packed):
    """Cut after the checkpoint at step 2, resumed from a fresh model: the same losses, to the bit."""
    draw = torch.Generator().manual_seed(1)
    examples = [Example("x", torch.randint(4, 200, (n,), generator=draw).tolist(), [0] * 3 + [1] * (n - 3))
                for n in (9, 14, 11, 20, 8, 13, 16, 10)]
    given = TrainingParams(epochs=1, batch=2, drill_batch=2, matrix_rate=0.01, learning_rate=0.01, warmup=0.0, clip=1.0,
                           precision="fp32", keep_every=2, neftune_alpha=5.0, packed=packed)

    def steps(folder, stop=None, **changed):
        model = method.prepared(base, kind, LORA, [], False, 0)
        found = []
        now = given.model_copy(update=changed)
        for step, _, loss in training.train(model, examples, now, 3, 7, folder, [], Best(None)):
            found.append(loss)
            if step == stop:
                break
        return found

    whole = steps(tmp_path / "whole")
    cut = steps(tmp_path / "cut", stop=2)
    assert cut == whole[:3] and steps(tmp_path / "cut") == whole
    assert steps(tmp_path / "none", neftune_alpha=None) != whole
