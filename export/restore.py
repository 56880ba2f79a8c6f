"""Bundle → checkpoint: the weights that its int8 graph stands for, to go on training from.

A bundle is what is kept of a training; its fp32 weights are hundreds of megabytes, and need not be
there when somebody wants to tune it on rows of their own. What quantisation rewrote
(``export.fuse``) is linear: every product, its smoothing, the channels taken aside and the bias are
multiplied out into one matrix again. Channels between feed-forward products come back in another
order, and values of attention at another scale, which leaves the function as it is. What is lost
is what rounding lost: within a few of 2,000 verdicts, the checkpoint is the bundle.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from tamis.bundle import BundleError, load
from training.classifier import bases, calibration
from training.classifier.model import GuardClassifier
from training.datasets.registry import HEADS

Matrix = NDArray[np.float32]

# Where layers are, and a layer's matrices in each family of bodies, by its attention's norm.
LAYER: Final = "encoder.encoder.layer.{}"
PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "attention.output.LayerNorm": {  # BERT, XLM-R
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "context": "attention.output.dense",
    },
    "attention.LayerNorm": {  # MPNet
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "context": "attention.attn.o",
    },
}
WEIGHT: Final = ".weight"
WORDS: Final = "encoder.embeddings.word_embeddings.weight"


class RestoreError(ValueError):
    """A graph that is not understood; the message says where."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum of products: of each activation that it reads, by name, its (K, N); and a bias (N,).

    A matrix that is None is the activation itself.
    """

    terms: Mapping[str, Matrix | None]
    bias: Matrix | None = None

    def times(self, weight: Matrix) -> "Linear":
        """The same, behind a product with (N, M)."""
        terms = {name: weight if w is None else w @ weight for name, w in self.terms.items()}
        return Linear(terms, None if self.bias is None else self.bias @ weight)

    def plus(self, other: "Linear") -> "Linear":
        """The sum of both."""
        terms = {**self.terms, **{n: self._with(n, w) for n, w in other.terms.items()}}
        bias = other.bias if self.bias is None else self.bias
        if self.bias is not None and other.bias is not None:
            bias = self.bias + other.bias
        return Linear(terms, bias)

    def _with(self, name: str, weight: Matrix | None) -> Matrix | None:
        if name not in self.terms:
            return weight
        mine = self.terms[name]
        if mine is None or weight is None:
            raise RestoreError(f"{name} is added to what is made of it")
        return np.asarray(mine + weight)

    def taken(self, columns: Any) -> "Linear":
        """Some of its columns."""
        terms = {}
        for name, weight in self.terms.items():
            if weight is None:
                raise RestoreError(f"{name} is cut before it is multiplied")
            terms[name] = weight[:, columns]
        return Linear(terms, None if self.bias is None else self.bias[columns])


class Graph:
    """An int8 graph, whose products can be asked for as matrices."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.norms = [node for node in graph.node if node.op_type == "LayerNormalization"]

    def back(self, name: str, *kinds: str) -> str:
        """What an activation was, before operators of these kinds."""
        while (node := self.makers.get(name)) is not None and node.op_type in kinds:
            name = node.input[0]
        return name

    def linear(self, name: str) -> Linear:
        """An activation as a sum of products of others."""
        node = self.makers.get(name)
        if node is None or (step := getattr(self, f"_{node.op_type.lower()}", None)) is None:
            return Linear({name: None})
        found: Linear = step(node, name)
        return found

    def _add(self, node: NodeProto, _: str) -> Linear:
        constant = [self.constants[i] for i in node.input if i in self.constants]
        found = [self.linear(i) for i in node.input if i not in self.constants]
        if constant:
            return found[0].plus(Linear({}, constant[0]))
        return found[0].plus(found[1])

    def _mul(self, node: NodeProto, _: str) -> Linear:
        activation, factor = node.input
        if factor in self.constants:
            return self.linear(activation).times(np.diag(self.constants[factor]))
        # By the scale of the token, which its activation was divided by.
        return self.linear(activation)

    def _matmul(self, node: NodeProto, name: str) -> Linear:
        activation, weight = node.input
        if weight not in self.constants:
            return Linear({name: None})
        return self.linear(activation).times(self.constants[weight])

    def _matmulintegertofloat(self, node: NodeProto, _: str) -> Linear:
        taken, codes, _step, steps = node.input[:4]
        weight = self.constants[codes].astype(np.float32) * self.constants[steps]
        read = self.linear(self.back(taken, "QuantizeLinear", "Div")).times(weight)
        bias = [self.constants[i] for i in node.input[6:]]
        return read.plus(Linear({}, bias[0])) if bias else read

    def _split(self, node: NodeProto, name: str) -> Linear:
        whole, sizes = node.input
        ends = np.cumsum(self.constants[sizes])
        at = list(node.output).index(name)
        start = 0 if at == 0 else int(ends[at - 1])
        return self.linear(whole).taken(slice(start, int(ends[at])))

    def _gather(self, node: NodeProto, name: str) -> Linear:
        activation, channels = node.input
        norm = self.makers.get(activation)
        if channels not in self.constants or norm is None or norm.op_type != "LayerNormalization":
            return Linear({name: None})
        width = len(self.constants[norm.input[1]])
        return Linear({activation: np.eye(width, dtype=np.float32)[:, self.constants[channels]]})


