"""SmoothQuant against its definition, and its directory read back by compressed-tensors through transformers."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.quantize import compressed, layers, smooth

from tests.quantize.test_formats import small_llama


def outliers(seed=0):
    """A weight [48, 64] and inputs [300, 64] with a few channels fifty times the others."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(300, 64, generator=draw)
    rows[:, ::13] *= 50
    return torch.randn(48, 64, generator=draw) * 0.05, rows


def test_rounding_is_within_half_a_step_of_its_row():
    weight, rows = outliers()
    found = smooth.channels(weight)
    assert found.levels.dtype == torch.int8 and found.levels.abs().max() <= 127
    assert ((found.weight() - weight).abs() <= 0.501 * found.scale.float()[:, None] + 1e-6).all()
    step = rows.abs().amax(1, keepdim=True) / 127
    assert ((smooth.tokens_rounded(rows) - rows).abs() <= 0.501 * step).all()
    assert torch.equal(smooth.tokens_rounded(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_smoothing_beats_none_on_outlier_channels():
    weight, rows = outliers()
    scale = smooth.smoothing(weight, rows, 9, 1, 64)

    def error(s):
        return (smooth.tokens_rounded(rows / s) @ smooth.channels(weight * s).weight().T - rows @ weight.T).square().sum()

    assert error(scale) < 0.4 * error(torch.ones(64)) and scale[::13].min() > scale[1::13].max()


def test_tied_heads_share_their_scales():
    weight, rows = outliers()
    scale = smooth.smoothing(weight, rows, 5, 2, 16).view(2, 2, 16)
    assert torch.equal(scale[:, 0], scale[:, 1])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(full model, the model changed in place, its directory, windows)."""
    full = small_llama()
    windows = torch.randint(0, 96, (4, 48), generator=torch.Generator().manual_seed(2))
    changed = copy.deepcopy(full)
    directory = tmp_path_factory.mktemp("w8a8")
    compressed.write_w8a8(smooth.w8a8(changed, windows, 5), directory)
    return full, changed, directory, windows


def test_what_is_scored_is_what_transformers_reads(stored):
    full, changed, directory, windows = stored
    read = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found, plain = changed(windows).logits, read(windows).logits, full(windows).logits
    # compressed-tensors divides by 127.5 where we divide by 127: other roundings, the same size of error
    ours, theirs = ((logits - plain).square().mean().sqrt() for logits in (expected, found))
    assert 0 < ours < 0.02 * plain.std() and 0.6 < theirs / ours < 1.6
    for name in (name for names in layers.READERS.values() for name in names):
        name = f"model.layers.1.{name}"
        assert torch.allclose(changed.get_submodule(name).weight, read.get_submodule(name).weight.float(), rtol=1e-3,
                              atol=1e-7), name


def test_layout_on_disk(stored):
    from safetensors.torch import load_file

    tensors = load_file(stored[2] / "model.safetensors")
    down = "model.layers.0.mlp.down_proj"
    assert tensors[f"{down}.weight"].dtype == torch.int8 and tensors[f"{down}.weight"].shape == (64, 128)
    assert tensors[f"{down}.weight_scale"].shape == (64, 1)
    stated = json.loads((stored[2] / "config.json").read_text())["quantization_config"]
    assert stated["format"] == "int-quantized"
    assert stated["config_groups"]["group_0"]["input_activations"]["dynamic"] is True
