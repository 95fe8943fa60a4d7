"""Bytes of one training step, part by part, from a model's shape: weights, gradients, optimizer, activations, logits.

The states of mixed-precision training and how ZeRO divides them: Rajbhandari et al. 2020, arXiv:1910.02054, sections
3.1 and 5. What a layer keeps for its backward pass is counted tensor by tensor as Korthikanti et al. 2022,
arXiv:2205.05198, section 4 do for GPT; here for a Llama layer (RMSNorm, rotary, grouped heads, SwiGLU) as transformers
writes it. 4-bit weights: Dettmers et al. 2023, arXiv:2305.14314 (QLoRA), section 3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.stage import StageError

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # a weight, its share of the block's 8-bit scale, of the scales' own scale
LOGIT_BYTES = 12  # a logit in fp32, as cross-entropy turns back: log-probability, its gradient, the logit's gradient
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A Llama: widths, counts, and whether the head is the embedding."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From a Hugging Face config. Raises StageError naming the key that is missing or is no positive number."""
        values = {}
        for ours, theirs in (("hidden", "hidden_size"), ("intermediate", "intermediate_size"),
                             ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"),
                             ("vocabulary", "vocab_size")):
            values[ours] = config.get(theirs)
        values["kv_heads"] = config.get("num_key_value_heads") or values["heads"]
        values["head_dim"] = config.get("head_dim") or (values["hidden"] or 0) // (values["heads"] or 1)
        for name, value in values.items():
            if type(value) is not int or value < 1:
                raise StageError(f"config.json: {name} = {value!r} where a positive whole number should be: is this "
                                 "a Llama's configuration?")
        return cls(**values, tied=bool(config.get("tie_word_embeddings", False)))

    @classmethod
    def read(cls, place: Path) -> Shape:
        """Of a model directory or its config.json. Raises StageError where there is none to be read."""
        file = place / "config.json" if place.is_dir() else place
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StageError(f"{place} is no model directory: config.json cannot be read ({error})") from None
        if not isinstance(config, dict):
            raise StageError(f"{file} holds no configuration")
        return cls.of(config)

    def linears(self) -> dict[str, tuple[int, int]]:
        """name -> (inputs, outputs) of the linear layers of one block."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
                "gate_proj": (h, self.intermediate), "up_proj": (h, self.intermediate),
                "down_proj": (self.intermediate, h)}

    @property
    def matrices(self) -> int:
        """Weights of all blocks' linear layers."""
        return self.layers * sum(a * b for a, b in self.linears().values())

    @property
    def table(self) -> int:
        """Weights of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, a tied head counted once."""
        return self.matrices + self.table * (1 if self.tied else 2) + self.hidden * (2 * self.layers + 1)