def restore(bundle: Path, out: Path) -> Path:
    """Write ``out`` as a finished checkpoint: weights, tokenizer, training report, calibration.

    Raises:
        BundleError: where the bundle is corrupted, or has not every head.
        RestoreError: where its graph is not that of an int8 body of MiniLM, XLM-R or MPNet.
    """
    loaded = load(bundle)
    said = dict(loaded.manifest["training"])
    if tuple(head.name for head in loaded.heads) != HEADS:
        raise BundleError(f"{bundle}: it has other heads than this version teaches")
    recipe = said["recipe"]
    base, path = bases.resolve(recipe["base"])
    model = GuardClassifier.from_base(path, len(HEADS), **base.load_arguments())
    refill(model, Graph(loaded.graph), recipe)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "model.pt")
    shutil.copyfile(loaded.tokenizer, out / "tokenizer.json")
    said["pooling"] = loaded.manifest["pooling"]
    said["restored"] = {"name": loaded.name, "fingerprint": loaded.fingerprint}
    (out / "training.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(loaded.manifest["heads"], indent=2) + "\n"
    (out / calibration.FILE).write_text(text, encoding="utf-8")
    return out


def refill(model: GuardClassifier, graph: Graph, recipe: Mapping[str, Any]) -> None:
    """Give a model of the base's weights those that training moved, in place.

    Raises:
        RestoreError: where the graph is another, or does not say all of them.
    """
    if f"{WORDS}_int8" not in graph.constants:
        raise RestoreError("its graph is not int8")
    found: dict[str, Matrix] = {}
    last = ""
    family = _family(graph)
    # The first norm is that of the embeddings; then each layer has two. Constants that are equal
    # share a name, so that layers are told by their order.
    for n, (attention, output) in enumerate(zip(graph.norms[1::2], graph.norms[2::2], strict=True)):
        layer = LAYER.format(n)
        for name, norm in ((family, attention), ("output.LayerNorm", output)):
            weight, bias = (graph.constants[given] for given in norm.input[1:])
            found |= {f"{layer}.{name}{WEIGHT}": weight, f"{layer}.{name}.bias": bias}
        parts = {name: f"{layer}.{at}" for name, at in PARTS[family].items()}
        found |= _attended(graph, attention, parts)
        found |= _fed_forward(graph, attention, output, layer)
        last = output.output[0]
    for head, name in (("score", "token_logits"), ("attend", _attention(graph))):
        found |= _dense(head, graph.linear(name), last)
    found |= _embeddings(graph)
    kept = _pretrained(recipe)
    found = {name: value for name, value in found.items() if not name.startswith(kept)}
    state = model.state_dict()
    if missing := [name for name in state if name not in found and not name.startswith(kept)]:
        raise RestoreError(f"the graph does not say {missing[0]}")
    for name, value in found.items():
        if name not in state or state[name].shape != value.shape:
            raise RestoreError(f"the base has no {name} of shape {value.shape}")
    model.load_state_dict(state | {n: torch.from_numpy(np.array(v)) for n, v in found.items()})


def _pretrained(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """How names begin of what training left as it was: the base has it exactly."""
    kept = ["encoder.pooler."]
    if frozen := recipe["frozen_layers"]:
        kept += ["encoder.embeddings.", "encoder.encoder.relative_attention_bias."]
        kept += [f"encoder.encoder.layer.{n}." for n in range(frozen)]
    if not recipe["train_embeddings"]:
        kept.append(WORDS)
    return tuple(kept)


def _embeddings(graph: Graph) -> dict[str, Matrix]:
    """The tables, and their norm; of words as int8 has them."""
    found = {n: v for n, v in graph.constants.items() if n.startswith("encoder.embeddings.")}
    codes, scale = (found.pop(f"{WORDS}_{part}") for part in ("int8", "scale"))
    found[WORDS] = codes.astype(np.float32) * scale
    return {name: value for name, value in found.items() if value.dtype == np.float32}


def _family(graph: Graph) -> str:
    """The name of an attention's norm, by which a body's family is known."""
    for norm in PARTS:
        # A layer as pretrained may share its constants with others, a trained one has its own.
        if any(name.endswith(f".{norm}{WEIGHT}") for name in graph.constants):
            return norm
    raise RestoreError("the body is neither BERT's, nor XLM-R's, nor MPNet's")


def _attended(graph: Graph, norm: NodeProto, parts: Mapping[str, str]) -> dict[str, Matrix]:
    """The matrices of a layer's attention, from what its norm reads."""
    summed = graph.linear(norm.input[0])
    residual = next(name for name, weight in summed.terms.items() if weight is None)
    (context,) = summed.terms.keys() - {residual}
    found = _dense(parts["context"], summed, context)
    product = graph.makers[graph.back(context, "Reshape", "Transpose")]
    scores = graph.makers[graph.back(product.input[0], "Softmax", "Add", "Div", "Mul")]
    views = {"query": scores.input[0], "key": scores.input[1], "value": product.input[1]}
    for name, view in views.items():
        read = graph.linear(graph.back(view, "Reshape", "Transpose"))
        found |= _dense(parts[name], read, residual)
    return found


def _fed_forward(
    graph: Graph, attention: NodeProto, output: NodeProto, layer: str
) -> dict[str, Matrix]:
    """The two matrices behind it, between the layer's two norms."""
    read = attention.output[0]
    down = graph.linear(output.input[0])
    # The channels that were taken aside are activations of their own.
    channels = [name for name in down.terms if name != read]
    ups = [graph.linear(graph.back(name, "Gelu")) for name in channels]
    weight = np.concatenate([_matrix(up, read) for up in ups], axis=1)
    up = Linear({read: weight}, np.concatenate([_bias(up, layer) for up in ups]))
    whole = np.concatenate([_matrix(down, name) for name in channels])
    found = _dense(f"{layer}.intermediate.dense", up, read)
    return found | _dense(f"{layer}.output.dense", Linear({read: whole}, down.bias), read)


def _attention(graph: Graph) -> str:
    """The logits of the heads' attention: what is masked, and then a softmax over tokens."""
    for node in graph.makers.values():
        if node.op_type == "Where" and "attend.bias" in graph.makers[node.input[2]].input:
            return str(node.input[2])
    raise RestoreError("no head's attention is in the graph")


def _dense(module: str, linear: Linear, read: str) -> dict[str, Matrix]:
    """A module's parameters as torch has them."""
    weight = np.ascontiguousarray(_matrix(linear, read).T)
    return {f"{module}{WEIGHT}": weight, f"{module}.bias": _bias(linear, module)}


def _matrix(linear: Linear, read: str) -> Matrix:
    weight = linear.terms.get(read)
    if weight is None:
        raise RestoreError(f"no product reads {read}")
    return weight


def _bias(linear: Linear, where: str) -> Matrix:
    if linear.bias is None:
        raise RestoreError(f"{where}: a product without a bias")
    return linear.bias
