"""The products of a graph: which there are, what they read, what their inputs look like."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper, numpy_helper

Feed = Mapping[str, np.ndarray]
# Products with fewer inputs or outputs stay in fp32: the heads, where an error is felt at once, and
# the outliers that ``export.fuse`` took aside.
SMALLEST: Final = 64
THREADS: Final = 2
# Activations of so many texts are held at a time.
CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMul with constant weights, the activation it reads and the weight's name."""

    node: NodeProto
    activation: str
    weight: str


def session(model: ModelProto, threads: int = THREADS) -> ort.InferenceSession:
    """A CPU session of an in-memory graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def logits(model: ModelProto, feeds: Sequence[Feed], threads: int = THREADS) -> np.ndarray:
    """Logits of all feeds, one below the other; or of their tokens, what a graph says of those."""
    run, said = session(model, threads), [model.graph.output[0].name]
    found = (np.asarray(run.run(said, dict(feed))[0], np.float32) for feed in feeds)
    return np.concatenate([one.reshape(-1, one.shape[-1]) for one in found])


def products(model: ModelProto) -> list[Product]:
    """The products to quantise, in the order of the graph."""
    weights = {i.name: i.dims for i in model.graph.initializer}
    return [
        Product(n, n.input[0], n.input[1])
        for n in model.graph.node
        if n.op_type == "MatMul" and min(weights.get(n.input[1], [0])) >= SMALLEST
    ]


def by_activation(model: ModelProto) -> dict[str, list[Product]]:
    """The products that read each activation: query, key and value read the same."""
    found: dict[str, list[Product]] = {}
    for product in products(model):
        found.setdefault(product.activation, []).append(product)
    return found


def initializers(model: ModelProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph by name; change them in place with ``set_array``."""
    return {i.name: i for i in model.graph.initializer}


def set_array(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    """Give a constant another value."""
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


def activations(model: ModelProto, feeds: Sequence[Feed]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What each product reads, as (name, one (tokens, channels) per text), some texts at a time."""
    names = list(by_activation(model))
    probe = deepcopy(model)
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    run = session(probe)
    for start in range(0, len(feeds), CHUNK):
        texts = [run.run(names, dict(feed)) for feed in feeds[start : start + CHUNK]]
        for name, values in zip(names, zip(*texts, strict=True), strict=True):
            yield name, [value.reshape(-1, value.shape[-1]) for value in values]


@dataclass(slots=True)
class Observed:
    """What calibration texts say of one activation."""

    least: np.ndarray
    """The smallest value of each channel."""
    most: np.ndarray
    """The largest value of each channel."""
    moments: np.ndarray
    """The sum over tokens of x xᵀ."""

    @property
    def peak(self) -> np.ndarray:
        """The largest absolute value of each channel."""
        return np.asarray(np.maximum(-self.least, self.most))

    def scaled(self, factor: np.ndarray) -> "Observed":
        """The same after every channel was multiplied by a positive factor."""
        return Observed(
            self.least * factor, self.most * factor, self.moments * np.outer(factor, factor)
        )


def observe(model: ModelProto, feeds: Sequence[Feed]) -> dict[str, Observed]:
    """Ranges and second moments of all activations that products read."""
    seen: dict[str, Observed] = {}
    for name, texts in activations(model, feeds):
        x = np.concatenate(texts)
        new = Observed(x.min(axis=0), x.max(axis=0), x.T @ x)
        if name in seen:
            old = seen[name]
            new = Observed(
                np.minimum(old.least, new.least),
                np.maximum(old.most, new.most),
                old.moments + new.moments,
            )
        seen[name] = new
    return seen
