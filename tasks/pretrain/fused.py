"""The stock Llama's training step on a CPU with what lies between its matrix products fused (kernels/training).

`install` swaps the forward functions of one model's own modules; its weights, their names and what is saved stay the
stock class's, and evaluation runs the stock functions. The numbers are those of autocast but for the places where it
rounds to bf16 in between. Projections of one input (query, key, value; gate, up) are one product, weights are cast
once a step, and the head's logits become their own gradient in place instead of five float32 copies.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaForCausalLM, PreTrainedModel

from kernels.compiler import CompilerMissing
from kernels.training import library
from kernels.training.library import library as load
from tasks.stage import StageError


class Norm(torch.autograd.Function):
    """RMSNorm of float32 x [..., size], in the products' precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.float().reshape(-1, x.shape[-1]).contiguous()
        y, scale = library.norm_forward(rows, weight, eps, precision())
        ctx.save_for_backward(rows, weight, scale)
        ctx.dtype = x.dtype
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scale = ctx.saved_tensors
        dx, dweight = library.norm_backward(rows, weight, scale, dy.reshape(rows.shape).contiguous())
        return dx.view(dy.shape).to(ctx.dtype), dweight, None


class Linear(torch.autograd.Function):
    """x [rows, inputs] times several weights [outputs, inputs] at once: [rows, all outputs]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        joined = together(weights, x.dtype)
        ctx.save_for_backward(x, joined)
        ctx.sizes = [len(weight) for weight in weights]
        return x @ joined.T

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, joined = ctx.saved_tensors
        return dy @ joined, *(dy.T @ x).float().split(ctx.sizes)


class Swiglu(torch.autograd.Function):
    """silu(gate) * value [rows, size] of joined [rows, 2 size]."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        ctx.save_for_backward(joined)
        return library.swiglu_forward(joined)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return library.swiglu_backward(*ctx.saved_tensors, dy.contiguous())


class Rope(torch.autograd.Function):
    """Turned queries and keys, and values, each [batch, heads, n, size], from one product's output."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, cosines: Tensor, sines: Tensor, heads: int, shared: int
                ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosines, sines)
        return library.rope_forward(joined, cosines, sines, heads, shared)

    @staticmethod
    def backward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor | None, ...]:
        found = library.rope_backward(q.contiguous(), k.contiguous(), v.contiguous(), *ctx.saved_tensors)
        return found, None, None, None, None


class Entropy(torch.autograd.Function):
    """Mean cross entropy, nats, of targets [rows] under hidden [rows, size] times the head [vocabulary, size]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        weight = head.to(hidden.dtype)
        logits = hidden @ weight.T
        share = 1 / max(1, int((targets != -100).sum()))
        nats = library.entropy(logits, targets, share)
        ctx.save_for_backward(hidden, weight, logits)
        return nats.sum() * share

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, gradient = ctx.saved_tensors
        if scale != 1:
            gradient = gradient * scale.to(gradient.dtype)
        return gradient @ weight, (gradient.T @ hidden).float(), None


def precision() -> torch.dtype:
    """Of the products that follow: autocast's, or float32."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def together(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The weights below one another [all outputs, inputs], as `dtype`."""
    joined = torch.empty(sum(map(len, weights)), weights[0].shape[1], dtype=dtype)
    for weight, part in zip(weights, joined.split([len(weight) for weight in weights])):
        part.copy_(weight)
    return joined


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """LlamaRMSNorm.forward."""
    return Norm.apply(x, module.weight, module.variance_epsilon)


def mlp(module: nn.Module, x: Tensor) -> Tensor:
    """LlamaMLP.forward."""
    joined = Linear.apply(x.flatten(0, -2), module.gate_proj.weight, module.up_proj.weight)
    return Linear.apply(Swiglu.apply(joined), module.down_proj.weight).view(x.shape)


def attention(module: nn.Module, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor],
              attention_mask: Tensor | None = None, **rest: Any) -> tuple[Tensor, None]:
    """LlamaAttention.forward for training: nothing is kept for a later token."""
    config, shape = module.config, hidden_states.shape
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    joined = Linear.apply(hidden_states.flatten(0, 1), module.q_proj.weight, module.k_proj.weight, module.v_proj.weight)
    cosines, sines = (angles.float().contiguous() for angles in position_embeddings)
    q, k, v = Rope.apply(joined.view(*shape[:2], heads + 2 * shared, module.head_dim), cosines, sines, heads, shared)
    found, _ = AttentionInterface()[config._attn_implementation](
        module, q, k, v, attention_mask, scaling=module.scaling, dropout=0.0, **rest)
    return Linear.apply(found.reshape(-1, heads * module.head_dim), module.o_proj.weight).view(shape), None


def head(module: nn.Module, hidden: Tensor) -> Tensor:
    """The head's forward: the hidden states themselves, which `loss` takes on."""
    return hidden


def fits(model: nn.Module) -> bool:
    """Whether `install` knows this model: a Llama on a CPU without biases or dropout, silu its activation."""
    config = getattr(model, "config", None)
    return (type(model) is LlamaForCausalLM and model.device.type == "cpu" and config.hidden_act == "silu"
            and not (config.attention_bias or config.mlp_bias or config.attention_dropout))


def install(model: PreTrainedModel) -> None:
    """Let `model` train by the fused functions; in evaluation it runs as before. Its attention function must be a
    registered one. Raises StageError where the kernels cannot be built."""
    try:
        load()
    except CompilerMissing as missing:
        raise StageError(f"training on a CPU builds its kernels first: {missing}") from None
    for block in model.model.layers:
        swap(block.self_attn, attention)
        swap(block.mlp, mlp)
        swap(block.input_layernorm, norm)
        swap(block.post_attention_layernorm, norm)
    swap(model.model.norm, norm)
    swap(model.lm_head, head)


def swap(module: nn.Module, trained: Callable[..., Any]) -> None:
    """Give `module` a forward function for training; its class's stays for evaluation."""
    stock = module.forward

    def forward(self: nn.Module, *given: Any, **named: Any) -> Any:
        return trained(self, *given, **named) if self.training else stock(*given, **named)

    module.forward = MethodType(forward, module)


def loss(engine: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Mean nats a token of int64 targets [batch, n], -100 ones left out, given the inputs before them, by a model,
    installed or not, or by DeepSpeed's engine around it."""
    model, targets = getattr(engine, "module", engine), targets.flatten()
    found = engine(**inputs, use_cache=False).logits.flatten(0, 1)
    if "forward" in vars(model.lm_head):
        return Entropy.apply(found, model.lm_head.weight, targets)
    return nn.functional.cross_entropy(found.float(), targets)
