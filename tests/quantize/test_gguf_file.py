"""GGUF by hand and by the gguf package's own reader."""

import json

import gguf
import numpy as np
import pytest
import torch

from kernels.int4 import reference as rounding
from tasks.quantize import formats, gguf_file
from tasks.stage import StageError
from tests.serve import tiny as making


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def made(request, tmp_path_factory):
    """An int4 directory and its GGUF file."""
    root = tmp_path_factory.mktemp("gguf")
    making.write_int4(root / "chat", making.write_chat(root / "chat", tied=request.param), root / "int4")
    gguf_file.write(formats.read(root / "int4"), root / "int4", root / "model.gguf")
    return root


def test_a_block_by_hand():
    # levels 0..15 twice, scale 0.5, zero 3: d = 0x3800, m = -1.5 = 0xBE00; byte j is element j low, j + 16 high
    levels = np.tile(np.arange(16, dtype=np.uint8), 2)[None]
    block = gguf_file.q4_1(levels, np.array([[0.5]], np.float16), np.array([[3]], np.uint8))[0]
    assert block[:4].tobytes() == bytes([0x00, 0x38, 0x00, 0xBE])
    assert block[4:].tolist() == [17 * i for i in range(16)]


def test_the_package_dequantizes_what_we_store():
    weight = torch.randn(24, 192, generator=torch.Generator().manual_seed(1)) * 0.05
    q, scale, zero = rounding.round_nearest(weight, 64)
    blocks = gguf_file.q4_1(q.numpy(), scale.numpy(), zero.numpy())
    found = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
    exact = rounding.dequantize(q, scale, zero).numpy()
    step = scale.float().repeat_interleave(64, dim=1).numpy()
    assert (np.abs(found - exact) <= 15 * 2.0 ** -11 * step).all()  # m rounded to fp16, nothing else
    assert np.abs(found - exact).max() > 0


def test_rotated_rows_stand_in_pairs():
    rows = np.arange(2 * 8).reshape(16, 1)
    # a head's halves 0..3 and 4..7 interleave
    assert gguf_file.pairs(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_what_the_file_says(made):
    reader = gguf.GGUFReader(made / "model.gguf")
    config = json.loads((made / "int4/config.json").read_text())
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields["general.architecture"] == "llama" and fields["llama.block_count"] == 2
    assert fields["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert fields["llama.rope.freq_base"] == pytest.approx(formats.rope_theta(config))
    stored = json.loads((made / "int4/tokenizer.json").read_text())
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == config["vocab_size"] and all(tokens[i] == t for t, i in stored["model"]["vocab"].items())
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == (made / "int4/chat_template.jinja").read_text()
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q8_0" and kinds["blk.1.ffn_down.weight"] == "Q4_1"
    assert kinds["output_norm.weight"] == "F32"
    assert ("output.weight" in kinds) == (not config["tie_word_embeddings"])


def test_same_bytes_twice(made, tmp_path):
    gguf_file.write(formats.read(made / "int4"), made / "int4", tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == (made / "model.gguf").read_bytes()


@pytest.mark.parametrize("steps, name", [
    ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
    ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                            {"type": "ByteLevel", "add_prefix_space": False}]}, "smollm")])
def test_the_names_of_splitting(tmp_path, steps, name):
    assert gguf_file.splitting(steps, tmp_path) == name


@pytest.mark.parametrize("steps", [None, {"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": True}])
def test_a_splitting_without_a_name(tmp_path, steps):
    with pytest.raises(StageError, match="llama.cpp has no name for the pre-tokenizer"):
        gguf_file.splitting(steps, tmp_path)


def test_a_group_that_fills_no_block(made, tmp_path):
    stored = formats.read(made / "int4")
    stored.config["quantization_config"]["group_size"] = 16
    with pytest.raises(StageError, match="a group of 16 does not split into GGUF blocks of 32"):
        gguf_file.write(stored, made / "int4", tmp_path / "model.gguf")
