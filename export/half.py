"""fp32 graph → fp16, for GPUs: their matrix units run it at twice the speed and half the memory.

What fp16 would spoil stays in fp32:

* The heads. They are tiny, and their errors are felt at once.
* Rotary angles: a position times a frequency has too few digits left after some hundred tokens.
* Root mean squares: the square of 256 is infinite. A norm becomes one operator, which adds up in
  fp32 by itself (as LayerNormalization does anyway), and runs once instead of seven times.

Masks stay finite: -1e4 fits, and the lowest fp32 number becomes the lowest one of fp16.
"""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Final

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

PRODUCTS: Final = ("MatMul", "Gemm")
ANGLES: Final = ("Cos", "Sin")
# From the sum of squares to the norm, as the exporter writes it.
ROOT: Final = ("Reciprocal", "Sqrt", "Add", "ReduceMean", "Pow")


def to_half(fp32: ModelProto) -> ModelProto:
    """The fp16 graph; inputs and outputs keep their types."""
    makers = {name: node for node in fp32.graph.node for name in node.output}
    heads = _behind([output.name for output in fp32.graph.output], makers, PRODUCTS)
    turned = [name for node in fp32.graph.node if node.op_type in ANGLES for name in node.output]
    exact = [node.name for node in heads + _behind(turned, makers)]
    norms = _norms(fp32, makers)
    # The converter takes a graph as its own.
    half = convert_float_to_float16(deepcopy(fp32), keep_io_types=True, node_block_list=exact)
    for node in half.graph.node:
        if node.output[0] in norms:
            node.CopyFrom(norms[node.output[0]])
    _straighten(half)
    return half


def _straighten(half: ModelProto) -> None:
    """Drop what conversion left over, and the way it takes through fp16 between fp32 operators.

    The casts to fp32 that remain of it do nothing, and onnxruntime drops them.
    """
    graph = half.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        before = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.input[0] = before.input[0]
    used = _behind([output.name for output in graph.output], makers)
    read = {name for node in used for name in node.input}
    constants = [i for i in graph.initializer if i.name in read]
    # The noted types are of the tensors that were.
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(used)
    graph.initializer.extend(constants)
    OnnxModel.graph_topological_sort(graph)


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and bool(helper.get_node_attr_value(node, "to") == kind)


def _behind(
    names: Iterable[str], makers: Mapping[str, NodeProto], until: Collection[str] = ()
) -> list[NodeProto]:
    """The nodes that make these tensors, back to the inputs or to operators of ``until``."""
    found: dict[str, NodeProto] = {}
    left = list(names)
    while left:
        node = makers.get(left.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            if node.op_type not in until:
                left += node.input
    return list(found.values())


def _norms(model: ModelProto, makers: Mapping[str, NodeProto]) -> dict[str, NodeProto]:
    """What each root-mean-square norm of the graph is as one operator, by its output."""
    constants = {i.name: i for i in model.graph.initializer}
    norms: dict[str, NodeProto] = {}
    for scaled in model.graph.node:
        # The weight is the first factor for Llama and the second for Gemma.
        factors = sorted(
            scaled.input if scaled.op_type == "Mul" else (), key=constants.__contains__
        )
        normed, weight = factors or ("", "")
        even = makers.get(normed)
        if weight not in constants or even is None or even.op_type != "Mul":
            continue
        x, inverse = even.input
        chain = [inverse]
        for kind in ROOT:
            node = makers.get(chain[-1])
            if node is None or node.op_type != kind:
                break
            chain.append(node.input[0])
        else:
            if chain[-1] == x:
                epsilon = constants[makers[chain[2]].input[1]]
                norms[scaled.output[0]] = helper.make_node(
                    "SimplifiedLayerNormalization",
                    [x, weight],
                    list(scaled.output),
                    name=scaled.name,
                    axis=-1,
                    epsilon=float(numpy_helper.to_array(epsilon)),
                    stash_type=1,
                )
    return norms
