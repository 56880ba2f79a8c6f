"""Logits of pairs → probabilities, and the threshold that a policy starts with, per question.

Probabilities are of single rules, on policies that were not trained on and on held-out rows of
those that were, half of the weight each: what a customer writes is new. Thresholds are of whole
policies: a text is flagged where its likeliest rule reaches them. They are chosen on policies that
have texts of both labels: of one that has unsafe ones alone no threshold is too low.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tamis.content import Question
from tamis.rules import QUESTIONS
from training.classifier.calibration import (
    CATEGORY_COST,
    Calibration,
    calibration_error,
    fit_platt,
    sigmoid,
)
from training.classifier.thresholds import Scored, accuracy, plain
from training.rules.trials import Trial

# Fewer texts of either label set no threshold of their own; those of all questions do.
FEWEST: Final = 20


def calibrate(trials: Sequence[Trial], logits: Sequence[np.ndarray]) -> list[Calibration]:
    """Calibration and thresholds of every question.

    Raises:
        ValueError: where not even all questions together have texts of both labels.
    """
    need_both_labels(trials)
    everything = np.arange(len(trials))
    found = []
    for question in QUESTIONS:
        mine = np.array([n for n in everything if trials[n].question == question], dtype=int)
        used = mine if _both(trials, _two_sided(trials, mine), FEWEST) else everything
        found.append(_calibrate(question, [trials[n] for n in used], [logits[n] for n in used]))
    return found


def need_both_labels(trials: Sequence[Trial]) -> None:
    """Raise a ValueError where not even all questions together have texts of both labels."""
    if not _both(trials, np.arange(len(trials)), 1):
        raise ValueError("calibration needs texts that break a rule and texts that break none")


def figures(trials: Sequence[Trial], logits: Sequence[np.ndarray]) -> dict[str, float]:
    """How well rules are told apart: accuracy of verdict (at its best threshold) and of category.

    Both as means over policies, one of which is one score however many its texts are.
    """
    verdicts, named = [], []
    for policy in dict.fromkeys(trial.policy for trial in trials):
        mine = [n for n, trial in enumerate(trials) if trial.policy == policy]
        most = np.array([logits[n].max() for n in mine])
        truth = np.array([bool(trials[n].broken) for n in mine])
        if 0 < truth.sum() < len(truth):
            scored = Scored(most, truth.astype(float), np.ones(len(mine)))
            verdicts.append(float(accuracy(scored, np.unique(most)).max()))
        if len(trials[mine[0]].rules) > 1 and truth.any():
            right = [
                int(np.argmax(logits[n])) in trials[n].broken for n in mine if trials[n].broken
            ]
            named.append(float(np.mean(right)))
    return {"verdict": _mean(verdicts), "category": _mean(named)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else float("nan")


def _both(trials: Sequence[Trial], mine: np.ndarray, fewest: int) -> bool:
    unsafe = sum(bool(trials[n].broken) for n in mine)
    return min(unsafe, len(mine) - unsafe) >= fewest


def _two_sided(trials: Sequence[Trial], mine: np.ndarray) -> np.ndarray:
    """Those of ``mine`` whose policy has texts of both labels there."""
    labels: dict[str, set[bool]] = {}
    for n in mine:
        labels.setdefault(trials[n].policy, set()).add(bool(trials[n].broken))
    return np.array([n for n in mine if len(labels[trials[n].policy]) == 2], dtype=int)


def weights_of(trials: Sequence[Trial]) -> np.ndarray:
    """(texts,): policies count the same, and written ones half of all, where there are others."""
    names = [trial.policy for trial in trials]
    counts = {name: names.count(name) for name in set(names)}
    weights = np.array([1 / counts[name] for name in names])
    written = np.array([trial.written for trial in trials])
    for side in (written, ~written):
        if side.any():
            weights[side] /= weights[side].sum()
    return weights


def known_pairs(
    trials: Sequence[Trial], logits: Sequence[np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logit, label and weight of every rule of which is known whether the text breaks it."""
    rows = [
        (logit, label, weight / len(trial.rules))
        for trial, said, weight in zip(trials, logits, weights, strict=True)
        for logit, label in zip(said.tolist(), trial.labels, strict=True)
        if label is not None
    ]
    z, y, w = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    return z, y, w


def _calibrate(
    question: Question, trials: Sequence[Trial], logits: Sequence[np.ndarray]
) -> Calibration:
    weights = weights_of(trials)
    z, y, w = known_pairs(trials, logits, weights)
    scale, bias = fit_platt(z, y, w)
    most = np.array([sigmoid(scale * said + bias).max() for said in logits])
    truth = np.array([float(bool(trial.broken)) for trial in trials])
    everything = np.arange(len(trials))
    fit = _two_sided(trials, everything)
    used = fit if len(fit) else everything
    fair = weights_of([trials[n] for n in used])
    chosen = plain(Scored(most[used], truth[used], fair), CATEGORY_COST, by=accuracy)
    own = chosen.sets["balanced"]
    return Calibration(
        name=question,
        scale=scale,
        bias=bias,
        flag=own.flag,
        block=own.block,
        rows=len(trials),
        positives=int(truth.sum()),
        f1=chosen.f1,
        ece_before=calibration_error(sigmoid(z), y, w),
        ece_after=_cross_fitted_error(trials, logits, weights),
        alarms=chosen.alarms,
        sensitivities={n: limits._asdict() for n, limits in chosen.sets.items() if n != "balanced"},
    )


def _cross_fitted_error(
    trials: Sequence[Trial], logits: Sequence[np.ndarray], weights: np.ndarray
) -> float:
    """The calibration error of policies by the calibration of others."""
    names = list(dict.fromkeys(trial.policy for trial in trials))
    halves = [
        [n for n, trial in enumerate(trials) if names.index(trial.policy) % 2 == half]
        for half in (0, 1)
    ]
    sides = [
        known_pairs([trials[n] for n in half], [logits[n] for n in half], weights[half])
        for half in halves
        if half
    ]
    if len(sides) < 2 or any(len(set(y.tolist())) < 2 for _, y, _ in sides):
        z, y, w = known_pairs(trials, logits, weights)
        scale, bias = fit_platt(z, y, w)
        return calibration_error(sigmoid(scale * z + bias), y, w)
    p, truth, weight = [], [], []
    for n, (z, y, w) in enumerate(sides):
        scale, bias = fit_platt(*sides[1 - n])
        p.append(sigmoid(scale * z + bias))
        truth.append(y)
        weight.append(w)
    return calibration_error(*(np.concatenate(each) for each in (p, truth, weight)))
