"""fp32 graph → int8: smoothed activations, per-channel weights, per-row embeddings.

Dynamic int8 takes *one* scale for a whole activation tensor, so the few large values that every
BERT has cost all others their precision: that is where naive quantisation loses decisions. Two
remedies, both measured in ``docs/lab-log.md``:

* Large *channels* are scaled down before the product and their weight rows up (SmoothQuant, Xiao
  et al. 2023), which leaves the product unchanged. The price is one elementwise Mul.
* Large *tokens* cannot be smoothed. They sit in the second feed-forward product of the first
  layers; the few worst products get a scale per block of 64 values instead (MatMulNBits at 8 bits),
  1.6 times as slow and four times as exact.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

Feed = Mapping[str, np.ndarray]

STRENGTHS = (0.6, 0.7, 0.8)
BLOCKWISE = 8
SENSITIVITY_FEEDS = 64
# Products with few outputs are the heads: tiny, and where an error is felt at once.
SMALLEST = 64


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMul with constant weights, the activation it reads and the weight's name."""

    node: NodeProto
    activation: str
    weight: str


def session(model: ModelProto, threads: int = 2) -> ort.InferenceSession:
    """A CPU session of an in-memory graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def products(model: ModelProto) -> tuple[list[Product], list[str]]:
    """The products to quantise, and the names of those (the heads) to leave alone."""
    weights = {i.name: i.dims for i in model.graph.initializer}
    found = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    large = [n for n in found if weights[n.input[1]][1] >= SMALLEST]
    return (
        [Product(n, n.input[0], n.input[1]) for n in large],
        [n.name for n in found if weights[n.input[1]][1] < SMALLEST],
    )


def activation_ranges(model: ModelProto, feeds: Sequence[Feed]) -> dict[str, np.ndarray]:
    """The largest absolute value per channel of every activation a product reads."""
    names = sorted({p.activation for p in products(model)[0]})
    probe = deepcopy(model)
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    run = session(probe)
    ranges: dict[str, np.ndarray] = {}
    for feed in feeds:
        for name, value in zip(names, run.run(names, dict(feed)), strict=True):
            peak = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            ranges[name] = np.maximum(ranges.get(name, peak), peak)
    return ranges


def smooth(
    model: ModelProto,
    ranges: Mapping[str, np.ndarray],
    strength: float,
    skip: Collection[str] = (),
) -> ModelProto:
    """Divide each activation channel by s, multiply the weight row by s; the product is unchanged.

    s = range(activation)^strength / range(weight row)^(1 - strength), shared by the products that
    read the same activation (query, key and value). Activations in ``skip`` stay as they are.
    """
    out = deepcopy(model)
    initial = {i.name: i for i in out.graph.initializer}
    readers: dict[str, list[str]] = {}
    for product in products(out)[0]:
        if product.activation not in skip:
            readers.setdefault(product.activation, []).append(product.weight)
    for activation, names in readers.items():
        weights = [numpy_helper.to_array(initial[name]) for name in names]
        rows = np.maximum.reduce([np.abs(w).max(axis=1) for w in weights])
        s = ranges[activation].clip(1e-5) ** strength / rows.clip(1e-5) ** (1 - strength)
        s = s.astype(np.float32)
        for name, weight in zip(names, weights, strict=True):
            initial[name].CopyFrom(numpy_helper.from_array(weight * s[:, None], name))
        out.graph.initializer.append(numpy_helper.from_array(1 / s, f"{activation}_smoothing"))

    nodes: list[NodeProto] = []
    smoothed: set[str] = set()
    for node in model.graph.node:
        activation = node.input[0] if node.input else ""
        if node.op_type == "MatMul" and node.input[1] in readers.get(activation, ()):
            name = f"{activation}_smooth"
            if name not in smoothed:
                smoothed.add(name)
                nodes.append(
                    helper.make_node("Mul", [activation, f"{activation}_smoothing"], [name])
                )
            node = deepcopy(node)
            node.input[0] = name
        nodes.append(node)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def quantize_embeddings(model: ModelProto) -> ModelProto:
    """Replace large embedding tables by int8 rows with one scale each, decoded after the lookup.

    The table is more than half of a small model's file; a per-row scale keeps rare words as
    precise as frequent ones, which one scale for the table does not.
    """
    out = deepcopy(model)
    tables = {i.name: i for i in out.graph.initializer if len(i.dims) == 2 and i.dims[0] >= 1024}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables:
            nodes.append(node)
            continue
        name, ids = node.input
        rows = numpy_helper.to_array(tables[name])
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
        packed = np.clip(np.rint(rows / scale), -127, 127).astype(np.int8)
        out.graph.initializer.remove(tables[name])
        out.graph.initializer.append(numpy_helper.from_array(packed, f"{name}_int8"))
        out.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes += [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{name}_row"]),
            helper.make_node("Cast", [f"{name}_row"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{name}_row_scale"]),
            helper.make_node("Mul", [f"{name}_cast", f"{name}_row_scale"], [node.output[0]]),
        ]
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def quantize(model: ModelProto, blockwise: Collection[str] = ()) -> ModelProto:
    """Int8 of all large products: dynamic (U8 activations, S8 weights per channel), or blockwise.

    ``blockwise`` names activations whose products get a scale per block of 64 values.
    """
    large, heads = products(model)
    exact = [p.node.name for p in large if p.activation in blockwise]
    out = _dynamic(model, [p.node.name for p in large if p.node.name not in exact])
    if exact:
        config = DefaultWeightOnlyQuantConfig(
            block_size=64, is_symmetric=True, accuracy_level=4, bits=8
        )
        with _quiet("onnxruntime.quantization.matmul_nbits_quantizer"):
            quantizer = MatMulNBitsQuantizer(out, nodes_to_exclude=heads, algo_config=config)
            quantizer.process()
        out = quantizer.model.model
    return out


def _dynamic(model: ModelProto, nodes: Sequence[str]) -> ModelProto:
    with _quiet(None), tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(nodes),
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


@contextmanager
def _quiet(name: str | None) -> Iterator[None]:
    """The quantisers report every node they skip, and advise steps that do not apply."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def sensitivities(
    model: ModelProto, ranges: Mapping[str, np.ndarray], feeds: Sequence[Feed]
) -> dict[str, float]:
    """For each activation, the mean logit error of quantising its products alone, worst first."""
    reference = _logits(model, feeds)
    smoothed = smooth(model, ranges, STRENGTHS[-1])
    nodes: dict[str, list[str]] = {}
    for product in products(model)[0]:
        nodes.setdefault(product.activation, []).append(product.node.name)
    errors = {
        activation: float(np.abs(_logits(_dynamic(smoothed, names), feeds) - reference).mean())
        for activation, names in nodes.items()
    }
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def best_int8(
    model: ModelProto, feeds: Sequence[Feed], blockwise: int = BLOCKWISE
) -> tuple[ModelProto, dict[str, float]]:
    """The int8 graph with the least error on ``feeds``.

    The ``blockwise`` most sensitive products are made exact, then the smoothing strength of the
    others is searched. Returns the graph, and the mean logit error by strength.
    """
    reference = _logits(model, feeds)
    ranges = activation_ranges(model, feeds)
    exact = list(sensitivities(model, ranges, feeds[:SENSITIVITY_FEEDS]))[:blockwise]
    errors: dict[str, float] = {}
    best: tuple[float, ModelProto] | None = None
    for strength in STRENGTHS:
        smoothed = smooth(model, ranges, strength, skip=exact)
        candidate = quantize(quantize_embeddings(smoothed), exact)
        error = float(np.abs(_logits(candidate, feeds) - reference).mean())
        errors[f"{strength}"] = error
        if best is None or error < best[0]:
            best = error, candidate
    assert best is not None
    return best[1], errors


def _logits(model: ModelProto, feeds: Sequence[Feed]) -> np.ndarray:
    run = session(model)
    return np.concatenate([run.run(["logits"], dict(feed))[0] for feed in feeds])
