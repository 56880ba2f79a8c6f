"""A Llama-shaped language model as an ONNX graph that keeps its keys and values in place.

Written operator by operator rather than traced. Traced attention is a dozen small operators a layer
that copy the whole cache at every token; onnxruntime's own GroupQueryAttention turns the queries,
masks, and writes into a cache that the caller owns, so that a token costs no copy, a prefix is
restored by filling a buffer, and going back is a number. Llama and Mistral shapes are covered:
RMS norms, rotary positions, a gated SiLU, no biases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tamis.bundle import BundleError

MICROSOFT: Final = "com.microsoft"
OPSET: Final = 21
IR_VERSION: Final = 10
SHAPES: Final = frozenset({"LlamaForCausalLM", "MistralForCausalLM"})

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    positions: int
    theta: float
    epsilon: float

    @classmethod
    def of(cls, config: Mapping[str, Any], positions: int) -> "DecoderShape":
        """The shape that a config of transformers describes, for texts of ``positions`` tokens.

        Raises:
            BundleError: where the model is built in a way that the graph does not say.
        """
        names = config.get("architectures") or ()
        if not SHAPES.intersection(names):
            raise BundleError(f"architecture {names}: only {', '.join(sorted(SHAPES))}")
        scaling = config.get("rope_scaling") or {}
        odd = {
            "hidden_act": config["hidden_act"] != "silu",
            "rope_scaling": scaling.get("rope_type", "default") != "default",
            "attention_bias": config.get("attention_bias", False),
            "mlp_bias": config.get("mlp_bias", False),
            "sliding_window": (config.get("sliding_window") or positions) < positions,
            "max_position_embeddings": config["max_position_embeddings"] < positions,
        }
        if stray := [name for name, found in odd.items() if found]:
            raise BundleError(f"{stray[0]}: {config.get(stray[0])!r} is not supported")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return cls(
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_size=config.get("head_dim") or hidden // heads,
            hidden=hidden,
            vocabulary=config["vocab_size"],
            positions=positions,
            theta=config["rope_theta"],
            epsilon=config["rms_norm_eps"],
        )


def decoder(weights: Weights, shape: DecoderShape) -> ModelProto:
    """The graph in fp32; products are plain MatMuls, for a quantiser to find.

    Inputs, for one text (C is the length of the caller's cache, T new tokens, W wanted positions):
        ``input_ids`` (1, T) int64; ``last`` (1,) int32, tokens in the cache after this run, less
        one; ``total`` () int32, the same plus one; ``wanted`` (W,) int64, which of the T positions
        get logits; ``past.N.key`` and ``past.N.value`` (1, kv_heads, C, head_size).
    Outputs:
        ``logits`` (W, vocabulary); ``present.N.key``, ``present.N.value``: bind them to the
        buffers of their ``past``, and the tokens are written in place.
    """
    return _Writer(weights, shape).write()


class _Writer:
    def __init__(self, weights: Weights, shape: DecoderShape) -> None:
        self._weights, self._shape = weights, shape
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def write(self) -> ModelProto:
        shape = self._shape
        self._rotations()
        self._constant("embedding", self._weights["model.embed_tokens.weight"])
        self._node("Gather", ["embedding", "input_ids"], "embedded")
        skip, delta = "embedded", ""
        for layer in range(shape.layers):
            skip, delta = self._layer(layer, skip, delta)
        _, last = self._norm("model.norm", skip, delta)
        # The head is a fifth of all weights: only for positions that somebody reads.
        self._node("Gather", [last, "wanted"], "chosen", axis=1)
        head = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])
        self._matmul("head", "chosen", head, "chosen_logits")
        self._constant("no_batch", np.array([0]))
        self._node("Squeeze", ["chosen_logits", "no_batch"], "logits")
        return self._model()

    def _layer(self, n: int, skip: str, delta: str) -> tuple[str, str]:
        """One layer: returns the stream before its last addition, and what is to be added."""
        shape, at = self._shape, f"model.layers.{n}"
        skip, normed = self._norm(f"{at}.input_layernorm", skip, delta)
        # One product for queries, keys and values, one for gate and up.
        qkv = [self._weights[f"{at}.self_attn.{part}_proj.weight"] for part in "qkv"]
        self._matmul(f"{at}.qkv", normed, np.concatenate(qkv), f"{at}.qkv_out")
        self._node(
            "GroupQueryAttention",
            [
                *(f"{at}.qkv_out", "", "", f"past.{n}.key", f"past.{n}.value"),
                *("last", "total", "cosines", "sines"),
            ],
            f"{at}.heads",
            f"present.{n}.key",
            f"present.{n}.value",
            domain=MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.head_size**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
        )
        out = self._weights[f"{at}.self_attn.o_proj.weight"]
        self._matmul(f"{at}.out", f"{at}.heads", out, f"{at}.attended")
        skip, normed = self._norm(f"{at}.post_attention_layernorm", skip, f"{at}.attended")
        for part in ("gate", "up"):
            wide = self._weights[f"{at}.mlp.{part}_proj.weight"]
            self._matmul(f"{at}.{part}", normed, wide, f"{at}.{part}_out")
        # x * sigmoid(x) in one operator.
        silu = f"{at}.silu"
        self._node("QuickGelu", [f"{at}.gate_out"], silu, domain=MICROSOFT, alpha=1.0)
        self._node("Mul", [silu, f"{at}.up_out"], f"{at}.gated")
        down = self._weights[f"{at}.mlp.down_proj.weight"]
        self._matmul(f"{at}.down", f"{at}.gated", down, f"{at}.down_out")
        return skip, f"{at}.down_out"

    def _norm(self, name: str, skip: str, delta: str) -> tuple[str, str]:
        """RMS norm of ``skip + delta``; returns the sum and the normed."""
        scale = self._constant(f"{name}.weight", self._weights[f"{name}.weight"])
        out, epsilon = f"{name}.out", self._shape.epsilon
        if not delta:
            self._node("SimplifiedLayerNormalization", [skip, scale], out, epsilon=epsilon, axis=-1)
            return skip, out
        total = f"{name}.sum"
        self._node(
            "SkipSimplifiedLayerNormalization",
            [skip, delta, scale],
            *(out, "", "", total),
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        return total, out

    def _rotations(self) -> None:
        half = self._shape.head_size // 2
        frequency = self._shape.theta ** (-np.arange(half, dtype=np.float64) / half)
        angles = np.outer(np.arange(self._shape.positions), frequency)
        self._constant("cosines", np.cos(angles).astype(np.float32))
        self._constant("sines", np.sin(angles).astype(np.float32))

    def _matmul(self, name: str, activation: str, weight: NDArray[np.float32], out: str) -> None:
        self._constant(f"{name}.weight", np.ascontiguousarray(weight.T))
        self._node("MatMul", [activation, f"{name}.weight"], out, name=name)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = value
        return name

    def _node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, list(outputs), **attributes))

    def _model(self) -> ModelProto:
        shape, real = self._shape, TensorProto.FLOAT
        names = [f"{n}.{part}" for n in range(shape.layers) for part in ("key", "value")]
        cache = [1, shape.kv_heads, "cache", shape.head_size]
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
            helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
            helper.make_tensor_value_info("wanted", TensorProto.INT64, ["wanted_tokens"]),
            *(helper.make_tensor_value_info(f"past.{name}", real, cache) for name in names),
        ]
        outputs = [
            helper.make_tensor_value_info("logits", real, ["wanted_tokens", shape.vocabulary]),
            *(helper.make_tensor_value_info(f"present.{name}", real, cache) for name in names),
        ]
        graph = helper.make_graph(
            self._nodes,
            "decoder",
            inputs,
            outputs,
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
