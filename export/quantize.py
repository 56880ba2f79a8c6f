"""fp32 graph → int8: products on bytes, one scale per token or one for all, embeddings by rows.

Every scale is either a constant or a token's own, so a text's scores do not depend on the texts
and the padding beside it; onnxruntime's dynamic quantisation takes one scale per *batch*.

* A constant scale costs nothing at run time. It is chosen from calibration texts.
* A scale per token costs four small operators around the product, and keeps a token with small
  values exact beside one with large values. The activations that gain most by it get it.

Both run at 600 to 850 GOPS on one core here, where 8-bit MatMulNBits, which is as exact, runs at
300 and fp32 at 255. The products are written as onnxruntime's own fused operator: it would fuse
MatMulInteger into it anyway. See ``docs/lab-log.md``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Final, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.fuse import merge, smooth, smooth_context, split_outliers
from export.products import (
    THREADS,
    Feed,
    Observed,
    Product,
    by_activation,
    logits,
    observe,
    products,
)
from export.rounding import compensated, nearest

STRENGTHS: Final = (0.6, 0.7, 0.8)
PER_TOKEN: Final = 15
ASIDE: Final = 4
SENSITIVITY_FEEDS: Final = 32
MICROSOFT: Final = "com.microsoft"
# What makes activations with large channels; a split encoder's upper layers begin with the
# normalised states of two parts, side by side.
NORMED: Final = ("LayerNormalization", "Concat")
# The least value of GELU, and the byte that means zero behind it: 231 steps are left above.
GELU_LEAST: Final = 0.17
GELU_ZERO: Final = 24

Int8Weights = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Range(NamedTuple):
    """How an activation becomes bytes: value = (byte - zero) * step."""

    step: float
    zero: int


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
        packed, scale = nearest(numpy_helper.to_array(tables[name]).T)
        out.graph.initializer.remove(tables[name])
        out.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(packed.T), f"{name}_int8")
        )
        out.graph.initializer.append(numpy_helper.from_array(scale[:, None], f"{name}_scale"))
        nodes += [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{name}_row"]),
            helper.make_node("Cast", [f"{name}_row"], [f"{name}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{name}_row_scale"]),
            helper.make_node("Mul", [f"{name}_cast", f"{name}_row_scale"], [node.output[0]]),
        ]
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def round_weights(
    model: ModelProto, seen: Mapping[str, Observed], done: Int8Weights | None = None
) -> Int8Weights:
    """Int8 form of every product's weights and the step of each column; ``done`` is kept."""
    done = done or {}
    initial = {i.name: i for i in model.graph.initializer}
    return {
        p.weight: done[p.weight]
        if p.weight in done
        else compensated(numpy_helper.to_array(initial[p.weight]), seen[p.activation].moments)
        for p in products(model)
    }


def range_of(seen: Observed) -> Range:
    """One range that holds all that was seen, and zero."""
    least, most = min(float(seen.least.min()), 0.0), max(float(seen.most.max()), 0.0)
    step = max(most - least, 1e-12) / 255
    return Range(step, round(-least / step))


def quantize(
    model: ModelProto,
    seen: Mapping[str, Observed],
    weights: Int8Weights,
    per_token: Collection[str],
    only: Collection[str] | None = None,
) -> ModelProto:
    """Int8 products: U8 activations, S8 weights with one step per column.

    Activations in ``per_token`` get a scale for each token, others one for all. Products of
    activations outside ``only`` stay as they are.
    """
    out = deepcopy(model)
    chosen = by_activation(out)
    if only is not None:
        chosen = {activation: chosen[activation] for activation in only}
    writer = _Writer(out)
    for activation, found in chosen.items():
        if activation in per_token:
            writer.per_token(activation, found)
        else:
            writer.constant(activation, found, range_of(seen[activation]))
        for product in found:
            steps, scale = weights[product.weight]
            writer.add_constant(f"{product.weight}_int8", steps)
            writer.add_constant(f"{product.weight}_step", scale)
    return writer.finish()


