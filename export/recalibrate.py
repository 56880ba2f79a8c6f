"""A bundle's scales and thresholds anew, from held-out rows as its own graph judges them.

The rule by which thresholds are chosen may change, and so may the rows that speak: neither takes
training, nor the checkpoint. The graph stays as it is, byte for byte.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from export.bundle import check_place, write_manifest
from export.parity import Scorer, feed_of, onnx_scorer
from export.products import THREADS
from tamis.building import replacing
from tamis.bundle import Bundle, load
from tamis.tokens import plain_tokenizer
from training.classifier import calibration, trainer
from training.classifier.inference import speaking
from training.classifier.recipe import Recipe
from training.datasets import batches
from training.datasets.batches import Example
from training.datasets.registry import HEADS


def recalibrate(bundle: Path, data: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Write ``out``, the bundle with heads calibrated on the held-out rows of ``data``.

    A head that the rows cannot speak for keeps what it had. What else lay beside the graph was made
    for the old scores (Perspective's table, bands), and does not come along.

    Raises:
        BundleError: where the bundle is corrupted.
        ValueError: where ``out`` holds something else than a bundle, or no row says anything of a
            question that every bundle answers.
    """
    check_place(out)
    loaded = load(bundle)
    manifest = loaded.manifest
    recipe = Recipe(**manifest["training"]["recipe"])
    tokenizer = plain_tokenizer(loaded.tokenizer)
    _, held = trainer.rows_for(data, bundle, recipe)
    shape = trainer.window_shape(tokenizer, recipe)
    examples = batches.encode(held, tokenizer, shape, batches.HELD_OUT_WINDOWS)
    logits = _logits(loaded, examples)
    labels = np.stack([example.labels for example in examples])
    found = calibration.as_json(calibration.calibrate(held, labels, logits))
    new = {head["name"]: head for head in found}
    heads = [new.get(head["name"], head) for head in manifest["heads"]]
    manifest = {**manifest, "heads": heads}
    with replacing(out) as folder:
        for name in manifest["files"]:
            shutil.copyfile(loaded.path / name, folder / name)
        write_manifest(manifest, folder)
    return heads


def _logits(bundle: Bundle, examples: Sequence[Example]) -> np.ndarray:
    """(rows, H) over a row's windows as in serving, one after the other; unknown heads are 0."""
    names = [head.name for head in bundle.heads]
    sign = speaking(names)
    graph = onnx.load(bundle.graph)
    scorers = [onnx_scorer(graph, threads=1) for _ in range(THREADS)]

    def judge(example: Example, score: Scorer) -> np.ndarray:
        said = [score(feed_of(window, example))[0] for window in example.windows]
        return np.asarray(sign * np.max(sign * np.stack(said), axis=0))

    def part(n: int) -> list[np.ndarray]:
        mine = tqdm(examples[n::THREADS], desc=bundle.name, unit="text", disable=n > 0)
        return [judge(example, scorers[n]) for example in mine]

    out = np.zeros((len(examples), len(HEADS)), dtype=np.float32)
    columns = [HEADS.index(name) for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        for n, said in enumerate(pool.map(part, range(THREADS))):
            out[n::THREADS, columns] = np.stack(said)
    return out
