"""Base and adapter → reasoner bundle: merged, written as a decoder, quantised, compared."""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from tqdm import tqdm

from export import llama
from export.decoder import decoder
from export.quantize import quantize_embeddings
from tamis.building import building, replacing
from tamis.bundle import MANIFEST, BundleError, models, sha256_of
from tamis.content import prompt
from tamis.reasoner import protocol
from tamis.reasoner.bundle import FORMAT, NAME, Calibration, load
from tamis.reasoner.protocol import Format
from tamis.taxonomy import taxonomy
from training.classifier import bases
from training.classifier.bases import BaseMismatchError

__all__ = ["BaseMismatchError", "build", "recipe_of", "shipped_adapter"]

BASE: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
BITS: Final = {"int4": 4, "int8": 8, "fp32": 32}
# Products on int8 activations, a scale for each block of them.
ACCURACY: Final = 4
BLOCK: Final = 32
POSITIONS: Final = 2048
GRAPH: Final = "model.{}.onnx"
WEIGHTS: Final = "weights.bin"
TOKENIZER: Final = "tokenizer.json"
ANSWERS: Final = "format.json"
CALIBRATION: Final = "calibration.json"
LEAST_EXTERNAL: Final = 1 << 16
# To be raised whenever the same weights come to give another graph: bundles are then built anew.
LAYOUT: Final = 1

Step = Callable[[str], None]


def build(
    out: Path,
    base: str = BASE,
    adapter: Path | None = None,
    *,
    name: str = NAME,
    precision: str = "int8",
    block: int = BLOCK,
    positions: int = POSITIONS,
    progress: bool = True,
    if_needed: bool = False,
) -> dict[str, Any]:
    """Write the bundle, all at once when it is complete, and return its manifest.

    One process builds at a time. ``if_needed`` leaves alone what was made of the very same, even
    if another process has just done so.

    Of an adapter's folder, ``adapter_config.json`` and ``adapter_model.safetensors`` are read, and
    where they are there ``format.json`` (``protocol.Format``) and ``calibration.json``
    (``reasoner.Calibration``).

    Raises:
        BundleError, BaseMismatchError: where base or adapter cannot be used.
    """
    recipe = recipe_of(base, adapter, precision, block, positions)
    if if_needed and (made := _made_of(out, recipe)) is not None:
        return made
    out.parent.mkdir(parents=True, exist_ok=True)
    with building(out):
        if if_needed and (made := _made_of(out, recipe)) is not None:
            return made
        with (
            replacing(out) as new,
            tqdm(total=5, desc="reasoner", disable=not progress, unit="step") as bar,
        ):

            def step(what: str) -> None:
                bar.set_postfix_str(what)
                bar.update()

            manifest = _write(new, adapter, name, recipe, step)
            bar.set_postfix_str("done")
    return manifest


