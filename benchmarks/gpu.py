"""Models of the papers' size on a GPU: the bare runtime, and the engine under concurrent judges.

    python -m benchmarks.gpu                          (minutes, on a machine with CUDA)
    python -m benchmarks.gpu --device cpu --quick     (a rehearsal; keeps no result)

It needs what ``tamis export`` needs, with onnxruntime-gpu in the place of onnxruntime. The weights
are random: speed does not depend on them. Each shape is exported and converted as
``tamis export --precision fp16`` does it, and served with the bundle's own tokenizer and heads.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from transformers import AutoModel, BertConfig, LlamaConfig, MistralConfig, PretrainedConfig

from benchmarks import load, traffic
from benchmarks.record import Record, Row, machine
from benchmarks.roofline import weight_operations
from export.graph import to_onnx
from export.half import to_half
from export.products import session
from service.engine.classifier import Classifier
from service.engine.cuda import CudaRuntime
from service.engine.engine import Engine
from service.engine.runtime import ProviderError, provider_of
from service.engine.warmup import warm_up
from tamis import bundle as bundles
from tamis.bundle import Bundle
from tamis.content import Content
from training.classifier.model import GuardClassifier

SHAPES: Final[Mapping[str, PretrainedConfig]] = {
    "22M, MiniLM": BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    "135M, SmolLM2": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=8192,
        rope_theta=100_000,
        rms_norm_eps=1e-5,
    ),
    "300M, Lite-Oute-1": MistralConfig(
        vocab_size=32768,
        hidden_size=896,
        num_hidden_layers=20,
        num_attention_heads=16,
        num_key_value_heads=8,
        intermediate_size=3584,
        max_position_embeddings=4096,
        sliding_window=4096,
        rms_norm_eps=1e-6,
    ),
}
LENGTHS: Final = (16, 32, 128, 256)
BATCHES: Final = (8, 32, 64)
BATCH_LENGTH: Final = 128
JUDGES: Final = 64
TEXTS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: calls of each latency, seconds of each rate."""

    calls: int
    seconds: float


FULL: Final = Effort(calls=400, seconds=5.0)
QUICK: Final = Effort(calls=10, seconds=1.0)


class Shape:
    """A model of random weights on disk, as the service would load it."""

    def __init__(self, name: str, config: PretrainedConfig, bundle: Bundle, folder: Path) -> None:
        torch.manual_seed(0)
        encoder = AutoModel.from_config(config, attn_implementation="eager")
        model = GuardClassifier(encoder, len(bundle.heads)).eval()
        self.name = name
        self.parameters = sum(p.numel() for p in model.parameters())
        self.words = min(config.vocab_size, 30_000)
        path = folder / "fp32.onnx"
        to_onnx(model, path, bundle.shape.max_tokens)
        fp32 = onnx.load(path)
        self.operations = weight_operations(fp32.graph)
        self.feeds = [traffic.feed(40, 3, self.words, seed) for seed in (1, 2)]
        run = session(fp32)
        self.expected = [run.run(["logits"], each)[0] for each in self.feeds]
        self.bundle = replace(bundle, graph=folder / "model.fp16.onnx")
        onnx.save(to_half(fp32), self.bundle.graph)

    def error(self, runtime: CudaRuntime) -> float:
        """The largest difference of a logit from fp32 on the CPU.

        Two texts of one shape: a captured graph that replayed the first one's answer would show.
        """
        pairs = zip(self.feeds, self.expected, strict=True)
        return max(float(np.abs(runtime.run(f).logits - logits).max()) for f, logits in pairs)


def latency(shape: Shape, runtime: CudaRuntime, effort: Effort) -> Row:
    """Milliseconds of one window, by length."""
    row: Row = {}
    for tokens in LENGTHS:
        given = traffic.feed(tokens, 1, shape.words)
        spent = timed(lambda given=given: runtime.run(given), effort.calls)
        p50, p95 = statistics.median(spent), load.percentile(spent, 95)
        row[f"{tokens} tokens, p50 / p95"] = f"{p50:.2f} / {p95:.2f}"
    return row


