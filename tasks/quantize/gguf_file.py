"""An int4 model as one GGUF file, the form llama.cpp runs.

A group of 64 (any multiple of 32) splits into Q4_1 blocks of 32 that repeat its scale: weight = d * q + m with d the
group's fp16 scale, as it is, and m = -zero * scale rounded to fp16, the one thing that is not exact (at most 15 * 2^-11
steps, 0.7 %). Embedding and head are Q8_0, or F16 where 32 does not divide the width. Queries and keys have their rows
in llama.cpp's order: it rotates neighbouring pairs where transformers rotates halves. The format:
github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tasks.quantize import formats
from tasks.stage import StageError

BLOCK = 32
Kind = gguf.GGMLQuantizationType
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(model: formats.Int4Model, tokenizer: Path, path: Path) -> None:
    """Write `model` with the tokenizer of directory `tokenizer` to `path`.

    Raises StageError where the group is no multiple of 32 or the tokenizer is none that llama.cpp knows.
    """
    if model.group % BLOCK:
        raise StageError(f"a group of {model.group} does not split into GGUF blocks of {BLOCK}: choose a "
                         f"quantize.group that {BLOCK} divides")
    writer = gguf.GGUFWriter(path, "llama")
    add_shape(writer, model.config)
    add_tokenizer(writer, tokenizer, model.config["vocab_size"])
    heads = {"q_proj": model.config["num_attention_heads"], "k_proj": model.config["num_key_value_heads"]}
    for name, layer in model.linears.items():
        parts = [part.numpy() for part in (layer.q, layer.scale, layer.zero)]
        count = heads.get(name.rpartition(".")[2])
        blocks = q4_1(*(pairs(part, count) if count else part for part in parts))
        writer.add_tensor(tensor_name(name), blocks, raw_dtype=Kind.Q4_1)
    for name, tensor in model.rest.items():
        add_dense(writer, tensor_name(name.removesuffix(".weight")), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_name(module: str) -> str:
    """llama.cpp's name of the weight of a transformers module."""
    if module in WHOLE:
        return f"{WHOLE[module]}.weight"
    _, _, number, rest = module.split(".", 3)
    return f"blk.{number}.{NAMES[rest]}.weight"


def pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * d, ...] from (first half, second half) of each head to neighbouring pairs."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def q4_1(levels: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Q4_1 bytes uint8 [N, K / 32 * 20] of levels uint8 [N, K] with scale fp16 and zero uint8 [N, K/g].

    A block is d fp16, m fp16 and 16 bytes, byte j holding element j low and element j + 16 high.
    """
    outputs, inputs = levels.shape
    repeats = inputs // BLOCK // scale.shape[1]
    step = scale.astype(np.float16)
    least = (-zero.astype(np.float32) * step.astype(np.float32)).astype(np.float16)
    blocks = levels.reshape(outputs, inputs // BLOCK, 2, BLOCK // 2)
    codes = blocks[:, :, 0] | blocks[:, :, 1] << 4
    ends = [np.ascontiguousarray(np.repeat(part, repeats, axis=1))[..., None].view(np.uint8) for part in (step, least)]
    return np.concatenate([*ends, codes], axis=-1).reshape(outputs, -1)


def add_dense(writer: gguf.GGUFWriter, name: str, value: np.ndarray) -> None:
    """A norm as F32, a matrix as Q8_0 (F16 where its width is no multiple of 32)."""
    if value.ndim == 1:
        writer.add_tensor(name, value)
    elif value.shape[1] % BLOCK:
        writer.add_tensor(name, value.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(value, Kind.Q8_0), raw_dtype=Kind.Q8_0)


def add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """What llama.cpp needs of config.json. Raises StageError for positions other than plain rotary ones."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(formats.rope_theta(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_tokenizer(writer: gguf.GGUFWriter, directory: Path, vocabulary: int) -> None:
    """The byte-level BPE of `directory`, padded to `vocabulary` ids, its special ids and its chat template."""
    stored = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    stated = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    if stored["model"]["type"] != "BPE":
        raise StageError(f"{directory / 'tokenizer.json'}: a {stored['model']['type']} tokenizer has no place in GGUF")
    ids = dict(stored["model"]["vocab"])
    kinds = {token: gguf.TokenType.NORMAL for token in ids}
    for added in stored["added_tokens"]:
        ids[added["content"]] = added["id"]
        kinds[added["content"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    types = [gguf.TokenType.UNUSED] * vocabulary
    for token, number in ids.items():
        tokens[number], types[number] = token, kinds[token]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting(stored["pre_tokenizer"], directory))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                     ("pad_token", writer.add_pad_token_id), ("unk_token", writer.add_unk_token_id)):
        if stated.get(key) in ids:
            add(ids[stated[key]])
    writer.add_add_bos_token(False)
    if (directory / "chat_template.jinja").exists():
        writer.add_chat_template((directory / "chat_template.jinja").read_text(encoding="utf-8"))


def splitting(pre_tokenizer: dict[str, Any] | None, directory: Path) -> str:
    """llama.cpp's name for how text is split before merging. Raises StageError where it has none."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    kinds = [step.get("type") for step in steps]
    digits = all(step.get("individual_digits") for step in steps if step.get("type") == "Digits")
    plain = all(step.get("use_regex", True) and not step.get("add_prefix_space")
                for step in steps if step.get("type") == "ByteLevel")
    if plain and kinds == ["ByteLevel"]:
        return "gpt-2"
    if plain and digits and kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    raise StageError(f"{directory / 'tokenizer.json'}: llama.cpp has no name for the pre-tokenizer {kinds}: it knows "
                     "ByteLevel alone, or Digits (one by one) and ByteLevel")
