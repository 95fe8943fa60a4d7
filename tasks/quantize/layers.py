"""One Llama from full precision to int4 in one pass: right before a linear reads, scale, clip and round it, then go on.

So every linear is calibrated on what the rounded ones before it hand on, inside its layer too. The scales of AWQ are
folded into the operation before (norm into query/key/value and gate/up, value into output, up into down); that one may
be rounded already, then its rows' scales are divided, which changes no level.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from kernels.int4 import reference as rounding
from tasks import progress
from tasks.quantize import formats, search
from tasks.quantize.compensate import compensated
from tasks.quantize.refine import least_squares
from tasks.quantize.settings import QuantizeParams
from tasks.stage import StageError

# what reads one input together: name -> the linears of a decoder layer that read it, in the order in which they run
READERS = {"attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "output": ("self_attn.o_proj",),
           "mlp": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",)}
# what makes that input, up to a factor a channel
MAKERS = {"attention": "input_layernorm", "output": "self_attn.v_proj", "mlp": "post_attention_layernorm",
          "down": "mlp.up_proj"}

Treat = Callable[[int, LlamaDecoderLayer, str, torch.Tensor], torch.Tensor]


def walk(model: LlamaForCausalLM, windows: torch.Tensor, treat: Treat) -> None:
    """Run int64 windows [W, T] through `model`, each source of each layer treated right before it is first read.

    `treat(number, layer, source, rows)` sees the source's inputs as float32 rows [W * T, K], changes the weights of its
    readers and makers, and returns the scale [K] that the rows are to be divided by.
    """
    with torch.no_grad():
        hidden = model.model.embed_tokens(windows)
        rotary = model.model.rotary_emb(hidden, torch.arange(windows.shape[1])[None])
        for number, layer in enumerate(progress.track(model.model.layers, what="quantize", unit="layer")):
            hidden = through(layer, hidden, rotary, lambda *seen, at=number: treat(at, *seen))


def through(layer: LlamaDecoderLayer, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor],
            treat: Callable[[LlamaDecoderLayer, str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The output [W, T, width] of a treated `layer`."""
    scales: dict[str, torch.Tensor] = {}

    def before(source: str) -> Callable:
        def hook(_module, arguments):
            if source not in scales:
                if not arguments[0].isfinite().all():
                    raise StageError(f"what {READERS[source][0]} reads is not finite on the calibration text: the "
                                     "model computes no numbers; make it again")
                scales[source] = treat(layer, source, arguments[0].flatten(0, 1))
            return (arguments[0] / scales[source],)
        return hook

    hooks = [layer.get_submodule(name).register_forward_pre_hook(before(source))
             for source, names in READERS.items() for name in names]
    try:
        return layer(hidden, position_embeddings=rotary)
    finally:
        for hook in hooks:
            hook.remove()


def int4(model: LlamaForCausalLM, windows: torch.Tensor, quantize: QuantizeParams) -> formats.Int4Model:
    """`model` (changed in place to what int4 computes) as an Int4Model, calibrated on int64 windows [W, T].

    Raises StageError where the group does not divide a layer's inputs.
    """
    config = model.config
    for inputs in (config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim):
        if inputs % quantize.group:
            raise StageError(f"quantize.group = {quantize.group} does not divide a layer of {inputs} inputs: "
                             "choose another")
    shared = config.num_attention_heads // config.num_key_value_heads
    linears: dict[str, formats.Packed] = {}

    def treat(number: int, layer: LlamaDecoderLayer, source: str, rows: torch.Tensor) -> torch.Tensor:
        inputs = search.Inputs.of(rows)
        readers = [layer.get_submodule(name) for name in READERS[source]]
        joined = torch.cat([reader.weight for reader in readers])  # rows are rounded each for itself
        tie = shared if source == "output" else 1
        scale = search.channel_scales(joined, inputs, quantize.group, quantize.scales, tie, config.head_dim)
        packed = rounded(joined * scale, inputs.divided(scale).gram, quantize)
        sizes = [len(reader.weight) for reader in readers]
        for name, reader, part in zip(READERS[source], readers, packed.split(sizes), strict=True):
            linears[f"model.layers.{number}.{name}"] = part
            reader.weight.copy_(part.weight())
        maker, name = layer.get_submodule(MAKERS[source]), f"model.layers.{number}.{MAKERS[source]}"
        divisor = search.untie(scale, tie, config.head_dim)
        if name in linears:
            linears[name] = linears[name].divided(divisor)
            maker.weight.copy_(linears[name].weight())
        else:
            maker.weight.div_(divisor)
        return scale

    walk(model, windows, treat)
    return formats.Int4Model(stored_config(model, formats.quantization_config(quantize.group)), linears,
                             others(model, linears))


def rounded(weight: torch.Tensor, gram: torch.Tensor, quantize: QuantizeParams) -> formats.Packed:
    """`weight` [N, K] rounded to its clipped grid; errors handed on and scales refined where there is a damping."""
    scale, zero = search.clipped_grid(weight, gram, quantize.group, quantize.clips, quantize.narrowest)
    if quantize.damping is None:
        levels = rounding.quantize(rounding.split(weight, quantize.group), scale[..., None], zero[..., None])
        levels = levels.flatten(-2).to(torch.uint8)
    else:
        levels = compensated(weight, gram, scale, zero, quantize.damping)
        scale = least_squares(weight, gram, levels, scale, zero)
    return formats.Packed(levels, scale.half(), zero.to(torch.uint8))


def nearest(model: LlamaForCausalLM, group: int) -> LlamaForCausalLM:
    """`model` changed in place: every linear of its layers rounded to nearest. The baseline of the gate."""
    with torch.no_grad():
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(search.rounded(module.weight, group))
    return model


def stored_config(model: LlamaForCausalLM, quantization: dict) -> dict:
    """config.json of the quantized directory: the model's own, fp16, with the quantization stated."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return config | {"dtype": "float16", "architectures": ["LlamaForCausalLM"], "quantization_config": quantization}


def others(model: LlamaForCausalLM, linears: dict) -> dict[str, torch.Tensor]:
    """Every tensor that is not in `linears`; a head tied to the embedding is left out, as in any Llama directory."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: weight for name, weight in model.state_dict().items()
            if name.removesuffix(".weight") not in linears and name not in tied}