def _write(
    folder: Path, adapter: Path | None, name: str, recipe: Mapping[str, Any], step: Step
) -> dict[str, Any]:
    precision, block, positions = (recipe[part] for part in ("precision", "block", "positions"))
    step("base")
    origin, source = bases.resolve(recipe["base"])
    model = llama.load(Path(source), origin.weights)
    if adapter is not None:
        llama.merge(model.weights, adapter)
    step("graph")
    fp32 = decoder(model.weights, model.shape(positions))
    small = fp32
    step("quantise")
    if precision != "fp32":
        small = quantised(fp32, BITS[precision], block)
    graph = GRAPH.format(precision)
    _save(small, folder, graph)
    (folder / TOKENIZER).write_text(model.tokenizer, encoding="utf-8")
    form = Format(**_optional(adapter, ANSWERS))
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "licence": origin.licence,
        "graph": graph,
        "tokenizer": TOKENIZER,
        "positions": positions,
        "answers": asdict(form),
        "calibration": asdict(Calibration(**_optional(adapter, CALIBRATION))),
        "base": asdict(origin) | {"sha256": recipe["weights"]},
        "adapter": recipe["adapter"],
        "recipe": recipe,
        "quantisation": {"precision": precision, "block": block, "accuracy_level": ACCURACY},
        "made_with": {part: version(part) for part in ("onnx", "onnxruntime", "gguf")},
    }
    step("parity")
    if small is not fp32:
        manifest["parity"] = parity(fp32, folder / graph, model, form, positions)
    manifest["files"] = {f: sha256_of(folder / f) for f in (graph, WEIGHTS, TOKENIZER)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    step("checked")
    return manifest


def quantised(fp32: onnx.ModelProto, bits: int, block: int) -> onnx.ModelProto:
    """Weights in blocks of their own scale and zero, embeddings in int8 by rows."""
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    quantiser = MatMulNBitsQuantizer(
        quantize_embeddings(fp32), bits=bits, block_size=block, accuracy_level=ACCURACY
    )
    quantiser.process()
    model: onnx.ModelProto = quantiser.model.model
    return model


def parity(
    fp32: onnx.ModelProto, small: Path, model: llama.Llama, form: Format, positions: int
) -> dict[str, Any]:
    """How the quantised graph agrees with fp32 on a question under the default taxonomy."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(model.tokenizer)
    tokenizer.encode_special_tokens = True
    policy = protocol.guidelines(taxonomy().categories)
    asked = (*protocol.prefix(policy, form), *protocol.case(prompt("How do I bake bread?")))
    control = {t: tokenizer.token_to_id(t) for t in (protocol.START, protocol.END)}
    ids = protocol.encode(
        asked, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, control
    )[-positions:]
    with tempfile.TemporaryDirectory() as tmp:
        _save(fp32, Path(tmp), "fp32.onnx")
        reference = _logits(Path(tmp) / "fp32.onnx", ids)
    found = _logits(small, ids)
    return {
        "tokens": len(ids),
        "argmax_agreement": round(float(np.mean(found.argmax(1) == reference.argmax(1))), 4),
        "mean_abs_error": round(float(np.abs(found - reference).mean()), 4),
        "std_of_logits": round(float(reference.std()), 4),
    }


def shipped_adapter() -> Path | None:
    """The adapter that is committed, where there is one."""
    folder = models() / f"{NAME}-adapter"
    return folder if (folder / "adapter_config.json").is_file() else None


def recipe_of(
    base: str, adapter: Path | None, precision: str, block: int, positions: int
) -> dict[str, Any]:
    """All that a bundle's graph depends on; a bundle of an equal recipe need not be built.

    A pinned base is not fetched for it.
    """
    pinned = bases.BASES.get(base)
    weights = None if pinned is None else pinned.sha256
    if weights is None:
        origin, source = bases.resolve(base)
        weights = sha256_of(Path(source) / origin.weights)
    return {
        "layout": LAYOUT,
        "base": base,
        "weights": weights,
        "adapter": None if adapter is None else adapter_hashes(adapter),
        "precision": precision,
        "block": block,
        "positions": positions,
    }


def _made_of(out: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the bundle that is there, where it is usable and was made so."""
    try:
        made = dict(load(out).manifest)
    except BundleError:
        return None
    return made if made.get("recipe") == recipe else None


def adapter_hashes(adapter: Path) -> dict[str, str]:
    """SHA-256 of an adapter's files: what a bundle was made from."""
    names = ("adapter_config.json", "adapter_model.safetensors", ANSWERS, CALIBRATION)
    return {n: sha256_of(adapter / n) for n in names if (adapter / n).is_file()}


def _logits(graph: Path, ids: list[int]) -> Any:
    """Logits (T, vocabulary) of every position."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    shapes = {i.name: i.shape for i in session.get_inputs()}
    feed: dict[str, Any] = {
        name: np.zeros((1, shape[1], len(ids), shape[3]), np.float32)
        for name, shape in shapes.items()
        if name.startswith("past.")
    }
    feed["input_ids"] = np.array([ids])
    feed["last"] = np.array([len(ids) - 1], np.int32)
    feed["total"] = np.array(len(ids), np.int32)
    feed["wanted"] = np.arange(len(ids))
    return session.run(["logits"], feed)[0]


def _optional(adapter: Path | None, name: str) -> dict[str, Any]:
    file = None if adapter is None else adapter / name
    if file is None or not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _save(model: onnx.ModelProto, folder: Path, graph: str) -> None:
    """Write the graph and, beside it, its weights, which onnxruntime maps into memory."""
    onnx.save(
        model,
        folder / graph,
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=LEAST_EXTERNAL,
    )
    (folder / WEIGHTS).touch()