@dataclass(frozen=True)
class Method:
    """How a model is trained: what learns, in which numbers, over how much at once, divided how.

    precision: "fp32"; "autocast" (fp32 weights, bf16 products: this project on a CPU); "bf16" (bf16 weights and
    gradients beside fp32 master weights: DeepSpeed on a GPU). batch: sequences a device takes at once. attention:
    "products" holds the n x n weights, "flash" does not. learned: share of the tokens whose logits are computed.
    """

    kind: Literal["full", "lora", "qlora"]
    sequence: int
    batch: int
    precision: Literal["fp32", "autocast", "bf16"] = "autocast"
    checkpointing: bool = False
    zero: int = 0
    offload: bool = False
    rank: int = 16
    targets: tuple[str, ...] = TARGETS
    attention: Literal["products", "flash"] = "products"
    optimizer: Literal["adamw", "muon"] = "adamw"
    learned: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens a device takes at once."""
        return self.sequence * self.batch


def adapters(shape: Shape, method: Method) -> int:
    """Weights of the low-rank adapters, r (inputs + outputs) a target (Hu et al. 2021, arXiv:2106.09685, 4.1)."""
    linears = shape.linears()
    return shape.layers * method.rank * sum(sum(linears[name]) for name in method.targets)


def trained(shape: Shape, method: Method) -> int:
    """Weights that learn."""
    return shape.parameters if method.kind == "full" else adapters(shape, method)


def states(shape: Shape, method: Method, devices: int) -> dict[str, float]:
    """Bytes a device of weights, gradients and optimizer, after ZeRO's division among `devices`; with offload the
    optimizer's bytes, "host", lie in the host's memory."""
    low = method.precision == "bf16"
    learning, width = trained(shape, method), 2 if low else 4
    frozen = 0.0 if method.kind == "full" else shape.parameters * float(width)
    if method.kind == "qlora":
        frozen = shape.matrices * NF4_BITS / 8 + (shape.parameters - shape.matrices) * width
    # ZeRO's K: fp32 master weights and Adam's two moments; here weights are their own master, Muon has one moment
    kept = learning * ((4 if low else 0) + (4 if method.optimizer == "muon" else 8))
    part = {"weights": frozen + learning * width if method.kind != "full" else learning * width,
            "gradients": learning * float(width), "optimizer": float(kept)}
    for name, first in (("optimizer", 1), ("gradients", 2), ("weights", 3)):
        if method.zero >= first:
            part[name] /= devices
    if method.offload:
        part["host"], part["optimizer"] = part["optimizer"], 0.0
    return part


def layer_activations(shape: Shape, method: Method) -> float:
    """Bytes a token that one layer keeps for its backward pass.

    Elements: h the residual stream, q and k the widths of queries and keys, i the inner width, a heads, s sequence. In
    full training: each norm its input, what it normalized, and its output as the linears read it; q + 2k; the weights
    a s; the context q; 4 i of SwiGLU. A frozen linear keeps no input of its own and a frozen norm only its input.
    Autocast copies a linear's input for each linear that reads it.
    """
    h, i = shape.hidden, shape.intermediate
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    product = 4 if method.precision == "fp32" else 2
    full = method.kind == "full"
    learns = set(shape.linears()) if full else set(method.targets)
    norm = 4 * h + (h * (2 if method.precision == "bf16" else 4) if full else 0)
    total = 2.0 * norm
    for readers in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        reading = sum(name in learns for name in readers)
        total += h * product * (reading if method.precision == "autocast" else min(1, reading))
    total += product * (q + 2 * k)
    if method.attention == "products":
        total += product * shape.heads * method.sequence
        total += product * q * ("o_proj" in learns)
    else:
        total += product * q + 4 * shape.heads
    total += i * (3 * between(method) + product * ("down_proj" in learns))
    if not full:
        total += product * method.rank * len(method.targets)
    return total


def layer_passing(shape: Shape, method: Method) -> float:
    """Bytes a token that the backward pass of one layer holds for a moment beside what was kept: the gradients of the
    n x n weights and of their scores, or those of SwiGLU's four tensors, whichever are more."""
    attention = 0.0
    if method.attention == "products":
        attention = {"fp32": 8, "autocast": 10, "bf16": 4}[method.precision] * shape.heads * method.sequence
    return max(attention, between(method) * 4.0 * shape.intermediate)


def between(method: Method) -> int:
    """Bytes of a number that SwiGLU computes between its products: bitsandbytes hands on the numbers of what it read,
    so under autocast what follows an fp32 norm stays in fp32 (seen by saved-tensor hooks)."""
    return 4 if method.precision == "fp32" or (method.kind == "qlora" and method.precision == "autocast") else 2


def activations(shape: Shape, method: Method) -> float:
    """Bytes a device keeps between forward and backward pass: every layer's, or, checkpointed, every layer's input
    and one layer's recomputed inside (Korthikanti et al., section 5, full recomputation)."""
    stream = shape.hidden * (2 if method.precision == "bf16" else 4)
    one = layer_activations(shape, method)
    layers = shape.layers * stream + one if method.checkpointing else shape.layers * one
    head = shape.hidden * (4 if method.precision == "fp32" else 2) * method.learned if method.kind == "full" else 0
    return method.tokens * (layers + 2 * stream + head)  # and the last norm, and what the head reads


def logits(shape: Shape, method: Method) -> float:
    """Bytes of the scores of the vocabulary at the height of the loss."""
    return method.tokens * method.learned * shape.vocabulary * LOGIT_BYTES


def copies(shape: Shape, method: Method) -> float:
    """Bytes of weights in the products' numbers, kept beside those in fp32 (autocast) or in 4 bits (QLoRA): all of
    them until the backward pass has used them, or, where layers are recomputed, one layer's."""
    if method.precision == "fp32" and method.kind != "qlora" or method.precision == "bf16" and method.kind != "qlora":
        return 0.0
    width = 4 if method.precision == "fp32" else 2
    one = shape.matrices / shape.layers * width
    head = shape.table * 2 if method.precision == "autocast" else 0
    if method.kind == "qlora":  # dequantized where it is used, in the forward and again in the backward pass
        return one + head
    return head + (one if method.checkpointing else one * shape.layers)


def gpt_layer_activations(sequence: int, batch: int, hidden: int, heads: int) -> float:
    """Korthikanti et al., equation 1: bytes of one GPT layer in 16 bits with dropout, s b h (34 + 5 a s / h)."""
    return sequence * batch * hidden * (34 + 5 * heads * sequence / hidden)
