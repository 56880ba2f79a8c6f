"""Rewrites of the fp32 graph that leave its function as it is and make its int8 form exact.

One scale for a whole activation is spoilt by the few values that every BERT has ten times larger
than all others. Measured in ``docs/lab-log.md``; three remedies, by where the values sit:

* ``smooth``: large *channels* behind a layer norm are scaled down and their weight rows up
  (SmoothQuant, Xiao et al. 2023). The price is one elementwise Mul.
* ``smooth_context``: the same for what attention returns, folded into the value weights: free.
* ``split_outliers``: of the 1,536 channels between the feed-forward products, one or two reach 26
  where the others end at 6. The few largest go through fp32 products of their own.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.products import Observed, by_activation, initializers, set_array

OUTLIERS: Final = 16
NORM_OUTLIERS: Final = 8
# Channels are taken aside where the largest exceeds the first one left by more than this.
SPREAD: Final = 2.5
# Context weights and activations are equally even: their geometric mean.
CONTEXT_STRENGTH: Final = 0.5


def _factors(seen: Observed, weights: list[np.ndarray], strength: float) -> np.ndarray:
    rows = np.maximum.reduce([np.abs(w).max(axis=1) for w in weights])
    s = seen.peak.clip(1e-5) ** strength / rows.clip(1e-5) ** (1 - strength)
    return np.asarray(s, dtype=np.float32)


def smooth(
    model: ModelProto,
    seen: Mapping[str, Observed],
    strength: float,
    names: Collection[str],
    aside: Collection[str] = (),
) -> tuple[ModelProto, dict[str, Observed]]:
    """Divide each channel of the named activations by s, multiply the weight row by s.

    s = range(activation)^strength / range(weight row)^(1 - strength), shared by the products that
    read the same activation (query, key and value). Of activations in ``aside`` the few channels
    that would still be largest become zero, and go through fp32 products of their own. Returns the
    graph, and what was seen, under the new activations' names.
    """
    out = deepcopy(model)
    initial = initializers(out)
    now = dict(seen)
    nodes: list[NodeProto] = list(out.graph.node)
    for activation, found in by_activation(out).items():
        if activation not in names:
            continue
        weights = [numpy_helper.to_array(initial[p.weight]) for p in found]
        s = _factors(seen[activation], weights, strength)
        kept = np.ones_like(s)
        made = [
            helper.make_node(
                "Mul", [activation, f"{activation}_smoothing"], [f"{activation}_smooth"]
            )
        ]
        if activation in aside:
            few = np.sort(np.argsort(-seen[activation].peak / s)[:NORM_OUTLIERS])
            kept[few] = 0
            names_of = f"{activation}_channels", f"{activation}_few"
            out.graph.initializer.append(numpy_helper.from_array(few, names_of[0]))
            made.append(
                helper.make_node("Gather", [activation, names_of[0]], [names_of[1]], axis=-1)
            )
            for product, weight in zip(found, weights, strict=True):
                _add_product(out, nodes, product.node, names_of[1], weight[few])
        for product, weight in zip(found, weights, strict=True):
            set_array(initial[product.weight], weight * (s * kept)[:, None])
            product.node.input[0] = f"{activation}_smooth"
        factor = kept / s
        out.graph.initializer.append(numpy_helper.from_array(factor, f"{activation}_smoothing"))
        at = _index(nodes, activation) + 1
        nodes[at:at] = made
        now[f"{activation}_smooth"] = now.pop(activation).scaled(factor)
    _replace(out, nodes)
    return out, now


def smooth_context(
    model: ModelProto, seen: Mapping[str, Observed]
) -> tuple[ModelProto, dict[str, Observed]]:
    """Smooth what attention returns by scaling the value weights: both are linear in them."""
    out = deepcopy(model)
    initial = initializers(out)
    maker = _makers(out)
    now = dict(seen)
    for activation, found in by_activation(out).items():
        value = _follow(maker, activation, "Reshape", "Transpose", "MatMul", into=1)
        value = _follow(maker, value, "Transpose", "Reshape")
        add, product = _linear(maker, initial, value)
        if add is None or product is None:
            continue
        weights = [numpy_helper.to_array(initial[p.weight]) for p in found]
        s = _factors(seen[activation], weights, CONTEXT_STRENGTH)
        for name, weight in zip((p.weight for p in found), weights, strict=True):
            set_array(initial[name], weight * s[:, None])
        value_weight, bias = product.input[1], numpy_helper.to_array(initial[_bias(add, initial)])
        set_array(initial[value_weight], numpy_helper.to_array(initial[value_weight]) / s)
        _set_bias(out, initial, add, bias / s)
        now[activation] = now[activation].scaled(1 / s)
    return out, now


def split_outliers(
    model: ModelProto, seen: Mapping[str, Observed]
) -> tuple[ModelProto, dict[str, Observed]]:
    """Take the largest channels between two feed-forward products through fp32 ones."""
    out = deepcopy(model)
    initial = initializers(out)
    maker = _makers(out)
    now = dict(seen)
    nodes = list(out.graph.node)
    for activation, (second, *_) in by_activation(out).items():
        gelu = maker.get(activation)
        add, first = _linear(maker, initial, _follow(maker, activation, "Gelu"))
        peak = seen[activation].peak
        order = np.argsort(-peak)
        if gelu is None or add is None or first is None:
            continue
        if peak[order[0]] < SPREAD * peak[order[OUTLIERS]]:
            continue
        few, rest = np.sort(order[:OUTLIERS]), np.sort(order[OUTLIERS:])
        up, down = (numpy_helper.to_array(initial[p.input[1]]) for p in (first, second.node))
        bias = numpy_helper.to_array(initial[_bias(add, initial)])
        set_array(initial[first.input[1]], up[:, rest])
        set_array(initial[second.weight], down[rest])
        _set_bias(out, initial, add, bias[rest])
        names = [f"{activation}_outliers_{part}" for part in ("weight", "bias")]
        for name, value in zip(names, (up[:, few], bias[few]), strict=True):
            out.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        step = [f"{activation}_outliers{i}" for i in range(3)]
        _add_product(out, nodes, second.node, step[2], down[few])
        at = _index(nodes, activation) + 1
        nodes[at:at] = [
            helper.make_node("MatMul", [first.input[0], names[0]], [step[0]]),
            helper.make_node("Add", [step[0], names[1]], [step[1]]),
            helper.make_node("Gelu", [step[1]], [step[2]]),
        ]
        old = seen[activation]
        now[activation] = Observed(old.least[rest], old.most[rest], old.moments[np.ix_(rest, rest)])
    _replace(out, nodes)
    return out, now


def merge(model: ModelProto) -> ModelProto:
    """One product for all that read the same activation: query, key and value.

    The rows are longer and the operators fewer, which is what counts for short texts.
    """
    out = deepcopy(model)
    initial = initializers(out)
    maker = _makers(out)
    nodes: list[NodeProto] = list(out.graph.node)
    for activation, found in by_activation(out).items():
        outputs = {p.node.output[0] for p in found}
        adds = [n for n in nodes if n.op_type == "Add" and outputs & set(n.input)]
        parts = [_linear(maker, initial, add.output[0])[1] for add in adds]
        if len(found) < 2 or len(parts) != len(found) or None in parts:
            continue
        weights = [numpy_helper.to_array(initial[p.input[1]]) for p in parts if p is not None]
        biases = [numpy_helper.to_array(initial[_bias(add, initial)]) for add in adds]
        names = [f"{activation}_merged_{part}" for part in ("weight", "bias", "sizes", "0", "1")]
        sizes = np.array([w.shape[1] for w in weights])
        for name, value in zip(
            names, (np.concatenate(weights, axis=1), np.concatenate(biases), sizes), strict=False
        ):
            out.graph.initializer.append(numpy_helper.from_array(value, name))
        at = _index(nodes, found[0].node.output[0])
        nodes[at:at] = [
            helper.make_node("MatMul", [activation, names[0]], [names[3]]),
            helper.make_node("Add", [names[3], names[1]], [names[4]]),
            helper.make_node("Split", [names[4], names[2]], [a.output[0] for a in adds], axis=-1),
        ]
        gone = outputs | {add.output[0] for add in adds}
        nodes = [n for n in nodes if n.op_type == "Split" or n.output[0] not in gone]
    _replace(out, nodes)
    return out


def _add_product(
    model: ModelProto, nodes: list[NodeProto], product: NodeProto, few: str, weight: np.ndarray
) -> None:
    """Add what a few channels contribute to a product that no longer has them."""
    name = f"{product.input[1]}_aside"
    model.graph.initializer.append(numpy_helper.from_array(weight, name))
    total = product.output[0]
    # The sum takes the product's name, so that its readers need no change.
    product.output[0] = f"{total}_rest"
    at = _index(nodes, f"{total}_rest") + 1
    nodes[at:at] = [
        helper.make_node("MatMul", [few, name], [f"{total}_few"]),
        helper.make_node("Add", [f"{total}_rest", f"{total}_few"], [total]),
    ]


def _index(nodes: list[NodeProto], name: str) -> int:
    """Where the node stands that makes an activation."""
    return next(i for i, node in enumerate(nodes) if name in node.output)


def _makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _follow(maker: Mapping[str, NodeProto], name: str, *kinds: str, into: int = 0) -> str:
    """The name that a chain of operators started from; empty where another operator is met.

    ``into`` is the input that the last of them is entered by.
    """
    for kind in kinds:
        node = maker.get(name)
        if node is None or node.op_type != kind:
            return ""
        name = node.input[into if kind == kinds[-1] else 0]
    return name


def _linear(
    maker: Mapping[str, NodeProto], initial: Mapping[str, TensorProto], name: str
) -> tuple[NodeProto | None, NodeProto | None]:
    """The Add and the MatMul that made an activation, where it is a product plus a bias."""
    add = maker.get(name)
    if add is None or add.op_type != "Add" or not _bias(add, initial):
        return None, None
    product = next((maker[i] for i in add.input if i in maker), None)
    if product is None or product.op_type != "MatMul" or product.input[1] not in initial:
        return None, None
    return add, product


def _bias(add: NodeProto, initial: Mapping[str, TensorProto]) -> str:
    return next((i for i in add.input if i in initial and len(initial[i].dims) == 1), "")


def _set_bias(
    model: ModelProto, initial: Mapping[str, TensorProto], add: NodeProto, value: np.ndarray
) -> None:
    """Give an Add a bias of its own: the exporter lets equal ones (zeros) share a constant."""
    at = list(add.input).index(_bias(add, initial))
    add.input[at] = f"{add.output[0]}_bias"
    model.graph.initializer.append(numpy_helper.from_array(value, add.input[at]))


def _replace(model: ModelProto, nodes: list[NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
