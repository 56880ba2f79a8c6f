"""Arithmetic done per second by the bare graph, beside what one core can do at most.

    tamis bench roofline [--accurate BUNDLE]

Operations are counted from the graph: two per weight and token in its products, and those of
attention. The peak is the best that any measured matrix product of large shape reaches in the same
run: int8 and fp32 through onnxruntime, bf16 through torch where torch is installed. A text of 512
tokens is run as the service cuts it, and as one run where the graph has positions for it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks import traffic
from benchmarks.record import Record, Row
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis.bundle import Bundle
from tamis.tiers import ACCURATE
from tamis.windows import windows

PRODUCTS = ("MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits")
TURNS = 9
SECONDS = 0.15
SIZES = ((256, 1536, 1536), (512, 2048, 2048), (1024, 1024, 4096))


def weight_operations(graph: onnx.GraphProto) -> int:
    """Multiplications and additions of a token with all weights."""
    shapes = {i.name: i.dims for i in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type not in PRODUCTS or node.input[1] not in shapes:
            continue
        attributes = {a.name: a.i for a in node.attribute}
        inputs, outputs = (
            (attributes["K"], attributes["N"])
            if node.op_type == "MatMulNBits"
            else shapes[node.input[1]]
        )
        total += 2 * inputs * outputs
    return total


def attention_layers(graph: onnx.GraphProto) -> tuple[int, int]:
    """How many products of two activations there are, and the width they sum over in all heads."""
    shapes = {i.name: i.dims for i in graph.initializer}
    kinds = ("MatMul", "FusedMatMul")
    found = [n for n in graph.node if n.op_type in kinds and n.input[1] not in shapes]
    width = next(int(d[1]) for name, d in shapes.items() if "word_embeddings" in name and d[1] > 1)
    return len(found), width


def operations(graph: onnx.GraphProto, windows: list[int]) -> int:
    """Of one run per window of so many tokens, in all."""
    per_token = weight_operations(graph)
    products, width = attention_layers(graph)
    return sum(n * per_token + products * 2 * n * n * width for n in windows)


def milliseconds(call: Callable[[], object]) -> float:
    """The median of calls in SECONDS of time."""
    spent: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(spent) < 3:
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


def onnx_product(kind: str, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    """A product on one thread of onnxruntime: U8 times S8 into int32, or fp32."""
    rng = np.random.default_rng(0)
    x: np.ndarray
    if kind == "int8":
        weight = rng.integers(-127, 127, (inputs, outputs), dtype=np.int8)
        x = rng.integers(0, 255, (tokens, inputs), dtype=np.uint8)
        op, read, written = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    else:
        weight = rng.random((inputs, outputs), dtype=np.float32)
        x = rng.random((tokens, inputs), dtype=np.float32)
        op, read, written = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", read, [tokens, inputs])],
        [helper.make_tensor_value_info("y", written, [tokens, outputs])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    run = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: run.run(None, {"x": x})


def torch_product(kind: str, tokens: int, inputs: int, outputs: int) -> Callable[[], object] | None:
    """The same through torch; None where there is none."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    dtype = getattr(torch, kind)
    x = torch.ones(tokens, inputs, dtype=dtype)
    layer = torch.nn.Linear(inputs, outputs, bias=False, dtype=dtype).requires_grad_(False)
    return lambda: layer(x)


def peaks() -> dict[str, Callable[[], Mapping[str, float]]]:
    """For each type, a measurement of GOPS by shape."""
    makers = {
        "int8": lambda *size: onnx_product("int8", *size),
        "float32": lambda *size: onnx_product("float32", *size),
        "bfloat16": lambda *size: torch_product("bfloat16", *size),
    }
    calls = {
        kind: {size: call for size in SIZES if (call := make(*size)) is not None}
        for kind, make in makers.items()
    }

    def measure(mine: Mapping[tuple[int, ...], Callable[[], object]]) -> dict[str, float]:
        return {
            "x".join(map(str, size)): 2 * float(np.prod(size)) / milliseconds(call) / 1e6
            for size, call in mine.items()
        }

    return {kind: (lambda mine=mine: measure(mine)) for kind, mine in calls.items() if mine}


class Runs:
    """A bundle's runs on one thread: how many operations each takes, and how long."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = bundle.name
        self._runtime = CpuRuntime(bundle.graph, threads=1)
        graph = onnx.load(bundle.graph).graph
        self._cases = {
            "128 tokens": [128],
            "512 tokens, windows": [len(w.ids) for w in windows([1] * 510, bundle.shape)],
            "512 tokens, one run": [512],
        }
        try:
            self._runtime.run(traffic.feed(512))
        except Exception:
            del self._cases["512 tokens, one run"]
        self._counts = {name: operations(graph, many) for name, many in self._cases.items()}
        self._spent: dict[str, list[float]] = {name: [] for name in self._cases}

    def turn(self) -> None:
        """Time every case once."""
        for name, lengths in self._cases.items():
            feeds = [traffic.feed(n) for n in lengths]
            self._spent[name].append(
                milliseconds(lambda feeds=feeds: [self._runtime.run(f) for f in feeds])
            )

    def rows(self, peak: float) -> list[Row]:
        """Medians, beside the peak in GOPS."""
        rows: list[Row] = []
        for name, lengths in self._cases.items():
            count, took = self._counts[name], statistics.median(self._spent[name])
            gops = count / took / 1e6
            rows.append(
                {
                    "bundle": self._name,
                    "run": name,
                    "windows": "+".join(map(str, lengths)),
                    "Gop": round(count / 1e9, 2),
                    "ms": round(took, 2),
                    "GOPS": round(gops),
                    "share of int8 peak": f"{gops / peak:.0%}",
                }
            )
        return rows


def run(bundle_path: Path, accurate: Path | None = None) -> None:
    """Measure the bundle, and the accurate tier's where it is there."""
    found = [bundles.load(bundle_path)]
    if ((large := accurate or ACCURATE.folder) / bundles.MANIFEST).is_file():
        found.append(bundles.load(large))
    runs = [Runs(bundle) for bundle in found]
    best: dict[str, float] = {}
    measured = peaks()
    for _ in range(TURNS):
        for kind, measure in measured.items():
            best[kind] = max(best.get(kind, 0.0), *measure().values())
        for one in runs:
            one.turn()
    record = Record("roofline", "Share of the arithmetic limit", "tamis bench roofline")
    record.notes = [
        f"One thread, medians of {TURNS} turns. The peak is the best product of large shape in the "
        "same run: bytes through onnxruntime, floats through torch. What was tried to raise the "
        "share is in the [lab log](lab-log.md).",
    ]
    record.tables = [
        [row for one in runs for row in one.rows(best["int8"])],
        [{f"{kind}, GOPS": round(value) for kind, value in best.items()}],
    ]
    record.write(found[0], bundle=", ".join(f"{b.name}@{b.fingerprint[:12]}" for b in found))


if __name__ == "__main__":
    run(bundles.default_bundle())
