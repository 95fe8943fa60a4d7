"""AWQ: folded scales change nothing in full precision, each step lowers the error it is meant to lower."""

import copy
import json

import pytest
import torch

from tasks.finetune import checkpoint
from tasks.params import Runtime
from kernels.int4 import reference as rounding
from tasks.quantize import formats, gate, layers, refine, search
from tasks.quantize import awq as stage_module
from tasks.quantize.compensate import compensated, inverse_factor
from tasks.quantize.settings import GateParams, QuantizeParams
from tasks.stage import StageError

from tests.finetune.conftest import byte_tokenizer
from tests.quantize.test_formats import small_llama

GATE = GateParams(windows=4, max_perplexity_ratio=1.5, min_agreement=0.2)
QUANTIZE = QuantizeParams(group=32, languages=["en"], windows=4, length=48, scales=8, clips=5, narrowest=0.6,
                          damping=0.01, gate=GATE)
RUNTIME = Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=1, api_key=None,
                  log_level="INFO", hostfile=None)


def outlier_layer(seed=0):
    """A weight [48, 128] and inputs [400, 128] of which a few channels are thirty times the others, and correlated."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(48, 128, generator=draw) * 0.05
    rows = torch.randn(400, 128, generator=draw) @ (torch.eye(128) + 0.1 * torch.randn(128, 128, generator=draw))
    rows[:, ::17] *= 30
    return weight, rows, search.Inputs.of(rows)


def error(rows, weight, other):
    """Mean squared output error, by the outputs themselves."""
    return ((rows @ other.T - rows @ weight.T) ** 2).sum(1).mean().item()


def test_the_gram_matrix_gives_the_output_error():
    weight, rows, inputs = outlier_layer()
    other = search.rounded(weight, 32)
    assert search.output_error(other - weight, inputs.gram).item() == pytest.approx(error(rows, weight, other), rel=1e-3)


def test_each_step_beats_the_one_before_on_outlier_channels():
    weight, rows, inputs = outlier_layer()
    nearest = error(rows, weight, search.rounded(weight, 32))
    scale = search.channel_scales(weight, inputs, 32, 10)
    scaled, seen = weight * scale, inputs.divided(scale)
    awq = error(rows, weight, search.rounded(scaled, 32) / scale)
    step, zero = search.clipped_grid(scaled, seen.gram, 32, 8, 0.6)
    levels = rounding.quantize(rounding.split(scaled, 32), step[..., None], zero[..., None]).flatten(-2)
    clipped = error(rows, weight, rounding.dequantize(levels, step, zero) / scale)
    handed_on = error(rows, weight, rounding.dequantize(compensated(scaled, seen.gram, step, zero, 0.01), step, zero)
                      / scale)
    assert awq < 0.5 * nearest and clipped < awq and handed_on < 0.7 * clipped


def test_without_correlation_handing_on_is_plain_rounding():
    weight, _, _ = outlier_layer()
    groups = rounding.split(weight, 32)
    step, zero = rounding.grid(groups.amin(-1), groups.amax(-1))
    plain = rounding.quantize(rounding.split(weight, 32), step[..., None], zero[..., None]).flatten(-2)
    assert torch.equal(compensated(weight, torch.eye(128), step, zero, 0.01).float(), plain)


def test_one_point_searches_nothing():
    weight, _, inputs = outlier_layer()
    assert torch.equal(search.channel_scales(weight, inputs, 32, 1), torch.ones(128))
    step, zero = search.clipped_grid(weight, inputs.gram, 32, 1, 0.5)
    q, scale, middle = rounding.round_nearest(weight, 32)
    assert torch.equal(step.half(), scale) and torch.equal(zero.to(torch.uint8), middle)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_scales_folded_into_the_maker_leave_the_logits(heads):
    """`walk` divides the input of a reader; with columns multiplied and the maker divided, nothing changes."""
    model = small_llama(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(4)
    tie, head_dim = heads[0] // heads[1], model.config.head_dim

    def treat(_number, layer, source, rows):
        scale = torch.rand(rows.shape[1], generator=draw) * 4 + 0.2
        if source == "output":  # query heads that read one value head share its scales
            scale = scale.view(-1, tie, head_dim)[:, :1].expand(-1, tie, -1).reshape(-1)
        divisor = search.untie(scale, tie if source == "output" else 1, head_dim)
        for name in layers.READERS[source]:
            layer.get_submodule(name).weight.mul_(scale)
        maker = layer.get_submodule(layers.MAKERS[source]).weight
        maker.div_(divisor if maker.dim() == 1 else divisor[:, None])
        return scale

    with torch.no_grad():
        before = model(ids).logits
        layers.walk(model, ids, treat)
        assert torch.allclose(before, model(ids).logits, atol=1e-5)


def test_a_maker_that_is_rounded_keeps_its_levels():
    packed = formats.Packed(*rounding.round_nearest(torch.randn(16, 64, generator=torch.Generator().manual_seed(5)), 32))
    divisor = torch.linspace(0.5, 8, 16)
    after = packed.divided(divisor)
    assert torch.equal(after.q, packed.q)
    assert torch.allclose(after.weight() * divisor[:, None], packed.weight(), rtol=1e-3, atol=1e-7)


def test_refined_scales_are_the_least_squares_of_float64():
    weight, _, inputs = outlier_layer()
    q, scale, zero = rounding.round_nearest(weight, 32)
    found = refine.least_squares(weight, inputs.gram, q, scale.float(), zero.float())
    centred = (q.double().unflatten(-1, (4, 32)) - zero[..., None].double())[7]  # row 7 by hand
    design = torch.block_diag(*centred[:, None])  # [4, 128]: the weight is scales @ design
    root = torch.linalg.cholesky(inputs.gram.double() + 1e-9 * torch.eye(128), upper=True)
    best = torch.linalg.lstsq(root @ design.T, root @ weight[7].double()[:, None]).solution[:, 0]
    assert torch.allclose(found[7].double(), best, rtol=0.03)  # the pull to the old scales and fp16
    before, after = (search.output_error(rounding.dequantize(q, step, zero) - weight, inputs.gram)
                     for step in (scale, found))
    assert after < before


def test_the_triangular_factor_is_that_of_the_inverse():
    draw = torch.randn(40, 24, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    matrix = (draw.T @ draw / 40 + 0.1 * torch.eye(24)).float()
    expected = torch.linalg.cholesky(torch.linalg.inv(matrix.double()), upper=True)
    assert torch.allclose(inverse_factor(matrix).double(), expected, rtol=1e-3, atol=1e-4)


def test_the_stored_model_is_the_searched_one(tmp_path):
    model = small_llama()
    windows = torch.randint(0, 96, (4, 48), generator=torch.Generator().manual_seed(2))
    changed = copy.deepcopy(model)
    formats.write(layers.int4(changed, windows, QUANTIZE), tmp_path)
    with torch.inference_mode():
        stored = formats.load_dequantized(tmp_path)(windows).logits
        assert torch.allclose(stored, changed(windows).logits, atol=2e-3)  # fp16 of norms and embedding between them
        assert not torch.allclose(stored, model(windows).logits, atol=2e-3)


def test_a_group_that_does_not_divide_is_refused():
    with pytest.raises(StageError, match="quantize.group = 40 does not divide a layer of 64 inputs"):
        layers.int4(small_llama(), torch.zeros(1, 16, dtype=torch.long), QUANTIZE.model_copy(update={"group": 40}))


def test_scores_of_a_model_against_itself():
    model = small_llama()
    windows = torch.randint(0, 96, (3, 20), generator=torch.Generator().manual_seed(3))
    scores = gate.compare(model, {"same": copy.deepcopy(model)}, windows)
    with torch.no_grad():
        loss = model(windows, labels=windows).loss.item()
    assert scores["full"]["perplexity"] == pytest.approx(torch.tensor(loss).exp().item(), rel=1e-5)
    assert scores["same"]["perplexity_ratio"] == scores["same"]["agreement"] == 1 and abs(scores["same"]["kl"]) < 1e-6


@pytest.mark.parametrize(("scores", "said"), [
    ({"perplexity_ratio": 1.6, "agreement": 0.9}, r"1\.6000 times the full model's, above quantize.gate.max_perpl"),
    ({"perplexity_ratio": float("nan"), "agreement": 0.9}, "nan times"),
    ({"perplexity_ratio": 1.1, "agreement": 0.1}, r"on 0\.1000 of the tokens, below quantize.gate.min_agreement = 0\.2"),
])
def test_the_gate_names_figure_and_limit(scores, said):
    with pytest.raises(StageError, match=said):
        gate.judge("int4", scores, GATE)


def run(inputs, **changes):
    stage_module.awq(inputs / "chat", inputs / "corpus", inputs / "held_out.jsonl", inputs / "int4", inputs / "m.json",
                     quantize=QUANTIZE.model_copy(update={"windows": 2, "gate": GATE.model_copy(update={"windows": 2}),
                                                          **changes}), seed=1, runtime=RUNTIME)


def test_the_stage_writes_the_same_bytes_twice(inputs):
    run(inputs)
    first = {file.name: file.read_bytes() for file in (inputs / "int4").iterdir()}
    scores = json.loads((inputs / "m.json").read_text())
    assert scores["awq"]["kl"] < scores["nearest"]["kl"] and scores["full"]["perplexity_ratio"] == 1
    assert checkpoint.load_tokenizer(inputs / "int4", 300)
    run(inputs)
    assert first == {file.name: file.read_bytes() for file in (inputs / "int4").iterdir()}


def test_bad_input_is_one_line(inputs):
    with pytest.raises(StageError, match=r"tokens of en text in 2 documents, 48000 asked"):
        run(inputs, windows=1000)
    with pytest.raises(StageError, match="quantize.length = 65 is beyond the model's 64 positions"):
        run(inputs, length=65)
    with pytest.raises(StageError, match="tokens of fr text in 0 documents"):
        run(inputs, languages=["fr"])
    (inputs / "corpus/00000.jsonl").write_text('{"id": "a", "text"')
    with pytest.raises(StageError, match="00000.jsonl:1 is not a document"):
        run(inputs)


def harmed(inputs, **weights):
    """The model of `inputs` with one weight filled."""
    model = small_llama(vocab_size=len(byte_tokenizer()))
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name.replace("__", ".")).view(-1)[:4] = value
    model.save_pretrained(inputs / "chat")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(inputs, value):
    harmed(inputs, model__layers__1__mlp__up_proj__weight=value)
    with pytest.raises(StageError, match=r"layers\.1\.mlp\.up_proj\.weight holds values that are not finite"):
        run(inputs)


def test_a_scale_beyond_fp16(inputs):
    harmed(inputs, model__layers__1__self_attn__q_proj__weight=5e6)
    with pytest.raises(StageError, match=r"q_proj.scales holds values beyond fp16|not finite on the calibration text"):
        run(inputs)


def test_activations_that_overflow(inputs):
    harmed(inputs, model__layers__0__mlp__down_proj__weight=3e38, model__layers__0__mlp__up_proj__weight=3e38)
    with pytest.raises(StageError, match="reads is not finite on the calibration text"):
        run(inputs)


def test_inputs_all_alike_are_refused():
    with pytest.raises(StageError, match="raise quantize.damping"):
        inverse_factor(-torch.eye(4))


def test_a_torn_or_foreign_model(inputs):
    weights, config = inputs / "chat/model.safetensors", inputs / "chat/config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-500])
    with pytest.raises(StageError, match="chat cannot be loaded"):
        run(inputs)
    weights.write_bytes(whole)
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_type": "gpt2"}))
    with pytest.raises(StageError, match="holds a 'gpt2' model; this chain handles 'llama' only .* model.qk_norm: false"):
        run(inputs)


def test_the_directory_can_be_served_and_checked(inputs):
    import hashlib

    run(inputs)
    sums = json.loads((inputs / "int4/manifest.json").read_text())["sha256"]
    assert {*sums} == {file.name for file in (inputs / "int4").iterdir()} - {"manifest.json"}
    assert {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "config.json"} <= {*sums}
    for name, expected in sums.items():
        assert hashlib.sha256((inputs / "int4" / name).read_bytes()).hexdigest() == expected


def test_without_damping_nothing_is_handed_on():
    """AWQ alone: levels are plain rounding of the searched grid, so scales 1 and clips 1 are round-to-nearest."""
    weight, _, inputs = outlier_layer()
    plain = layers.rounded(weight, inputs.gram, QUANTIZE.model_copy(update={"clips": 1, "damping": None}))
    q, scale, zero = rounding.round_nearest(weight, 32)
    assert torch.equal(plain.q, q) and torch.equal(plain.scale, scale) and torch.equal(plain.zero, zero)
