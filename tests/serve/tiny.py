"""A random Llama of a few thousand weights, its tokenizer and its int4 and ONNX directories, made in a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from tasks import chat, params
from tasks.quantize import export as exporting
from kernels.int4 import reference as rounding
from tasks.quantize import formats

TEXTS = ["The quick brown fox jumps over the lazy dog, and counts 1234567890 times.",
         "素早い茶色の狐。敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园。", "Smile 😀 or cry 😭: naïve café.",
         chat.call_text("calculator", {"expression": "12 * 7"}), "def add(a, b):\n    return a + b\n"]
RUNTIME = params.Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=4,
                         api_key=None, log_level="INFO", hostfile=None)
LOOSE = exporting.ExportParams(documents=4, tokens=32, min_top1=0.5, max_kl=1.0)


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(chat.SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return made


def llama(vocabulary: int, *, tied: bool = True, context: int = 512) -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
                         tie_word_embeddings=tied, bos_token_id=0, eos_token_id=2, pad_token_id=3)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3 if "embed" in name or "head" in name else 0.12)
    return model


def write_chat(directory: Path, *, tied: bool = True) -> LlamaForCausalLM:
    """A from_pretrained directory with the chain's template; returns its model."""
    words = tokenizer()
    model = llama(words.get_vocab_size(), tied=tied)
    model.save_pretrained(directory)
    words.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(chat.TEMPLATE)
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": chat.BOS, "eos_token": chat.END,
        "pad_token": chat.PAD}))
    return model


def write_int4(source: Path, model: LlamaForCausalLM, directory: Path) -> None:
    """Rounded to nearest: a valid int4 directory without a search."""
    linears, rest = {}, {}
    for name, weight in model.state_dict().items():
        if name.endswith("_proj.weight"):
            linears[name.removesuffix(".weight")] = formats.Packed(*rounding.round_nearest(weight, 64))
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            rest[name] = weight
    config = json.loads((source / "config.json").read_text()) | {
        "quantization_config": formats.quantization_config(64)}
    formats.write(formats.Int4Model(config, linears, rest), directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (directory / name).write_bytes((source / name).read_bytes())


def write_held_out(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": text * 3, "id": str(i), "metadata": {}}) + "\n"
                            for i, text in enumerate(TEXTS)), encoding="utf-8")


def write_all(root: Path, *, tied: bool = True) -> Path:
    """root/{chat,int4,onnx,compressed,gguf,held_out.jsonl,export.json}; returns root."""
    model = write_chat(root / "chat", tied=tied)
    write_int4(root / "chat", model, root / "int4")
    write_held_out(root / "held_out.jsonl")
    exporting.export(root / "int4", root / "held_out.jsonl", root / "onnx", root / "compressed", root / "gguf",
                     root / "export.json", export=LOOSE, runtime=RUNTIME)
    return root
