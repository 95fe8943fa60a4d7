"""The ONNX graph of a quantized Llama: what ONNX Runtime runs, built node by node so that its bytes never vary.

One graph serves prefill and decode: `input_ids` [batch, sequence] continues sequences whose keys and values lie in
`past_key_values.*` [batch, kv_heads, length, head_dim]; bound to the same buffer as `present.*` they grow in place.
`seqlens_k` int32 [batch] is each sequence's length after the step, less one; `total_sequence_length` int32 [] is the
longest; `logit_rows` int64 [rows] picks rows of the flattened [batch * sequence] whose logits are wanted.
Linear layers are MatMulNBits (4 bits), the head is MatMulNBits (8 bits), sharing its codes with the embedding where
they are tied (GatherBlockQuantized). Operators: onnxruntime docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, CONTRIB, INT8_ACTIVATIONS = 20, "com.microsoft", 4


@dataclass(frozen=True)
class Codes:
    """A matrix [N, K] quantized in groups of `group` along K: weight = (codes - zeros) * scales."""

    codes: np.ndarray   # uint8 [N, K], one code a byte
    scales: np.ndarray  # float32 [N, K / group]
    zeros: np.ndarray   # uint8 [N, K / group]
    bits: int

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantized(self) -> np.ndarray:
        """The matrix as float32 [N, K]."""
        n, k = self.codes.shape
        grouped = self.codes.reshape(n, -1, self.group).astype(np.float32)
        return ((grouped - self.zeros[..., None]) * self.scales[..., None]).reshape(n, k)


def eight_bits(weight: np.ndarray, group: int) -> Codes:
    """Round `weight` float32 [N, K] to 8 bits, asymmetric, in groups along K."""
    n, k = weight.shape
    grouped = weight.reshape(n, k // group, group)
    low = np.minimum(grouped.min(-1), 0)
    scales = np.maximum((np.maximum(grouped.max(-1), 0) - low) / 255, 1e-8).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, 255)
    codes = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, 255)
    return Codes(codes.reshape(n, k).astype(np.uint8), scales, zeros.astype(np.uint8), 8)


def stack(parts: list[Codes]) -> Codes:
    """Matrices that read the same input, as one: rows after rows."""
    return Codes(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("codes", "scales", "zeros")),
                 bits=parts[0].bits)


def nibbles(codes: np.ndarray) -> np.ndarray:
    """Pack 4-bit codes uint8 [..., K] two a byte along the last axis, the even one low; an odd end is padded."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4


class Graph:
    """Nodes and initializers in the order they were asked for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def linear(self, x: str, weight: Codes, name: str, codes: str | None = None) -> str:
        """x [..., K] @ weight.T -> [..., N]; `codes` names an initializer that already holds the packed codes."""
        n, k = weight.codes.shape
        if codes is None:
            packed = nibbles(weight.codes) if weight.bits == 4 else weight.codes
            codes = self.constant(f"{name}.codes", packed.reshape(n, k // weight.group, -1))
        zeros = nibbles(weight.zeros) if weight.bits == 4 else weight.zeros
        return self.node(
            "MatMulNBits",
            [x, codes, self.constant(f"{name}.scales", weight.scales.reshape(-1)),
             self.constant(f"{name}.zeros", zeros.reshape(-1))],
            [name], domain=CONTRIB, K=k, N=n, bits=weight.bits, block_size=weight.group,
            accuracy_level=INT8_ACTIVATIONS)


def rotary(head_dim: int, theta: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin float32 [length, head_dim / 2] of rotary positions (Su et al. 2021), as transformers has it."""
    inverse = (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)).astype(np.float32)
    angles = np.outer(np.arange(length, dtype=np.float32), inverse)
    return np.cos(angles), np.sin(angles)