class _Writer:
    """Writes int8 products into a graph, each in its product's place."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._constants: dict[str, np.ndarray] = {}
        self._before: dict[str, list[NodeProto]] = {}
        self._instead: dict[str, list[NodeProto]] = {}
        self._dropped: set[str] = set()
        self._shapes = {i.name: i.dims for i in model.graph.initializer}
        self._makers = {n.output[0]: n for n in model.graph.node if n.output}

    def add_constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = value
        return name

    def constant(self, activation: str, found: Sequence[Product], as_bytes: Range) -> None:
        step = self.add_constant(f"{activation}_step", np.array(as_bytes.step, np.float32))
        zero = self.add_constant(f"{activation}_zero", np.array(as_bytes.zero, np.uint8))
        quantised = f"{activation}_bytes"
        self._before[found[0].node.output[0]] = [
            helper.make_node("QuantizeLinear", [activation, step, zero], [quantised])
        ]
        for product in found:
            out = product.node.output[0]
            bias, add = self._bias(out)
            if add is not None:
                self._dropped.add(add.output[0])
            self._instead[out] = [
                self._product(
                    product, quantised, step, zero, bias, add.output[0] if add is not None else out
                )
            ]

    def per_token(self, activation: str, found: Sequence[Product]) -> None:
        name = {part: f"{activation}_{part}" for part in ("size", "most", "scale", "even", "bytes")}
        last = self.add_constant("last_axis", np.array([-1]))
        gelu = self._makers[activation].op_type == "Gelu"
        # A GELU's values lie above -0.17, which leaves nearly all bytes to the positive ones.
        zero_value = GELU_ZERO if gelu else 128
        above = 255 - zero_value
        least = above * GELU_LEAST / GELU_ZERO if gelu else 1e-6
        floor = self.add_constant(f"least_scale_{zero_value}", np.array(least, np.float32))
        step = self.add_constant(f"token_step_{zero_value}", np.array(1 / above, np.float32))
        zero = self.add_constant(f"token_zero_{zero_value}", np.array(zero_value, np.uint8))
        size = activation if gelu else name["size"]
        before = [] if gelu else [helper.make_node("Abs", [activation], [size])]
        self._before[found[0].node.output[0]] = [
            *before,
            helper.make_node("ReduceMax", [size, last], [name["most"]], keepdims=1),
            helper.make_node("Max", [name["most"], floor], [name["scale"]]),
            helper.make_node("Div", [activation, name["scale"]], [name["even"]]),
            helper.make_node("QuantizeLinear", [name["even"], step, zero], [name["bytes"]]),
        ]
        for product in found:
            out = product.node.output[0]
            self._instead[out] = [
                self._product(product, name["bytes"], step, zero, "", f"{out}_even"),
                helper.make_node("Mul", [f"{out}_even", name["scale"]], [out]),
            ]

    def finish(self) -> ModelProto:
        nodes: list[NodeProto] = []
        for node in self._model.graph.node:
            name = node.output[0]
            nodes += self._before.get(name, [])
            if name not in self._dropped:
                nodes += self._instead.get(name, [node])
        used = {name for node in nodes for name in node.input}
        kept = [i for i in self._model.graph.initializer if i.name in used]
        new = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = self._model.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept + new)
        if all(o.domain != MICROSOFT for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return self._model

    def _product(
        self, product: Product, quantised: str, step: str, zero: str, bias: str, out: str
    ) -> NodeProto:
        weight = product.weight
        # The empty name is the weights' zero point: they have none.
        inputs = [quantised, f"{weight}_int8", step, f"{weight}_step", zero, "", bias]
        while not inputs[-1]:
            inputs.pop()
        return helper.make_node("MatMulIntegerToFloat", inputs, [out], domain=MICROSOFT)

    def _bias(self, out: str) -> tuple[str, NodeProto | None]:
        """The bias that is added to a product, and the Add; none where it adds something else."""
        readers = [n for n in self._model.graph.node if out in n.input]
        if len(readers) == 1 and readers[0].op_type == "Add":
            other = next(i for i in readers[0].input if i != out)
            if len(self._shapes.get(other, ())) == 1:
                return other, readers[0]
        return "", None


class Form(NamedTuple):
    """A smoothed graph, and what its int8 form is made of."""

    model: ModelProto
    seen: Mapping[str, Observed]
    weights: Int8Weights


def alone(
    form: Form, feeds: Sequence[Feed], per_token: bool, activations: Iterable[str]
) -> dict[str, float]:
    """The squared logit error of quantising each activation's products by themselves.

    A session for each: of a body of 110M parameters that is five seconds, and half of its export.
    Making one takes as long as running it and keeps one core, so each core makes its own.
    """
    reference = logits(form.model, feeds)

    def error(activation: str) -> float:
        chosen = [activation] if per_token else []
        int8 = quantize(*form, per_token=chosen, only=[activation])
        return float(np.square(logits(int8, feeds, threads=1) - reference).mean())

    asked = list(activations)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(asked, pool.map(error, asked), strict=True))


def best_int8(
    model: ModelProto, feeds: Sequence[Feed], per_token: int = PER_TOKEN, aside: int = ASIDE
) -> tuple[ModelProto, dict[str, float]]:
    """The int8 graph with the least error on ``feeds``.

    The smoothing strength is searched with the most exact form of everything. Then only the
    ``aside`` activations that gain most by it keep their largest channels in fp32, and only the
    ``per_token`` ones that gain most by it keep a scale per token. Returns the graph, and the mean
    logit error by strength.
    """
    reference = logits(model, feeds)
    prepared, seen = smooth_context(*split_outliers(model, observe(model, feeds)))
    prepared = merge(prepared)
    # GELU outputs are not smoothed: their large values are few, and the split has them.
    made_by = {node.output[0]: node.op_type for node in prepared.graph.node}
    normed = [a for a in by_activation(prepared) if made_by[a] in NORMED]

    # Smoothing leaves the other weights as they are, those with most rows among them: they are
    # rounded once, which is four fifths of the work.
    others = [p.weight for p in products(prepared) if p.activation not in normed]
    rounded: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def form(strength: float, apart: Collection[str]) -> Form:
        smoothed, ranges = smooth(prepared, seen, strength, normed, apart)
        weights = round_weights(smoothed, ranges, rounded)
        rounded.update((name, weights[name]) for name in others)
        return Form(smoothed, ranges, weights)

    forms = {strength: form(strength, normed) for strength in STRENGTHS}
    errors = {
        strength: float(np.abs(logits(_most_exact(each), feeds) - reference).mean())
        for strength, each in forms.items()
    }
    strength = min(errors, key=lambda strength: errors[strength])
    few = feeds[:SENSITIVITY_FEEDS]
    # Smoothing renames what it smooths.
    smoothed = [f"{a}_smooth" for a in normed]
    within, apart = (alone(f, few, True, smoothed) for f in (form(strength, ()), forms[strength]))
    gained = {a: within[f"{a}_smooth"] - apart[f"{a}_smooth"] for a in normed}
    final = form(strength, _largest(gained, aside))
    every = list(by_activation(final.model))
    constant, token = (alone(final, few, each, every) for each in (False, True))
    chosen = _largest({a: constant[a] - token[a] for a in constant}, per_token)
    int8 = quantize_embeddings(quantize(*final, per_token=chosen))
    return int8, {str(strength): error for strength, error in errors.items()}


def _most_exact(form: Form) -> ModelProto:
    return quantize(*form, per_token=list(by_activation(form.model)))


def _largest(gained: Mapping[str, float], count: int) -> list[str]:
    return sorted(gained, key=lambda activation: -gained[activation])[:count]
