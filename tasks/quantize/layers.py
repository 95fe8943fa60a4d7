"""One Llama from full precision to int4, layer by layer: watch what a layer reads, scale, clip, round, go on.

Scales are folded into the operation before (norm into query/key/value and gate/up, value into output, up into down),
so the scaled model computes what the plain one does. A later layer is calibrated on what the rounded layers before it
hand on.
"""

from __future__ import annotations

import json

import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tasks import progress
from tasks.quantize import formats, search
from tasks.quantize.compensate import compensated
from tasks.quantize.settings import QuantizeParams
from tasks.stage import StageError

# what reads one input together: name -> the linears of a decoder layer that read it
READERS = {"attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "output": ("self_attn.o_proj",),
           "mlp": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",)}


def int4(model: LlamaForCausalLM, windows: torch.Tensor, quantize: QuantizeParams) -> formats.Int4Model:
    """`model` (changed in place to what int4 computes) as an Int4Model, calibrated on int64 windows [W, T].

    Raises StageError where the group does not divide a layer's inputs.
    """
    config = model.config
    for inputs in (config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim):
        if inputs % quantize.group:
            raise StageError(f"quantize.group = {quantize.group} does not divide a layer of {inputs} inputs: "
                             "choose another")
    linears = {}
    with torch.no_grad():
        hidden = model.model.embed_tokens(windows)
        rotary = model.model.rotary_emb(hidden, torch.arange(windows.shape[1])[None])
        for number, layer in enumerate(progress.track(model.model.layers, what="awq", unit="layer")):
            seen = watch(layer, hidden, rotary)
            fold_scales(layer, seen, config.num_attention_heads // config.num_key_value_heads, quantize)
            for source, names in READERS.items():
                for name in names:
                    linears[f"model.layers.{number}.{name}"] = round_layer(
                        layer.get_submodule(name), seen[source].gram, quantize)
            hidden = layer(hidden, position_embeddings=rotary)
    return formats.Int4Model(stored_config(model, quantize.group), linears, others(model, linears))


def watch(layer: LlamaDecoderLayer, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
          ) -> dict[str, search.Inputs]:
    """What each reader of `layer` sees when it runs on `hidden` [W, T, width]."""
    seen: dict[str, search.Inputs] = {}

    def keep(source: str):
        def hook(_module, arguments):
            rows = arguments[0].flatten(0, 1)
            seen[source] = search.Inputs(rows.T @ rows / len(rows), rows.abs().mean(0))
        return hook

    hooks = [layer.get_submodule(names[0]).register_forward_pre_hook(keep(source))
             for source, names in READERS.items()]
    layer(hidden, position_embeddings=rotary)
    for hook in hooks:
        hook.remove()
    return seen


def fold_scales(layer: LlamaDecoderLayer, seen: dict[str, search.Inputs], shared: int,
                quantize: QuantizeParams) -> None:
    """Search the scales of every reader and fold them: columns times s, what makes the input divided by s.

    `shared` query heads read one value head, so their channels get one scale. `seen` is changed to the new inputs.
    """
    attention, mlp = layer.self_attn, layer.mlp
    before = {"attention": layer.input_layernorm.weight, "output": attention.v_proj.weight,
              "mlp": layer.post_attention_layernorm.weight, "down": mlp.up_proj.weight}
    for source, names in READERS.items():
        weights = [layer.get_submodule(name).weight for name in names]
        tie = shared if source == "output" else 1
        scale = search.channel_scales(weights, seen[source], quantize.group, quantize.scales, tie, attention.head_dim)
        for weight in weights:
            weight.mul_(scale)
        producer = search.untie(scale, tie, attention.head_dim)
        before[source].div_(producer if before[source].dim() == 1 else producer[:, None])
        seen[source] = seen[source].divided(scale)


def round_layer(linear: torch.nn.Linear, gram: torch.Tensor, quantize: QuantizeParams) -> formats.Packed:
    """Round one linear to its clipped grid, errors handed on; its weight becomes what the int4 layer computes."""
    scale, zero = search.clipped_grid(linear.weight, gram, quantize.group, quantize.clips, quantize.narrowest)
    levels = compensated(linear.weight, gram, scale, zero, quantize.damping)
    packed = formats.Packed(levels, scale.half(), zero.to(torch.uint8))
    linear.weight.copy_(packed.weight())
    return packed


def nearest(model: LlamaForCausalLM, group: int) -> LlamaForCausalLM:
    """`model` changed in place: every linear of its layers rounded to nearest. The baseline of the gate."""
    with torch.no_grad():
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(search.rounded(module.weight, group))
    return model


def stored_config(model: LlamaForCausalLM, group: int) -> dict:
    """config.json of the int4 directory: the model's own, fp16, with the quantization stated."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return config | {"dtype": "float16", "architectures": ["LlamaForCausalLM"],
                     "quantization_config": formats.quantization_config(group)}


def others(model: LlamaForCausalLM, linears: dict[str, formats.Packed]) -> dict[str, torch.Tensor]:
    """Every tensor that is not in `linears`; a head tied to the embedding is left out, as in any Llama directory."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: weight for name, weight in model.state_dict().items()
            if name.removesuffix(".weight") not in linears and name not in tied}
