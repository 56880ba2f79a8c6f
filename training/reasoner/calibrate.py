"""From a reasoner's odds to probabilities: two numbers for the verdict, one for the category.

Fitted on the held-out slice of the examples, by the very graph that serves: quantisation and the
way in which labels are scored are part of what is calibrated. Platt's scaling for P(unsafe),
a temperature for P(category | unsafe).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from tamis.reasoner.bundle import Calibration

Floats = NDArray[np.float64]
BINS: Final = 10
LEAST: Final = 1e-9
LEAST_SCALE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """What an uncalibrated reasoner made of one example, and what is right."""

    unsafe: float
    """P(unsafe)."""
    categories: Sequence[float]
    """P(category | unsafe), of the policy's categories in order."""
    truth: int | None
    """The right category's place; None where the example is safe."""
    policy: str = ""
    """Equal where the policy is the same."""


def fit(judged: Sequence[Judged]) -> Calibration:
    """The calibration of least log loss.

    Raises:
        ValueError: where one of the labels is missing.
    """
    odds, labels = _odds(judged), _labels(judged)
    if not 0 < labels.sum() < len(labels):
        raise ValueError("calibration needs safe and unsafe examples")

    def loss(parameters: Floats) -> float:
        return _log_loss(_squash(parameters[0] * odds + parameters[1]), labels)

    bounds = [(LEAST_SCALE, None), (None, None)]
    scale, bias = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=bounds).x
    cases = [(np.log(np.clip(j.categories, LEAST, 1)), j.truth) for j in _several(judged)]

    def category_loss(log_temperature: float) -> float:
        return _category_loss(cases, float(np.exp(log_temperature)))

    temperature = 1.0
    if cases:
        temperature = float(np.exp(minimize_scalar(category_loss, bounds=(-3, 3)).x))
    return Calibration(
        scale=round(float(scale), 4),
        bias=round(float(bias), 4),
        temperature=round(temperature, 4),
        fitted=True,
    )


def report(judged: Sequence[Judged]) -> dict[str, Any]:
    """How well probabilities hold before and after, the latter on halves they were not fitted on.

    All texts of a policy are in one half. Where a half lacks a label, nothing is said of after.
    """
    policies = {name: n % 2 for n, name in enumerate(dict.fromkeys(j.policy for j in judged))}
    halves = [[j for j in judged if policies[j.policy] == n] for n in (0, 1)]
    after = None
    if all(0 < _labels(half).sum() < len(half) for half in halves):
        fitted = [fit(half) for half in halves]
        after = figures([_apply(j, fitted[1 - n]) for n, half in enumerate(halves) for j in half])
    return {
        "examples": len(judged),
        "calibration": asdict(fit(judged)),
        "before": figures(judged),
        "after": after,
    }


def figures(judged: Sequence[Judged]) -> dict[str, float | None]:
    """Log loss, expected calibration error over ten bins, and accuracy of verdict and category."""
    labels = _labels(judged)
    unsafe = np.array([j.unsafe for j in judged])
    several = _several(judged)
    sure = np.array([max(j.categories) for j in several])
    right = np.array([int(np.argmax(j.categories)) == j.truth for j in several], float)
    return {
        "log_loss": round(_log_loss(unsafe, labels), 4),
        "ece": round(expected_error(unsafe, labels), 4),
        "accuracy": round(float(np.mean((unsafe >= 0.5) == labels)), 4),
        "category_ece": round(expected_error(sure, right), 4) if several else None,
        "category_accuracy": round(float(right.mean()), 4) if several else None,
    }


def expected_error(said: Floats, came: Floats) -> float:
    """Mean distance between what was said and how often it came, over bins of equal width."""
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    return float(
        sum(
            abs(said[bins == n].sum() - came[bins == n].sum())
            for n in range(BINS)
            if any(bins == n)
        )
        / len(said)
    )


def _apply(judged: Judged, calibration: Calibration) -> Judged:
    odds = float(_odds([judged])[0])
    log = np.log(np.clip(judged.categories, LEAST, 1)) / calibration.temperature
    shares = np.exp(log - log.max())
    unsafe = float(_squash(np.array([calibration.scale * odds + calibration.bias]))[0])
    return Judged(unsafe, (shares / shares.sum()).tolist(), judged.truth)


def _several(judged: Sequence[Judged]) -> list[Judged]:
    """Unsafe examples whose policy leaves a choice of category."""
    return [j for j in judged if j.truth is not None and len(j.categories) > 1]


def _odds(judged: Sequence[Judged]) -> Floats:
    p = np.clip([j.unsafe for j in judged], LEAST, 1 - LEAST)
    return np.asarray(np.log(p / (1 - p)))


def _labels(judged: Sequence[Judged]) -> Floats:
    return np.array([j.truth is not None for j in judged], float)


def _squash(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


def _log_loss(p: Floats, labels: Floats) -> float:
    p = np.clip(p, LEAST, 1 - LEAST)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def _category_loss(cases: Sequence[tuple[Floats, int | None]], temperature: float) -> float:
    total = 0.0
    for log, truth in cases:
        scaled = log / temperature
        total -= scaled[truth] - np.logaddexp.reduce(scaled)
    return float(total / len(cases))
