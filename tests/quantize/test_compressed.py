"""The pack-quantized layout by hand, and taken apart by compressed-tensors' own code."""

import json

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file

from tasks.quantize import compressed

from tests.quantize.test_formats import rounded, small_llama


def test_golden_words():
    row = torch.arange(8, dtype=torch.uint8)[None]
    assert compressed.words(row).item() == 0x76543210
    assert compressed.words(torch.tensor([[0, 0, 0, 0, 0, 0, 0, 15]], dtype=torch.uint8)).item() == -0x10000000
    assert compressed.words(torch.tensor([[9, 2, 3]], dtype=torch.uint8)).item() == 0x329  # padded with 0


def test_compressed_tensors_unpacks_what_we_packed(tmp_path):
    stored = rounded(small_llama())
    compressed.write_int4(stored, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith(".weight_packed") for name in tensors)
    for name, layer in stored.linears.items():
        shape = torch.Size(tensors[f"{name}.weight_shape"].tolist())
        levels = unpack_from_int32(tensors[f"{name}.weight_packed"], 4, shape)
        zeros = unpack_from_int32(tensors[f"{name}.weight_zero_point"], 4, layer.zero.shape, packed_dim=0)
        assert torch.equal(levels + 8, layer.q.to(torch.int8)) and torch.equal(zeros + 8, layer.zero.to(torch.int8))
        weight = (levels - zeros.repeat_interleave(32, 1)).float() * \
            tensors[f"{name}.weight_scale"].float().repeat_interleave(32, 1)
        assert torch.equal(weight, layer.weight())
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stated["format"] == "pack-quantized" and stated["config_groups"]["group_0"]["weights"]["group_size"] == 32
    assert not any(name.startswith("lm_head") for name in tensors)
    assert torch.equal(tensors["model.norm.weight"], stored.rest["model.norm.weight"].half())