def timed(call: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call, after a tenth as many that are not counted."""
    spent = []
    for n in range(-calls // 10, calls):
        began = time.perf_counter()
        call()
        if n >= 0:
            spent.append((time.perf_counter() - began) * 1e3)
    return spent


def throughput(shape: Shape, runtime: CudaRuntime, effort: Effort) -> Row:
    """Tokens per second of full batches, by batch."""
    row: Row = {}
    for batch in BATCHES:
        given = traffic.feed(BATCH_LENGTH, batch, shape.words)
        runtime.run(given)
        began, runs = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < effort.seconds or not runs:
            runtime.run(given)
            runs += 1
        rate = runs * batch * BATCH_LENGTH / spent
        row[f"{batch} x {BATCH_LENGTH}, tokens/s"] = round(rate)
    row["TFLOP/s in weights"] = round(rate * shape.operations / 1e12, 2)
    return row


async def judged(engine: Engine, contents: Iterator[Content], seconds: float) -> list[float]:
    """Milliseconds of each text, of judges that ask again as soon as they are answered."""
    spent: list[float] = []
    until = time.perf_counter() + seconds

    async def judge() -> None:
        while (began := time.perf_counter()) < until:
            await engine.judge([(next(contents),)])
            spent.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(judge() for _ in range(JUDGES)))
    return spent


def served(shape: Shape, runtime: CudaRuntime, effort: Effort) -> Row:
    """The engine as the service sets it up, under texts of real prompts' lengths."""
    classifier = Classifier(shape.bundle, runtime)
    texts = [Content("prompt", text) for text, _ in traffic.texts(TEXTS, seed=1)]
    contents = itertools.cycle(texts)
    engine = Engine(
        classifier,
        warm_up(classifier),
        workers=runtime.workers,
        max_queued_tokens=10**9,
        max_wait=1e9,
    )
    try:
        # Until most shapes have been seen.
        asyncio.run(judged(engine, contents, effort.seconds))
        began = time.perf_counter()
        spent = asyncio.run(judged(engine, contents, effort.seconds))
        seconds = time.perf_counter() - began
    finally:
        engine.close()
    return {
        "requests/s": round(len(spent) / seconds),
        **{f"p{p}": round(load.percentile(spent, p), 1) for p in (50, 99)},
    }


def measure(name: str, bundle: Bundle, device: str, effort: Effort, record: Record) -> None:
    """One shape, without and with CUDA graphs, into the record's tables."""
    with tempfile.TemporaryDirectory() as tmp:
        shape = Shape(name, SHAPES[name], bundle, Path(tmp))
        for graphs in (False, True)[: 2 if device == "cuda" else 1]:
            key: Row = {"shape": name, "CUDA graphs": "yes" if graphs else "no"}
            try:
                runtime = CudaRuntime(shape.bundle.graph, cuda_graphs=graphs, device=device)
                error = shape.error(runtime)
            except Exception as refused:
                # onnxruntime has no type for it. Without graphs there is nothing to go on with.
                if not graphs:
                    raise
                record.notes.append(f"{name}: no CUDA graph could be captured: {refused}")
                continue
            about = {"million parameters": round(shape.parameters / 1e6, 1)}
            rows = (
                {**key, **about, "largest logit error": round(error, 5)},
                key | latency(shape, runtime, effort),
                key | throughput(shape, runtime, effort),
                key | served(shape, runtime, effort),
            )
            for table, row in zip(record.tables, rows, strict=True):
                table.append(row)
                print(row, flush=True)


def check_cuda() -> None:
    """Stop where a session does not really get a GPU; the build's list of providers is no proof.

    Raises:
        ProviderError: where there is none.
    """
    kind = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "twice",
        [kind("x", TensorProto.FLOAT, [1])],
        [kind("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    cuda = "CUDAExecutionProvider"
    if cuda not in ort.get_available_providers():
        raise ProviderError(f"this onnxruntime build has no {cuda}")
    ort.preload_dlls()
    provider_of(ort.InferenceSession(model.SerializeToString(), providers=[cuda]), "cuda")


def run(device: str = "cuda", quick: bool = False) -> None:
    """Measure, and keep what a GPU said."""
    if device == "cuda":
        try:
            check_cuda()
        except ProviderError as error:
            raise SystemExit(f"no GPU: {error}. --device cpu rehearses without one.") from None
    bundle = bundles.load(bundles.default_bundle())
    effort = QUICK if quick else FULL
    record = Record("gpu", "On a GPU", "python -m benchmarks.gpu", tables=[[], [], [], []])
    record.notes = [
        "Random weights in fp16 through the service's own runtime for GPUs, copies to and from the "
        "device included. The error is that of the logits against fp32 on the CPU. First one "
        f"window, milliseconds of {effort.calls} calls; then batches, the rate of the largest one "
        "also as operations with weights.",
        f"Last table: the engine in this process, {JUDGES} judges in a closed loop, texts of real "
        f"prompts' lengths, {effort.seconds:.0f} s; milliseconds.",
    ]
    for name in list(SHAPES)[:1] if quick else SHAPES:
        measure(name, bundle, device, effort, record)
    record.write(
        bundle,
        keep=device == "cuda",
        machine=f"{accelerator(device)}, {machine()}",
        bundle=f"{bundle.name}@{bundle.fingerprint[:12]}, its tokenizer and heads only",
    )


def accelerator(device: str) -> str:
    """The device's name, where torch can tell."""
    known: Any = torch.cuda
    return known.get_device_name(0) if device == "cuda" and known.is_available() else device


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest shape, briefly")
    arguments = parser.parse_args()
    run(arguments.device, arguments.quick)
