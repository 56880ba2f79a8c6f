r"""Ways to serve the reasoner's base on a CPU: speed, size, and agreement with fp32.

    optimum-cli export onnx --model BASE --task text-generation-with-past FOLDER/optimum
    python -m onnxruntime_genai.models.builder -i BASE -o FOLDER/genai -p int4 -e cpu \
        --extra_options int4_accuracy_level=4 int4_block_size=32
    python -m benchmarks.decoders FOLDER

FOLDER also holds the base as ``base.gguf`` for llama.cpp; what is not there, or cannot be imported,
has no row. All read the same tokens and are given the same tokens to go on with, in turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from tokenizers import Tokenizer

from benchmarks.record import Record, Row
from export import reasoner as reasoners
from service.engine.reasoner.decoder import Decoder
from service.engine.runtime import available_threads, cpu_session
from tamis import bundle as bundles

PAGE: Final = Path(__file__).parents[1] / "docs" / "api.md"
READ: Final = 256
WRITTEN: Final = 48
ROUNDS: Final = 5


class Contestant(Protocol):
    """A decoder at one text; ``read`` returns the likeliest token behind what it appends."""

    bytes: int

    def start(self) -> None:
        """Begin anew."""

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens."""


class Ours:
    """The graph that serves."""

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        reasoners.build(folder, precision=precision, progress=False)
        self._decoder = Decoder(next(folder.glob("*.onnx")), reasoners.POSITIONS, threads)
        self.bytes = _size(folder, "*.onnx", "*.bin")

    def start(self) -> None:
        """Begin anew."""
        self._decoder.rewind(0)

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens."""
        return int(self._decoder.read(ids)[0].argmax())


class Traced:
    """What optimum traces: keys and values go in and out of every run."""

    def __init__(self, graph: Path, threads: int) -> None:
        self._session = cpu_session(graph, threads)
        self._past = [i for i in self._session.get_inputs() if i.name.startswith("past")]
        self.bytes = _size(graph.parent, "*.onnx", "*.onnx.data", "*.onnx_data")
        self._names = [o.name for o in self._session.get_outputs()]

    def start(self) -> None:
        """Begin anew."""
        empty = [np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in self._past]
        self._state = {i.name: part for i, part in zip(self._past, empty, strict=True)}
        self._tokens = 0

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens."""
        end = self._tokens + len(ids)
        feed: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._tokens, end)[None],
        }
        known = {i.name for i in self._session.get_inputs()}
        logits, *present = self._session.run(
            self._names, {k: v for k, v in feed.items() if k in known} | self._state
        )
        self._state = {i.name: part for i, part in zip(self._past, present, strict=True)}
        self._tokens = end
        return int(logits[0, -1].argmax())


class Genai:
    """onnxruntime-genai's builder and its own runtime."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai as og  # type: ignore[import-not-found, unused-ignore]

        config = og.Config(str(folder))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._og, self._model = og, og.Model(config)
        self.bytes = _size(folder, "model.onnx*")

    def start(self) -> None:
        """Begin anew."""
        options = self._og.GeneratorParams(self._model)
        options.set_search_options(max_length=READ + WRITTEN + 8)
        self._generator = self._og.Generator(self._model, options)

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens."""
        self._generator.append_tokens(np.array(ids, np.int32))
        return int(np.asarray(self._generator.get_logits()).reshape(-1).argmax())


class LlamaCpp:
    """llama.cpp on the base's own file."""

    def __init__(self, gguf: Path, threads: int) -> None:
        from llama_cpp import Llama  # type: ignore[import-not-found, unused-ignore]

        self._model = Llama(
            str(gguf), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self.bytes = gguf.stat().st_size

    def start(self) -> None:
        """Begin anew."""
        self._model.reset()

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens."""
        self._model.eval(list(ids))
        return int(np.ctypeslib.as_array(self._model._ctx.get_logits(), (49152,)).argmax())


def contestants(folder: Path, work: Path, threads: int) -> Iterator[tuple[str, Contestant]]:
    """Whoever is there; the first is the reference."""
    traced = folder / "optimum" / "model.onnx"
    yield "optimum, fp32", Traced(traced, threads)
    for precision in ("fp32", "int8", "int4"):
        yield f"ours, {precision}", Ours(work / precision, precision, threads)
    for precision, bits in (("int8", 8), ("int4", 4)):
        made = work / f"optimum-{precision}"
        made.mkdir()
        quantiser = MatMulNBitsQuantizer(
            onnx.load(traced),
            bits=bits,
            block_size=reasoners.BLOCK,
            accuracy_level=reasoners.ACCURACY,
        )
        quantiser.process()
        onnx.save(quantiser.model.model, made / "model.onnx")
        yield f"optimum + MatMulNBits, {precision}", Traced(made / "model.onnx", threads)
    for name, made, of in (
        ("onnxruntime-genai's builder, int4", folder / "genai", Genai),
        ("llama.cpp, Q4_1", folder / "base.gguf", LlamaCpp),
    ):
        try:
            yield name, of(made, threads)
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            print(f"{name}: left out ({type(error).__name__})")


def measure(found: dict[str, Contestant], ids: Sequence[int]) -> list[Row]:
    """A row for each: medians of rounds in turns, and how often it agrees with the first."""
    asked, given = ids[:READ], ids[READ : READ + WRITTEN]
    read: dict[str, list[float]] = {name: [] for name in found}
    written: dict[str, list[float]] = {name: [] for name in found}
    said: dict[str, list[int]] = {}
    for _ in range(ROUNDS):
        for name, contestant in found.items():
            contestant.start()
            began = time.perf_counter()
            first = contestant.read(asked)
            between = time.perf_counter()
            said[name] = [first, *(contestant.read([token]) for token in given)]
            read[name].append(between - began)
            written[name].append(time.perf_counter() - between)
    reference = next(iter(said.values()))
    return [
        {
            "": name,
            "MB": round(contestant.bytes / 1e6),
            "read/s": round(READ / statistics.median(read[name])),
            "written/s": round(WRITTEN / statistics.median(written[name]), 1),
            "agrees with fp32": f"{np.mean(np.array(said[name]) == reference):.0%}",
        }
        for name, contestant in found.items()
    ]


def _size(folder: Path, *patterns: str) -> int:
    return sum({f: f.stat().st_size for p in patterns for f in folder.glob(p)}.values())


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    record = Record(
        "decoders",
        "Ways to serve the reasoner's base",
        "python -m benchmarks.decoders FOLDER",
        notes=[
            f"The bare base on {available_threads()} threads, {READ} tokens read in one run and "
            f"{WRITTEN} one by one, the same for all; medians of {ROUNDS} rounds in turns. "
            f"Agreement: the likeliest next token at {WRITTEN + 1} places. The base is published "
            "in 4 bits (Q4_1); ours and optimum's start from that, unpacked.",
        ],
    )
    with tempfile.TemporaryDirectory() as tmp:
        found = dict(contestants(folder, Path(tmp), available_threads()))
        text = Tokenizer.from_file(str(Path(tmp) / "int8" / "tokenizer.json"))
        ids = text.encode(PAGE.read_text(encoding="utf-8"), add_special_tokens=False).ids
        record.tables.append(measure(found, ids))
    served = bundles.load(bundles.default_bundle())
    record.write(served, bundle=reasoners.BASE)


if __name__ == "__main__":
    main()
