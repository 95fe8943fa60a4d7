"""The model: a stock `LlamaForCausalLM` of the `model` section's shape, or the one in `model.base`.

Nothing of ours stays in it: what training saves loads anywhere. Only the attention function is swapped while it
trains on a CPU, through transformers' own registry, for plain products that run there at twice the fused one's speed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase

from tasks.model import ModelParams
from tasks.stage import StageError, one_line

ATTENTION = "catena_products"
DEVIATION = 0.02   # of embeddings at the start
LOOK_BACK = 2      # first-layer heads that start out reading the token 1, 2, ... places back
SHARPNESS = 4.0    # nats by which such a head's score of its place exceeds that of the next best


def build(shape: ModelParams, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model in fp32, with one embedding row a token. Raises StageError where the base cannot be read."""
    base = shape.base_directory()
    model = load(base) if base else scratch(shape, len(tokenizer), seed)
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer))
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(ends | {"eos_token_id": tokenizer.eos_token_id})
    # a base model ends a document where the next would open, a chat model its turn
    model.generation_config.update(**ends, eos_token_id=sorted({tokenizer.eos_token_id, tokenizer.bos_token_id}))
    return model


def load(base: Path) -> PreTrainedModel:
    """The causal model in a `from_pretrained` directory, fp32. Raises StageError with its fault in one line."""
    try:
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise StageError(f"model.base = {base} cannot be loaded: {one_line(error)}") from None
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise StageError(f"model.base = {base}: {name} holds values that are not finite; give another model")
    return model


def scratch(shape: ModelParams, vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A Llama with a tied head. Matrices start at deviation 1/sqrt(fan in), but each block's last at zero, so that
    every block begins as the identity; embeddings at 0.02, so that the first logits are near uniform. The first
    heads of the first block read the tokens before (`look_back`)."""
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.positions, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, DEVIATION, generator=draw)
        for name, module in model.model.layers.named_modules():
            if isinstance(module, nn.Linear):
                last = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0, 0 if last else module.in_features**-0.5, generator=draw)
        look_back(model, draw)
    return model


def look_back(model: LlamaForCausalLM, draw: torch.Generator) -> None:
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
    """Causal attention by plain matrix products.

    query [batch, heads, n, d], key and value [batch, kv heads, n, d] to [batch, n, heads, d]. The n x n scores are
    held, which for short sequences costs less on a CPU than the fused kernel's blocks do.
    """
    batch, heads, n, d = query.shape
    shared = heads // key.shape[1]
    query = query.reshape(-1, shared * n, d)
    key, value = key.reshape(-1, n, d), value.reshape(-1, n, d)
    mask = torch.full((n, n), float("-inf"), dtype=query.dtype).triu_(1).repeat(shared, 1)
    weights = torch.baddbmm(mask, query, key.mT, alpha=scaling).softmax(-1)
    return torch.bmm(weights, value).view(batch, heads, n, d).transpose(1, 2), None


def use_products(model: PreTrainedModel) -> None:
    """Train `model` with `products` as its attention: for whole causal sequences, without padding, on a CPU."""
    AttentionInterface.register(ATTENTION, products)
    model.set_attn_implementation(ATTENTION)


def parameters(model: PreTrainedModel) -> int:
    """Weights of the model, a tied head counted once."""
    return sum(p.numel() for p in model.parameters())


def flops_per_token(model: PreTrainedModel, sequence: int) -> int:
    """Floating-point operations of training on one token: six a weight that multiplies (the head too, a lookup not),
    and attention's two products over `sequence` positions (PaLM's appendix B, Chowdhery et al. 2022)."""
    config = model.config
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    weights = parameters(model) - (0 if tied else model.get_input_embeddings().weight.numel())
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6 * weights + 12 * config.num_hidden_layers * config.num_attention_heads * head * sequence
