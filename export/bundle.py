"""Checkpoint → bundle folder: int8 or fp16 graph, tokenizer, manifest, parity report."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx

from export import card, parity
from export.graph import to_onnx
from export.half import to_half
from export.quantize import best_int8
from tamis.building import replacing
from tamis.bundle import FORMAT, MANIFEST, Head, head_of, sha256_of
from tamis.tokens import plain_tokenizer
from training.classifier import calibration, trainer
from training.classifier.inference import load_model
from training.classifier.model import GuardClassifier
from training.classifier.recipe import Recipe
from training.datasets import batches, mixing
from training.datasets.batches import Example
from training.datasets.registry import HEADS, QUESTION_OF
from training.datasets.schema import Row

Precision = Literal["int8", "fp16"]

GRAPH: Final = "model.{}.onnx"
TOKENIZER: Final = "tokenizer.json"
TABLES: Final = "embeddings.bin"
TABLE_BYTES: Final = 1 << 20
# Activation ranges settle after some hundred texts, second moments of 1,536 channels want more.
CALIBRATION_ROWS: Final = 512
PARITY_ROWS: Final = 2000
# That the fp32 graph is the model shows on a few; of a body of 110M each costs a fifth of a second.
TRACED_ROWS: Final = 200
LICENCES: Final = {"permissive": "Apache-2.0", "all": "research only (non-commercial data)"}
OWN: Final = "not decided: trained on feedback, whose texts are not ours to license"


def build(
    checkpoint: Path, data: Sequence[Path], out: Path, name: str, precision: Precision = "int8"
) -> dict[str, Any]:
    """Write the bundle, all at once, and return its parity report.

    "int8" is for CPUs, "fp16" for GPUs. What else lay in ``out`` (Perspective's table, bands) was
    made for the bundle that was there, and goes with it.

    The graph has one output per head that the held-out slice could calibrate; a category that the
    data cannot teach is left out rather than served untaught.

    Raises:
        ValueError: where ``out`` holds something else than a bundle.
    """
    check_place(out)
    training = json.loads((checkpoint / "training.json").read_text())
    # The graph has it within; the manifest says which one it is.
    spans = training.pop("pooling", None)
    calibrated = calibration.read(checkpoint)
    recipe = Recipe(**training["recipe"])
    tokenizer = plain_tokenizer(checkpoint / TOKENIZER)
    shape = trainer.window_shape(tokenizer, recipe)
    model = load_model(checkpoint)
    kept = [HEADS.index(head["name"]) for head in calibrated]
    model.keep_heads(kept)

    rows, held = trainer.rows_for(data, checkpoint, recipe)
    rng = np.random.default_rng(recipe.seed)
    chosen = rng.choice(len(rows), CALIBRATION_ROWS, replace=False, p=mixing.probabilities(rows))
    examples = batches.encode([rows[i] for i in chosen], tokenizer, shape)
    feeds = [parity.feed_of(batches.choose_window(e, rng), e) for e in examples]

    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fp32.onnx"
        to_onnx(model, path, recipe.max_tokens)
        fp32 = onnx.load(path)
    errors: dict[str, float] = {}
    if precision == "int8":
        small, errors = best_int8(fp32, feeds)
    else:
        small = to_half(fp32)

    heads = [head_of(raw) for raw in calibrated]
    sample = [held[i] for i in rng.permutation(len(held))[:PARITY_ROWS]]
    tried = batches.encode(sample, tokenizer, shape, batches.HELD_OUT_WINDOWS)
    report = _parity(model, fp32, small, precision, sample, tried, heads)
    if errors:
        report["smoothing"] = {strength: round(error, 5) for strength, error in errors.items()}

    graph = GRAPH.format(precision)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "licence": licence_of(training),
        "graph": graph,
        "tokenizer": TOKENIZER,
        "windows": asdict(shape),
        "pooling": spans,
        "heads": calibrated,
        "training": training,
        "parity": report,
    }
    with replacing(out) as new:
        save_graph(small, new, graph)
        shutil.copyfile(checkpoint / TOKENIZER, new / TOKENIZER)
        manifest["files"] = {f: sha256_of(new / f) for f in (graph, TABLES, TOKENIZER)}
        write_manifest(manifest, new)
    return report


def write_manifest(manifest: Mapping[str, Any], folder: Path) -> None:
    """The manifest, and the card that is written from it."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(card.render(manifest))


def check_place(out: Path) -> None:
    """See to it that what a new bundle replaces is one.

    Raises:
        ValueError: where the folder holds something else.
    """
    if out.exists() and not (out / MANIFEST).is_file() and any(out.iterdir()):
        raise ValueError(f"{out} holds something else than a bundle: give another --out")


def licence_of(training: Mapping[str, Any]) -> str:
    """What the weights may be used for, as far as it follows from the data."""
    if training["rows"].get("feedback"):
        return OWN
    return LICENCES[training["recipe"]["variant"]]


def save_graph(model: onnx.ModelProto, out: Path, graph: str) -> None:
    """Write the graph, and its embedding table beside it.

    onnxruntime maps a file beside the graph into memory: all sessions and processes share it, and
    of the table only the rows that were looked up are ever read. A second session costs 14 MB
    instead of 35.
    """
    # onnx appends to a file that is there.
    (out / TABLES).unlink(missing_ok=True)
    onnx.save(
        model,
        out / graph,
        save_as_external_data=True,
        location=TABLES,
        size_threshold=TABLE_BYTES,
        convert_attribute=False,
    )
    (out / TABLES).touch()


def _parity(
    model: GuardClassifier,
    fp32: onnx.ModelProto,
    small: onnx.ModelProto,
    precision: Precision,
    rows: list[Row],
    examples: list[Example],
    heads: list[Head],
) -> dict[str, Any]:
    names = [head.name for head in heads]
    asked = [names.index(QUESTION_OF[row.target]) for row in rows]
    scorers = {
        "fp32": parity.onnx_scorer(fp32),
        precision: parity.onnx_scorer(small),
        "torch": parity.torch_scorer(model),
    }
    few = {"torch": TRACED_ROWS}
    logits = {
        name: parity.logits_of(score, examples[: few.get(name)], name)
        for name, score in scorers.items()
    }
    return {
        f"{one} to {other}": parity.compare(logits[one], logits[other], heads, asked).as_json()
        for one, other in (("torch", "fp32"), ("fp32", precision))
    }
