"""How far the shipped graph is from the trained model: score differences and decision flips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from tqdm import tqdm

from export.products import THREADS, session
from tamis.bundle import Head
from tamis.windows import Window
from training.classifier.calibration import sigmoid
from training.classifier.model import GuardClassifier
from training.datasets.batches import INPUTS, Example, collate

Feed = dict[str, np.ndarray]
Scorer = Callable[[Feed], np.ndarray]


@dataclass(frozen=True, slots=True)
class Parity:
    """Two scorers compared on the same rows; differences are of calibrated probabilities."""

    rows: int
    mean_difference: float
    p99_difference: float
    max_difference: float
    flips: int

    @property
    def flip_rate(self) -> float:
        """The share of rows whose flag decision changed."""
        return self.flips / self.rows

    def as_json(self) -> Mapping[str, Any]:
        """Plain data for the manifest."""
        return {
            "rows": self.rows,
            "mean_difference": round(self.mean_difference, 6),
            "p99_difference": round(self.p99_difference, 6),
            "max_difference": round(self.max_difference, 6),
            "flips": self.flips,
            "flip_rate": round(self.flip_rate, 6),
        }


def feed_of(window: Window, example: Example) -> Feed:
    """The arrays of one window alone, as CPU serving runs it: batch 1, no padding."""
    batch = collate([(0, window)], [example])
    width = len(window.ids)
    return {name: getattr(batch, name)[:, :width] for name in INPUTS}


def onnx_scorer(graph: onnx.ModelProto, threads: int = THREADS) -> Scorer:
    """Logits (1, H) of a graph."""
    run = session(graph, threads)
    return lambda feed: np.asarray(run.run(["logits"], feed)[0])


def torch_scorer(model: GuardClassifier) -> Scorer:
    """Logits (1, H) of the trained model in fp32."""

    def score(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            scores = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        return np.asarray(scores.logits.numpy())

    return score


def logits_of(scorer: Scorer, examples: Sequence[Example], name: str) -> np.ndarray:
    """Logits (rows, H), the highest over a row's windows."""
    return np.stack(
        [
            np.max([scorer(feed_of(w, example))[0] for w in example.windows], axis=0)
            for example in tqdm(examples, desc=f"parity: {name}")
        ]
    )


def compare(
    one: np.ndarray, other: np.ndarray, heads: Sequence[Head], asked: Sequence[int]
) -> Parity:
    """Compare logits (rows, H) on the head that each row's question asks, as far as both go."""
    rows = np.arange(min(len(one), len(other)))
    asked = asked[: len(rows)]
    mine = [heads[head] for head in asked]
    scale = np.array([head.scale for head in mine])
    bias = np.array([head.bias for head in mine])
    flag = np.array([head.thresholds.flag for head in mine])
    p, q = (sigmoid(scale * z[rows, asked] + bias) for z in (one, other))
    difference = np.abs(p - q)
    return Parity(
        rows=len(rows),
        mean_difference=float(difference.mean()),
        p99_difference=float(np.quantile(difference, 0.99)),
        max_difference=float(difference.max()),
        flips=int(((p >= flag) != (q >= flag)).sum()),
    )
