"""Binary metrics in numpy, so that ``tamis evaluate`` needs nothing that serving does not.

Tested against scikit-learn.
"""

import statistics
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def average_precision(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve, step-wise; ties share one step."""
    truth, scores = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=float)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.diff(scores[order]) != 0, True)
    precision = hits[last] / (np.flatnonzero(last) + 1)
    recall = hits[last] / truth.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an unsafe row outscores a safe one, ties half."""
    truth, scores = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=float)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    ranks = (upper - (counts - 1) / 2)[inverse]
    positives, negatives = truth.sum(), (~truth).sum()
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def spread(values: Iterable[float | None]) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.1f}"
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}"
