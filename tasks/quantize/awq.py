"""Quantize a Llama to int4 by activation-aware search, and gate what it costs.

`python -m tasks.quantize.awq models/T/chat data/corpus data/evalsets/held_out.jsonl models/T/int4
metrics/quantize/T.json --track T`

Layer by layer, with calibration text from the training corpus: scales are searched and folded into the operation
before (norm into query/key/value and gate/up, value into output, up into down: the model computes the same), then
each group's range is clipped, then rounded. A later layer is calibrated on what the rounded layers before it hand on.
Embedding and head stay as they are.
"""

from __future__ import annotations

import copy
import json

import torch
from pydantic import Field
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tasks import params, progress, stage
from tasks.data import documents
from tasks.finetune import checkpoint
from tasks.quantize import formats, passages, rounding, search
from tasks.quantize.gate import GateParams, compare, judge
from tasks.stage import Input, Output, StageError

# what reads one input together: name -> the linears of a decoder layer that read it
READERS = {"attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "output": ("self_attn.o_proj",),
           "mlp": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",)}


class QuantizeParams(params.Section):
    """Group size, calibration, and the two searches of AWQ."""

    group: int = Field(ge=8, le=1024, multiple_of=8, description="weights that share one scale and zero point")
    languages: list[str] = Field(min_length=1, description="languages of calibration and gate text")
    windows: int = Field(ge=1, le=10_000, description="calibration windows")
    length: int = Field(ge=16, le=8192, description="tokens of a window")
    scales: int = Field(ge=1, le=100, description="points of the scale search; 1 scales nothing")
    clips: int = Field(ge=1, le=100, description="points of the clip search; 1 clips nothing")
    narrowest: float = Field(gt=0, le=1, description="smallest share of a group's range the clip search tries")
    gate: GateParams


def awq(model: Input, corpus: Input, held_out: Input, quantized: Output, metrics: Output, *,
        quantize: QuantizeParams, seed: int, runtime: params.Runtime) -> None:
    """Write the int4 directory of `model` and its scores. Raises StageError where a limit of the gate is missed."""
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    full = checkpoint.load_model(model)
    tokenizer = checkpoint.load_tokenizer(model, full.config.vocab_size)
    if quantize.length > full.config.max_position_embeddings:
        raise StageError(f"quantize.length = {quantize.length} is beyond the model's "
                         f"{full.config.max_position_embeddings} positions")
    calibration = passages.windows(documents.shards(corpus), tokenizer, quantize.windows, quantize.length,
                                   quantize.languages, seed)
    text = passages.windows([held_out], tokenizer, quantize.gate.windows, quantize.length, quantize.languages, seed)
    stored = int4(copy.deepcopy(full), calibration, quantize)
    formats.write(stored, quantized)
    tokenizer.save_pretrained(quantized)
    full.generation_config.save_pretrained(quantized)
    candidates = {"nearest": nearest(copy.deepcopy(full), quantize.group), "awq": formats.load_dequantized(quantized)}
    scores = compare(full, candidates, text)
    size = sum(file.stat().st_size for file in sorted(quantized.iterdir()))
    stage.write_json(metrics, {**scores, "bytes": size, "positions": text[:, 1:].numel(), "group": quantize.group,
                               "limits": {"perplexity_ratio": quantize.gate.max_perplexity_ratio,
                                          "agreement": quantize.gate.min_agreement}})
    judge(scores["awq"], quantize.gate)


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
    """Round one linear to its clipped grid; its weight becomes what the int4 layer computes."""
    scale, zero = search.clipped_grid(linear.weight, gram, quantize.group, quantize.clips, quantize.narrowest)
    levels = rounding.quantize(rounding.split(linear.weight, quantize.group), scale[..., None], zero[..., None])
    packed = formats.Packed(levels.flatten(-2).to(torch.uint8), scale.half(), zero.to(torch.uint8))
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


if __name__ == "__main__":
    stage.run(awq)