def embedding(graph: Graph, tensors: dict[str, Any], tied: Codes | None) -> str:
    """Rows of the embedding for input_ids, from the head's 8-bit codes where tied, else from the float table."""
    if tied is None:
        return graph.node("Gather", [graph.constant("embedding", tensors["model.embed_tokens.weight"]), "input_ids"],
                          ["embedded"])
    n, k = tied.codes.shape
    codes = graph.constant("head.codes", tied.codes.reshape(n, k // tied.group, tied.group))
    graph.node("GatherBlockQuantized",
               [codes, "input_ids", graph.constant("embedding.scales", tied.scales[..., None]),
                graph.constant("embedding.zeros", tied.zeros[..., None])],
               ["embedded.groups"], domain=CONTRIB, bits=8, block_size=tied.group, gather_axis=0, quantize_axis=2)
    return graph.node("Reshape", ["embedded.groups", graph.constant("hidden_shape", np.array([0, 0, k]))],
                      ["embedded"])


def build(config: dict[str, Any], tensors: dict[str, Any], head: Codes, tied: bool) -> onnx.ModelProto:
    """The graph of a Llama with `config` (its config.json) and `tensors`: module path -> Codes, norms as float32.

    `tensors` holds `model.layers.I.{self_attn.{q,k,v,o}_proj,mlp.{gate,up,down}_proj}` as Codes and the norms'
    `.weight` (and, untied, `model.embed_tokens.weight`) as arrays.
    """
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head_dim, inner = config.get("head_dim") or hidden // heads, config["intermediate_size"]
    eps, layers = config["rms_norm_eps"], config["num_hidden_layers"]
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    graph = Graph()
    cos, sin = rotary(head_dim, theta, config["max_position_embeddings"])
    graph.constant("cos", cos)
    graph.constant("sin", sin)
    graph.constant("halves", np.array([inner, inner]))
    x = embedding(graph, tensors, head if tied else None)
    normed = graph.node(
        "SimplifiedLayerNormalization",
        [x, graph.constant("norm.0", tensors["model.layers.0.input_layernorm.weight"])], ["normed.0"],
        axis=-1, epsilon=eps, stash_type=1)
    for i in range(layers):
        path, at = f"model.layers.{i}", f"layer.{i}"
        qkv = graph.linear(normed, stack([tensors[f"{path}.self_attn.{p}_proj"] for p in "qkv"]), f"{at}.qkv")
        attended = graph.node(
            "GroupQueryAttention",
            [qkv, "", "", f"past_key_values.{i}.key", f"past_key_values.{i}.value", "seqlens_k",
             "total_sequence_length", "cos", "sin"],
            [f"{at}.attended", f"present.{i}.key", f"present.{i}.value"], domain=CONTRIB,
            num_heads=heads, kv_num_heads=kv_heads, scale=head_dim ** -0.5, do_rotary=1, rotary_interleaved=0)
        output = graph.linear(attended, tensors[f"{path}.self_attn.o_proj"], f"{at}.o")
        normed, x = skip_norm(graph, x, output, tensors[f"{path}.post_attention_layernorm.weight"], f"{at}.mid", eps)
        gate_up = graph.linear(normed, stack([tensors[f"{path}.mlp.{p}_proj"] for p in ("gate", "up")]),
                               f"{at}.gate_up")
        graph.node("Split", [gate_up, "halves"], [f"{at}.gate", f"{at}.up"], axis=-1)
        graph.node("QuickGelu", [f"{at}.gate"], [f"{at}.silu"], domain=CONTRIB, alpha=1.0)
        swiglu = graph.node("Mul", [f"{at}.silu", f"{at}.up"], [f"{at}.swiglu"])
        output = graph.linear(swiglu, tensors[f"{path}.mlp.down_proj"], f"{at}.down")
        following = f"model.layers.{i + 1}.input_layernorm" if i + 1 < layers else "model.norm"
        normed, x = skip_norm(graph, x, output, tensors[f"{following}.weight"], f"{at}.end", eps)
    flat = graph.node("Reshape", [normed, graph.constant("flat_shape", np.array([-1, hidden]))], ["flat"])
    rows = graph.node("Gather", [flat, "logit_rows"], ["rows"], axis=0)
    graph.linear(rows, head, "logits", codes="head.codes" if tied else None)
    return model(graph, layers, kv_heads, head_dim, head.codes.shape[0])


def skip_norm(graph: Graph, x: str, delta: str, weight: np.ndarray, name: str, eps: float) -> tuple[str, str]:
    """(RMSNorm(x + delta) * weight, x + delta)."""
    graph.node("SkipSimplifiedLayerNormalization", [x, delta, graph.constant(f"{name}.weight", weight)],
               [f"{name}.normed", "", "", f"{name}.sum"], domain=CONTRIB, epsilon=eps)
    return f"{name}.normed", f"{name}.sum"


def model(graph: Graph, layers: int, kv_heads: int, head_dim: int, vocabulary: int) -> onnx.ModelProto:
    """The ModelProto with its typed inputs and outputs."""
    info = helper.make_tensor_value_info
    inputs = [info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
              info("seqlens_k", TensorProto.INT32, ["batch"]),
              info("total_sequence_length", TensorProto.INT32, []),
              info("logit_rows", TensorProto.INT64, ["rows"])]
    outputs = [info("logits", TensorProto.FLOAT, ["rows", vocabulary])]
    for i in range(layers):
        for part in ("key", "value"):
            shape = ["batch", kv_heads, "past", head_dim]
            inputs.append(info(f"past_key_values.{i}.{part}", TensorProto.FLOAT, shape))
            outputs.append(info(f"present.{i}.{part}", TensorProto.FLOAT, ["batch", kv_heads, "present", head_dim]))
    return helper.make_model(
        helper.make_graph(graph.nodes, "llama", inputs, outputs, graph.initializers), producer_name="catena",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)], ir_version=10)
