"""SmoothQuant: weights and activations both in 8 bits, the outliers of the activations moved into the weights.

Xiao et al. 2022 (arXiv:2211.10438), eq. 4: input channel j is divided by s_j = max|X_j|^a / max|W_j|^(1 - a) and the
weight's column multiplied by it; alpha is searched for each input on the layer's own output error with both sides
rounded, no smoothing being one of the candidates. Weights get one scale an output channel, activations one a token when
they come. The factors are folded into the operation before, as AWQ's are (layers.py).
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tasks.quantize import layers, search
from tasks.quantize.compressed import Channels, W8A8Model

LARGEST = 127
SAMPLED = 256  # rows of the inputs and of the weight that the search looks at


def w8a8(model: LlamaForCausalLM, windows: torch.Tensor, points: int) -> W8A8Model:
    """`model` (changed in place to what W8A8 computes) as a W8A8Model, calibrated on int64 windows [W, T].

    alpha runs over `points` values of 0..1, besides no smoothing.
    """
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    linears: dict[str, Channels] = {}

    def treat(number: int, layer: LlamaDecoderLayer, source: str, rows: torch.Tensor) -> torch.Tensor:
        readers = [layer.get_submodule(name) for name in layers.READERS[source]]
        joined = torch.cat([reader.weight for reader in readers])
        tie = shared if source == "output" else 1
        scale = smoothing(joined, rows, points, tie, model.config.head_dim)
        for name, reader in zip(layers.READERS[source], readers, strict=True):
            found = channels(reader.weight * scale)
            linears[f"model.layers.{number}.{name}"] = found
            reader.weight.copy_(found.weight())
        maker, name = layer.get_submodule(layers.MAKERS[source]), f"model.layers.{number}.{layers.MAKERS[source]}"
        divisor = search.untie(scale, tie, model.config.head_dim)
        if name in linears:
            linears[name] = Channels(linears[name].levels, (linears[name].scale.float() / divisor).half())
            maker.weight.copy_(linears[name].weight())
        else:
            maker.weight.div_(divisor)
        return scale

    layers.walk(model, windows, treat)
    for layer in model.model.layers:
        for names in layers.READERS.values():
            for name in names:
                layer.get_submodule(name).register_forward_pre_hook(lambda _, given: (tokens_rounded(given[0]),))
    return W8A8Model(layers.stored_config(model, {}), linears, layers.others(model, linears))


def smoothing(weight: torch.Tensor, rows: torch.Tensor, points: int, tie: int, head_dim: int) -> torch.Tensor:
    """The divisor [K] of the input channels of `weight` [N, K] that leaves least output error on `rows` [R, K].

    `tie` neighbouring heads of `head_dim` channels share theirs, as in search.channel_scales.
    """
    peaks = rows.abs().amax(0).clamp(min=1e-5).view(-1, tie, head_dim)
    peaks = peaks.amax(1, keepdim=True).expand_as(peaks).reshape(-1)
    heights = weight.abs().amax(0).clamp(min=1e-5).view(-1, tie, head_dim)
    heights = heights.amax(1, keepdim=True).expand_as(heights).reshape(-1)
    seen, part = rows[::max(1, len(rows) // SAMPLED)], weight[::max(1, len(weight) // SAMPLED)]
    exact = seen @ part.T
    best, best_error = None, None
    for alpha in (None, *torch.linspace(0, 1, points).tolist()):
        scale = torch.ones_like(peaks) if alpha is None else peaks ** alpha / heights ** (1 - alpha)
        scale = scale / (scale.max() * scale.min()).sqrt()
        found = tokens_rounded(seen / scale) @ channels(part * scale).weight().T
        error = (found - exact).square().sum()
        if best_error is None or error < best_error:
            best, best_error = scale, error
    return best


def channels(weight: torch.Tensor) -> Channels:
    """`weight` [N, K] rounded to int8, symmetric, one fp16 scale an output."""
    scale = (weight.abs().amax(1) / LARGEST).clamp(min=2.0 ** -14).half()
    levels = (weight / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST)
    return Channels(levels.to(torch.int8), scale)


def tokens_rounded(rows: torch.Tensor) -> torch.Tensor:
    """Float `rows` [..., K] after int8 rounding, symmetric, one scale a row."""
    scale = (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).round().clamp(-LARGEST, LARGEST) * scale
