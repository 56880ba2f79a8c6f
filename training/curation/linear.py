"""A judge of another family: words and characters, weighed by a logistic regression.

It shares no weights, no pretraining and no tokenizer with the classifier, so what fools one of them
need not fool the other. It reads no order beyond word pairs and knows no word that the real rows
lack, which is its weakness with disguised requests (docs/lab-log.md has the figures).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import sklearn
from platformdirs import user_cache_path
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from training.classifier.calibration import FEWEST, fit_platt, sigmoid
from training.datasets import mixing
from training.datasets.mixing import Variant
from training.datasets.registry import answers_surely
from training.datasets.schema import Row, fingerprint

# Counted in what a fit depends on, so that another recipe is not taken from the disk.
RECIPE: Final = "words 1-2, characters 2-4 within words, 2^18 each, C 4"
BITS: Final = 18
# Of longer texts the beginning decides; it bounds the time of a fit as well.
MOST_CHARACTERS: Final = 2000
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One target's weights: p = sigmoid(scale * (tfidf @ weights + intercept) + bias)."""

    idf: np.ndarray
    weights: np.ndarray
    intercept: float
    scale: float
    bias: float

    def logits(self, counts: csr_matrix) -> np.ndarray:
        """(n, 2^19) counts → (n,), not calibrated."""
        return np.asarray(_tfidf(self.idf).transform(counts) @ self.weights + self.intercept)


class LinearJudge:
    """Fitted on the training rows of a folder, calibrated on their held-out slice.

    Only rows that say yes or no teach it: of the sources whose label holds of a share (most posts)
    those alone that were read.

    A target is fitted when rows of it are first judged (11 s for 18,000 prompts), and then stored.
    """

    name = "linear"

    def __init__(
        self, real: Path, variant: Variant = "permissive", cache: Path | None = None
    ) -> None:
        train, held = mixing.split(mixing.load([real], variant))
        self._train = [row for row in train if answers_surely(row)]
        self._held = [row for row in held if answers_surely(row)]
        self._cache = cache or user_cache_path("tamis") / "judges"
        self._models: dict[str, Model] = {}
        self.identity = f"{RECIPE} {fingerprint(self._train)} {fingerprint(self._held)}"

    def unsafe(self, rows: Sequence[Row]) -> np.ndarray:
        """(n,): the calibrated probability that each row's judged text is unsafe.

        Raises:
            ValueError: for a target of which the real rows lack a label.
        """
        out = np.zeros(len(rows))
        for target in sorted({row.target for row in rows}):
            mine = [n for n, row in enumerate(rows) if row.target == target]
            model = self._model(target)
            logits = model.logits(counts([rows[n].judged for n in mine]))
            out[mine] = sigmoid(model.scale * logits + model.bias)
        return out

    def _model(self, target: str) -> Model:
        if target not in self._models:
            self._models[target] = self._load_or_fit(target)
        return self._models[target]

    def _load_or_fit(self, target: str) -> Model:
        train = [row for row in self._train if row.target == target]
        held = [row for row in self._held if row.target == target]
        parts = (RECIPE, sklearn.__version__, target, fingerprint(train), fingerprint(held))
        path = self._cache / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}.npz"
        if path.exists():
            with np.load(path) as stored:
                scalars = {n: float(stored[n]) for n in ("intercept", "scale", "bias")}
                return Model(stored["idf"], stored["weights"], **scalars)
        if len({row.label for row in train}) < 2:
            raise ValueError(f"judge: the real rows lack a label for target {target!r}")
        model = fit(train, held)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as stream:
            np.savez_compressed(
                stream,
                idf=model.idf,
                weights=model.weights,
                intercept=model.intercept,
                scale=model.scale,
                bias=model.bias,
            )
        unfinished.rename(path)
        return model


def counts(texts: Sequence[str]) -> csr_matrix:
    """Hashed counts of word and character n-grams: (n, 2^19)."""
    common: dict[str, Any] = {"n_features": 2**BITS, "norm": None, "alternate_sign": False}
    words = HashingVectorizer(ngram_range=(1, 2), **common)
    parts = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), **common)
    cut = [text[:MOST_CHARACTERS] for text in texts]
    return hstack([words.transform(cut), parts.transform(cut)], format="csr")


def fit(train: Sequence[Row], held: Sequence[Row]) -> Model:
    """Fit one target, rows weighted as in training, and calibrate it on held-out rows.

    Calibrated on sources that hold both labels: where a source is all safe or all unsafe,
    recognising it is enough, and the judge would be far too sure of itself on new texts.
    """
    found = counts([row.judged for row in train])
    labels = np.array([row.label for row in train])
    chances = mixing.probabilities(list(train))
    tfidf = TfidfTransformer(sublinear_tf=True).fit(found)
    regression = LogisticRegression(C=4.0, solver="liblinear", random_state=SEED)
    regression.fit(tfidf.transform(found), labels, sample_weight=chances * len(train))
    weights = regression.coef_[0].astype(np.float32)
    plain = Model(tfidf.idf_.astype(np.float32), weights, float(regression.intercept_[0]), 1.0, 0.0)
    judged = _of_both_labels(held)
    if not judged:
        return plain
    logits = plain.logits(counts([row.judged for row in judged]))
    truth = np.array([row.label for row in judged])
    scale, bias = fit_platt(logits, truth, mixing.probabilities(judged))
    return Model(plain.idf, plain.weights, plain.intercept, scale, bias)


def _of_both_labels(rows: Sequence[Row]) -> list[Row]:
    by_source: dict[str, list[int]] = {}
    for row in rows:
        by_source.setdefault(row.source, [0, 0])[row.label] += 1
    both = {source for source, found in by_source.items() if min(found) >= FEWEST}
    return [row for row in rows if row.source in both] or list(rows)


def _tfidf(idf: np.ndarray) -> TfidfTransformer:
    tfidf = TfidfTransformer(sublinear_tf=True)
    tfidf.idf_ = idf
    return tfidf
