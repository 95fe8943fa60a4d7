"""The model: a stock transformers class of the `model` section's shape, or the one in `model.base`.

A Llama; with a sliding window alone a Mistral, which is the same but for the window; with QK-norm a Qwen3, which has
both. Nothing of ours stays in it: what training saves loads anywhere. Only the attention function is swapped while it
trains on a CPU, through transformers' own registry, for plain products that run there at twice the fused one's speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import MistralConfig, MistralForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tasks.model import Extension, ModelParams
from tasks.stage import StageError, one_line

ATTENTION = "catena_products"
DEVIATION = 0.02   # of embeddings at the start
LOOK_BACK = 2      # first-layer heads that start out reading the token 1, 2, ... places back
FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen3ForCausalLM)
SHARPNESS = 4.0    # nats by which such a head's score of its place exceeds that of the next best


def build(shape: ModelParams, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model in fp32, with one embedding row a token. Raises StageError where the base cannot be read."""
    base = shape.base_directory()
    model = load(base, shape.extend) if base else scratch(shape, len(tokenizer), seed)
    if base:
        same_words(base, tokenizer)
    if shape.extend:
        tokenizer.model_max_length = shape.extend.positions
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer))
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(ends | {"eos_token_id": tokenizer.eos_token_id})
    # a base model ends a document where the next would open, a chat model its turn
    model.generation_config.update(**ends, eos_token_id=sorted({tokenizer.eos_token_id, tokenizer.bos_token_id}))
    return model


def load(base: Path, extend: Extension | None = None) -> PreTrainedModel:
    """The causal model in a `from_pretrained` directory, fp32, its context extended where `extend` says so. Raises
    StageError with its fault in one line."""
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        if config.model_type not in {kind.config_class.model_type for kind in FAMILIES}:
            raise StageError(f"model.base = {base} holds a {config.model_type!r} model: pretraining goes on from "
                             "llama, mistral and qwen3; give a base of one of these")
        if extend:
            extended(config, extend, base)
        model = AutoModelForCausalLM.from_pretrained(base, config=config, local_files_only=True, dtype=torch.float32)
    except StageError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise StageError(f"model.base = {base} cannot be loaded: {one_line(error)}") from None
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise StageError(f"model.base = {base}: {name} holds values that are not finite; give another model")
    return model


def extended(config: PreTrainedConfig, extend: Extension, base: Path) -> None:
    """Give `config` another number of positions and another rotary base, which training then gets used to ("adjusted
    base frequency", Xiong et al. 2023, arXiv:2309.16039). Raises StageError where the base has more positions, or
    rotary angles that are scaled already."""
    if extend.positions < config.max_position_embeddings:
        raise StageError(f"extend.positions = {extend.positions} is below the {config.max_position_embeddings} of "
                         f"{base}: give as many or more")
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise StageError(f"{base} has rotary angles of type {kind!r}: only a base of type 'default' can be extended")
    config.max_position_embeddings = extend.positions
    config.rope_parameters = {"rope_type": "default", "rope_theta": extend.rope_theta}


def same_words(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise StageError unless every token of the base's own tokenizer has the same id in `tokenizer`, which may have
    more. A base without a tokenizer.json is taken at its word."""
    if not (base / "tokenizer.json").is_file():
        return
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json")).get_vocab()
    ours = tokenizer.get_vocab()
    for token, number in theirs.items():
        if ours.get(token) != number:
            raise StageError(f"the tokenizer does not match model.base = {base}: {token!r} is {ours.get(token)} here, "
                             f"{number} there; train the tokenizer stage with this base (dvc repro tokenizer)")


def check(shape: ModelParams, config: PreTrainedConfig, sequence: int) -> None:
    """Raise StageError where sequences of `sequence` tokens do not fit the model, or never fill its window."""
    if sequence > config.max_position_embeddings:
        raise StageError(f"pretrain.sequence = {sequence} is above the model's {config.max_position_embeddings} "
                         f"positions ({'extend' if shape.extend else 'model'}.positions)")
    if shape.base is None and (shape.sliding_window or 0) > sequence:
        raise StageError(f"model.sliding_window = {shape.sliding_window} is above pretrain.sequence = {sequence}: no "
                         "token would ever be out of its reach; lower the window or give null")


def configuration(shape: ModelParams, vocabulary: int) -> PreTrainedConfig:
    """The stock configuration of a shape: Llama's, Mistral's for a window alone, Qwen3's for QK-norm."""
    values: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "max_position_embeddings": shape.positions, "tie_word_embeddings": shape.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta}}
    window = shape.sliding_window
    if shape.qk_norm:
        return Qwen3Config(**values, use_sliding_window=window is not None, sliding_window=window, max_window_layers=0)
    return MistralConfig(**values, sliding_window=window) if window else LlamaConfig(**values)


def scratch(shape: ModelParams, vocabulary: int, seed: int) -> PreTrainedModel:
    """A model of this shape. Matrices start at deviation 1/sqrt(fan in), but each block's last at zero, so that
    every block begins as the identity; embeddings at 0.02, so that the first logits are near uniform, and so a head
    of its own. The first heads of the first block read the tokens before (`look_back`), unless QK-norm, which bounds
    a score by sqrt(head_dim), leaves the few channels that this takes too little of it: 1.1 of 4 nats at 64."""
    model = AutoModelForCausalLM.from_config(configuration(shape, vocabulary), dtype=torch.float32)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, DEVIATION, generator=draw)
        for name, module in model.model.layers.named_modules():
            if isinstance(module, nn.Linear):
                last = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0, 0 if last else module.in_features**-0.5, generator=draw)
        if not shape.qk_norm:
            look_back(model, draw)
        if not shape.tied:
            model.lm_head.weight.normal_(0, DEVIATION, generator=draw)
    return model


