"""The int4 layout against words worked out by hand, and a directory written and read back."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kernels.int4 import reference as rounding
from tasks.quantize import formats
from tasks.stage import StageError


def small_llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    values = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True) | changes
    return LlamaForCausalLM(LlamaConfig(**values)).eval()


def rounded(model: LlamaForCausalLM, group: int = 32) -> formats.Int4Model:
    """The model rounded to nearest, by hand: every linear of the decoder layers."""
    linears = {}
    for name, module in model.model.layers.named_modules(prefix="model.layers"):
        if isinstance(module, torch.nn.Linear):
            linears[name] = formats.Packed(*rounding.round_nearest(module.weight.detach(), group))
    rest = {name: weight for name, weight in model.state_dict().items()
            if name.removesuffix(".weight") not in linears and name != "lm_head.weight"}
    config = json.loads(model.config.to_json_string(use_diff=False))
    return formats.Int4Model(config | {"quantization_config": formats.quantization_config(group)}, linears, rest)


def test_golden_words():
    # columns 0..7 hold 0..7; the nibbles from low to high are columns 0 2 4 6 1 3 5 7: read from the top, 75316420
    row = torch.arange(8, dtype=torch.uint8)[None]
    assert formats.pack(row).item() & 0xFFFFFFFF == 0x75316420
    # a 15 in column 7 alone lands in the highest nibble, so the int32 is negative
    assert formats.pack(torch.tensor([[0, 0, 0, 0, 0, 0, 0, 15]], dtype=torch.uint8)).item() == -0x10000000
    # column 1 is the fifth nibble (bits 16..19)
    assert formats.pack(torch.tensor([[0, 9, 0, 0, 0, 0, 0, 0]], dtype=torch.uint8)).item() == 9 << 16


def test_words_unpack_to_what_was_packed():
    levels = torch.randint(0, 16, (37, 88), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    words = formats.pack(levels)
    assert words.dtype == torch.int32 and words.shape == (37, 11)
    assert torch.equal(formats.unpack(words), levels)


def test_columns_that_fill_no_word_are_refused():
    with pytest.raises(ValueError, match="12 columns"):
        formats.pack(torch.zeros(2, 12, dtype=torch.uint8))


def test_round_nearest_is_within_half_a_step():
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(2)) * 0.05
    q, scale, zero = rounding.round_nearest(weight, 32)
    error = (rounding.dequantize(q, scale, zero) - weight).abs().unflatten(-1, (3, 32)).amax(-1)
    assert (error <= scale.float() * 1.01).all()  # half a step, and the zero point's own half step at the range's ends
    assert (error.mean() < scale.float().mean() * 0.75)
    assert q.max() <= 15


def test_a_group_of_tiny_weights_does_not_underflow():
    weight = torch.full((8, 32), 1e-9)
    q, scale, zero = rounding.round_nearest(weight, 32)
    back = rounding.dequantize(q, scale, zero)
    assert torch.isfinite(back).all() and back.abs().max() < 1e-4 and (scale > 0).all()


def test_directory_round_trip(tmp_path):
    model = small_llama()
    stored = rounded(model)
    formats.write(stored, tmp_path)
    read = formats.read(tmp_path)
    assert read.linears.keys() == stored.linears.keys() and read.group == 32
    for name, layer in stored.linears.items():
        assert torch.equal(read.linears[name].q, layer.q) and torch.equal(read.linears[name].zero, layer.zero)
        assert torch.equal(read.linears[name].scale, layer.scale)
    # the model it loads computes what plain torch computes with the same weights put in by hand
    with torch.no_grad():
        for name, layer in stored.linears.items():
            model.get_submodule(name).weight.copy_(layer.weight())
        for name, weight in stored.rest.items():
            model.get_parameter(name).copy_(weight.half().float())
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.allclose(formats.load_dequantized(tmp_path)(ids).logits, model(ids).logits, atol=1e-6)


def test_layout_on_disk(tmp_path):
    from safetensors.torch import load_file

    formats.write(rounded(small_llama()), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    down = "model.layers.0.mlp.down_proj"  # 128 inputs, 64 outputs
    assert tensors[f"{down}.qweight"].shape == (128, 8) and tensors[f"{down}.qweight"].dtype == torch.int32
    assert tensors[f"{down}.qzeros"].shape == (4, 8) and tensors[f"{down}.scales"].shape == (4, 64)
    assert tensors[f"{down}.scales"].dtype == tensors["model.norm.weight"].dtype == torch.float16
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stated["quant_method"] == "awq" and stated["version"] == "gemm" and stated["bits"] == 4
    assert formats.is_int4(tmp_path) and not formats.is_int4(tmp_path / "nowhere")


def test_torn_and_foreign_directories_are_refused(tmp_path):
    formats.write(rounded(small_llama()), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(StageError, match="no readable int4 model"):
        formats.read(tmp_path)
    weights.write_bytes(whole)
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(StageError, match="not a Llama in AutoAWQ"):
        formats.read(tmp_path)
    config.write_text(json.dumps(values | {"num_hidden_layers": 3}))
    with pytest.raises(StageError, match="do not make one model"):
        formats.load_dequantized(tmp_path)
    with pytest.raises(StageError, match="no readable int4 model"):
        formats.read(tmp_path / "nowhere")
