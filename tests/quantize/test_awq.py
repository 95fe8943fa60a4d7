"""AWQ: folded scales change nothing in full precision, each step lowers the error it is meant to lower."""

import copy
import json

import pytest
import torch

from tasks.finetune import checkpoint
from tasks.params import Runtime
from kernels.int4 import reference as rounding
from tasks.quantize import formats, gate, layers, search
from tasks.quantize import awq as stage_module
from tasks.quantize.compensate import compensated
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
    return weight, rows, search.Inputs(rows.T @ rows / len(rows), rows.abs().mean(0))


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
    scale = search.channel_scales([weight], inputs, 32, 10)
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
    assert torch.equal(search.channel_scales([weight], inputs, 32, 1), torch.ones(128))
    step, zero = search.clipped_grid(weight, inputs.gram, 32, 1, 0.5)
    q, scale, middle = rounding.round_nearest(weight, 32)
    assert torch.equal(step.half(), scale) and torch.equal(zero.to(torch.uint8), middle)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_folding_scales_leaves_the_logits(heads):
    model = small_llama(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    with torch.no_grad():  # real norms and outliers, so that the scales are far from one
        for name, weight in model.named_parameters():
            if "layernorm" in name:
                weight.uniform_(0.2, 3)
            if "v_proj" in name or "up_proj" in name:
                weight[::5] *= 20
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(ids).logits
        hidden = model.model.embed_tokens(ids)
        rotary = model.model.rotary_emb(hidden, torch.arange(40)[None])
        moved = 0.0
        for layer in model.model.layers:
            seen = layers.watch(layer, hidden, rotary)
            down = layer.mlp.down_proj.weight.clone()
            layers.fold_scales(layer, seen, heads[0] // heads[1], QUANTIZE)
            moved = max(moved, (layer.mlp.down_proj.weight / down).max().item())
            # what was noted about the inputs is what the folded layer now sees
            again = layers.watch(layer, hidden, rotary)
            for source, noted in seen.items():
                assert torch.allclose(noted.gram, again[source].gram, rtol=1e-3, atol=1e-6 * noted.gram.abs().max())
            hidden = layer(hidden, position_embeddings=rotary)
        assert moved > 1.5 and torch.allclose(before, model(ids).logits, atol=1e-5)


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
        gate.judge(scores, GATE)


@pytest.fixture
def inputs(tmp_path):
    """A model directory, a corpus and held-out text."""
    tokenizer = byte_tokenizer()
    checkpoint.save(small_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "chat")
    (tmp_path / "corpus").mkdir()
    for file, words in (("corpus/00000.jsonl", "to be or not to be "), ("held_out.jsonl", "that is the question ")):
        line = {"id": "a", "metadata": {"language": "en"}, "text": words * 20}
        (tmp_path / file).write_text(json.dumps(line) + "\n" + json.dumps(line | {"id": "b"}) + "\n")
    return tmp_path


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