def look_back(model: PreTrainedModel, draw: torch.Generator) -> None:
    """Let head h of the first block attend to the token h + 1 places back, and add what it reads to the stream.

    Heads that read the previous token are what n-grams and induction are built on (Elhage et al. 2021, "A
    mathematical framework for transformer circuits"; Olsson et al. 2022, arXiv:2209.11895), and a short run spends
    much of its tokens on finding them. Here they stand at step 0, by the rotary embedding alone: channel 0 of every
    embedding is one constant, the fast pairs of query and key read nothing else, and the query's are turned by
    h + 1 steps, so that the score depends on distance alone. Training is free to undo all of it.
    """
    attention, hidden = model.model.layers[0].self_attn, model.config.hidden_size
    size, shared = attention.head_dim, attention.num_key_value_groups
    half, fast = size // 2, max(size // 8, min(4, size // 2))
    model.get_input_embeddings().weight[:, 0] = DEVIATION * hidden**0.5  # as long as all the rest together
    angles = model.config.rope_parameters["rope_theta"] ** (-torch.arange(fast) * 2 / size)
    norm = (hidden / 2) ** 0.5  # of the constant, once RMSNorm has made the vector's length sqrt(hidden)
    strength = (SHARPNESS * size**0.5 / (1 - angles.cos()).sum()) ** 0.5 / norm
    for head in range(min(LOOK_BACK, model.config.num_attention_heads)):
        query = attention.q_proj.weight[head * size:(head + 1) * size]
        key, value = (projection.weight[head // shared * size:(head // shared + 1) * size]
                      for projection in (attention.k_proj, attention.v_proj))
        query.zero_()
        key[:fast], key[half:half + fast] = 0, 0
        value[:, 0] = 0
        key[:fast, 0] = strength
        turned = -(head + 1) * angles
        query[:fast, 0], query[half:half + fast, 0] = strength * turned.cos(), strength * turned.sin()
        written = attention.o_proj.weight[:, head * size:(head + 1) * size]
        written.normal_(0, DEVIATION * (2 / size) ** 0.5, generator=draw)  # what is read, at the embeddings' scale
        written[0] = 0


def products(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
             scaling: float, dropout: float = 0.0, **_: object) -> tuple[Tensor, None]:
    """Attention by plain matrix products, causal where no mask says more.

    query [batch, heads, n, d], key and value [batch, kv heads, n, d] to [batch, n, heads, d]; attention_mask None or
    [batch, 1, n, n], added to the scores. These n x n scores are held, which for short sequences costs less on a CPU
    than the fused kernel's blocks do.
    """
    batch, heads, n, d = query.shape
    shared = heads // key.shape[1]
    query = query.reshape(-1, shared * n, d)
    key, value = key.reshape(-1, n, d), value.reshape(-1, n, d)
    if attention_mask is None:
        mask = torch.full((n, n), float("-inf"), dtype=query.dtype).triu_(1).repeat(shared, 1)
    else:
        mask = attention_mask.to(query.dtype).expand(batch, heads, n, n).reshape(-1, shared * n, n)
    weights = torch.baddbmm(mask, query, key.mT, alpha=scaling).softmax(-1)
    return torch.bmm(weights, value).view(batch, heads, n, d).transpose(1, 2), None


def added_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask of a window and of packed documents as [batch, 1, n, n] to add to scores; None if causal."""
    allowed = sdpa_mask(*args, **kwargs)
    return None if allowed is None else torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))


def use_products(model: PreTrainedModel) -> None:
    """Train `model` with `products` as its attention: for whole sequences, without padding, on a CPU."""
    AttentionInterface.register(ATTENTION, products)
    AttentionMaskInterface.register(ATTENTION, added_mask)
    model.set_attn_implementation(ATTENTION)


def parameters(model: PreTrainedModel) -> int:
    """Weights of the model, a tied head counted once."""
    return sum(p.numel() for p in model.parameters())


def head_dim(config: PreTrainedConfig) -> int:
    """Channels of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def reach(config: PreTrainedConfig, tokens: int) -> int:
    """Positions that the last of `tokens` attends to, itself among them, summed over the layers."""
    window = getattr(config, "sliding_window", None) or tokens
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return sum(min(window, tokens) if kind == "sliding_attention" else tokens for kind in kinds)


def flops_per_token(model: PreTrainedModel, sequence: int) -> int:
    """Floating-point operations of training on one token: six a weight that multiplies (the head too, a lookup not),
    and attention's two products over `sequence` positions (PaLM's appendix B, Chowdhery et al. 2022), or over its
    window, where that is shorter."""
    config = model.config
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    weights = parameters(model) - (0 if tied else model.get_input_embeddings().weight.numel())
    return 6 * weights + 12 * config.num_attention_heads * head_dim(config) * reach(config, sequence)


def cache_bytes(config: PreTrainedConfig, tokens: int, element: int = 2) -> int:
    """Bytes of the keys and values of a sequence of `tokens`, of `element` bytes each (2: fp16 or bf16); a layer with
    a window keeps no more than that."""
    return 2 * element * config.num_key_value_heads * head_dim(config) * reach(config, tokens)


def bytes_of(model: PreTrainedModel, sequence: int) -> dict[str, int]:
    """Bytes of the weights as they are held, a tied head once, and of the keys and values of a sequence in 16 bits."""
    return {"weights": sum(p.numel() * p.element_size() for p in model.parameters()),
            "cache": cache_bytes(model.config, sequence), "cache_per_token": cache_bytes(model.config, 1)}
