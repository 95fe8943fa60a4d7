"""Model directories that are wrong end in one line."""

import json

import pytest
import torch

from tasks import chat
from tasks.finetune import checkpoint
from tasks.stage import StageError


def test_saved_is_loaded(base, llama):
    again = checkpoint.load_model(base)
    assert all(torch.equal(a, b) for a, b in zip(llama.state_dict().values(), again.state_dict().values(), strict=True))
    assert checkpoint.load_tokenizer(base, 300).chat_template == chat.TEMPLATE


def change(base, file, **values):
    path = base / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_no_directory(tmp_path):
    with pytest.raises(StageError, match="is no model directory: config.json cannot be read"):
        checkpoint.load_model(tmp_path)


def test_another_architecture(base):
    change(base, "config.json", model_type="gpt2")
    with pytest.raises(StageError, match="holds a 'gpt2' model; this chain handles 'llama' only .* model.qk_norm: false"):
        checkpoint.load_model(base)


def test_a_quantized_directory(base):
    change(base, "config.json", quantization_config={"quant_method": "awq"})
    with pytest.raises(StageError, match="already quantized"):
        checkpoint.load_model(base)


def test_torn_weights(base):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StageError, match="cannot be loaded"):
        checkpoint.load_model(base)


def test_nan_weights(base, llama, tokenizer):
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="model.norm.weight holds values that are not finite"):
        checkpoint.load_model(base)


def test_a_tokenizer_that_does_not_fit_the_model(base, tokenizer):
    with pytest.raises(StageError, match="not a pair"):
        checkpoint.load_tokenizer(base, len(tokenizer) - 1)


def test_a_tokenizer_without_the_chat_tokens(base):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (base / name).read_text(encoding="utf-8")
        (base / name).write_text(text.replace("<|im_start|>", "<|other|>"), encoding="utf-8")
    with pytest.raises(StageError, match=r"the tokenizer lacks <\|im_start\|>"):
        checkpoint.load_tokenizer(base)


def test_weights_that_are_not_all_there(base):
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="lacks 1 of the model's weights, model.layers.1.mlp.up_proj.weight first"):
        checkpoint.load_model(base)


def test_a_tokenizer_with_another_template(base):
    (base / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(StageError, match="chat template is not the chain's"):
        checkpoint.load_tokenizer(base)
    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(StageError, match="no readable tokenizer"):
        checkpoint.load_tokenizer(base)
