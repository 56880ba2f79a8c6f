"""Logits of pairs → probabilities, and the threshold that a policy starts with, per question.

Where the encoder reads hints, the classifier's verdict has a bias of its own: of held-out texts
that it calls unsafe four in five break a rule, and the encoder, which was taught to doubt it, says
so of fewer (requests of organisations judged rightly: 66 instead of 63 %, answers 72 instead of
67).

Probabilities are of single rules, on policies that were not trained on and on held-out rows of
those that were, half of the weight each: what a customer writes is new. Thresholds are of whole
policies: a text is flagged where its likeliest rule reaches them. They are chosen on policies that
have texts of both labels: of one that has unsafe ones alone no threshold is too low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from tamis.content import Question
from tamis.rules import QUESTIONS, SAFE, Hints
from training.classifier.calibration import (
    CATEGORY_COST,
    Calibration,
    calibration_error,
    fit_shifted,
    sigmoid,
)
from training.classifier.thresholds import Scored, accuracy, plain
from training.rules.trials import Trial

# Fewer texts of either label set no threshold of their own; those of all questions do.
FEWEST: Final = 20
# The verdict where nobody was asked.
SILENT: Final = ""


@dataclass(frozen=True, slots=True)
class RuleCalibration(Calibration):
    """A question's; ``by_verdict`` is added to its bias where the classifier says so."""

    by_verdict: Mapping[str, float] = field(default_factory=dict)


class Fit(NamedTuple):
    """Logits of pairs → probabilities."""

    scale: float
    bias: float
    by_verdict: Mapping[str, float]

    def __call__(self, z: np.ndarray, verdicts: Sequence[str]) -> np.ndarray:
        """Probabilities of pairs, each with the classifier's verdict on its text."""
        shifts = np.array([self.by_verdict.get(verdict, 0.0) for verdict in verdicts])
        return sigmoid(self.scale * z + self.bias + shifts)


def calibrate(
    trials: Sequence[Trial], logits: Sequence[np.ndarray], hints: Sequence[Hints] = ()
) -> list[RuleCalibration]:
    """Calibration and thresholds of every question; ``hints`` are what was said of each text.

    Raises:
        ValueError: where not even all questions together have texts of both labels.
    """
    need_both_labels(trials)
    everything = np.arange(len(trials))
    verdicts = [one[0] if one else SILENT for one in hints] or [SILENT] * len(trials)
    found: list[RuleCalibration] = []
    for question in QUESTIONS:
        mine = np.array([n for n in everything if trials[n].question == question], dtype=int)
        used = mine if _both(trials, _two_sided(trials, mine), FEWEST) else everything
        some = ([each[n] for n in used] for each in (trials, logits, verdicts))
        found.append(_calibrate(question, *some))
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


class Pairs(NamedTuple):
    """Of rules of which is known whether a text breaks them; all (pairs,)."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    verdicts: list[str]

    def fit(self) -> Fit:
        """What makes probabilities of the logits."""
        said = sorted({*self.verdicts} - {SILENT, SAFE})
        kinds = np.array([[verdict == one for one in said] for verdict in self.verdicts])
        (scale,), bias, shifts = fit_shifted(self.logits[:, None], kinds, self.labels, self.weights)
        return Fit(scale, bias, dict(zip(said, shifts, strict=True)))


def known_pairs(
    trials: Sequence[Trial],
    logits: Sequence[np.ndarray],
    verdicts: Sequence[str],
    weights: np.ndarray,
) -> Pairs:
    """Every rule of which is known whether the text breaks it."""
    rows = [
        (logit, label, weight / len(trial.rules), verdict)
        for trial, said, verdict, weight in zip(trials, logits, verdicts, weights, strict=True)
        for logit, label in zip(said.tolist(), trial.labels, strict=True)
        if label is not None
    ]
    *columns, found = zip(*rows, strict=True)
    return Pairs(*(np.array(column, dtype=np.float64) for column in columns), list(found))


def _calibrate(
    question: Question,
    trials: Sequence[Trial],
    logits: Sequence[np.ndarray],
    verdicts: Sequence[str],
) -> RuleCalibration:
    weights = weights_of(trials)
    pairs = known_pairs(trials, logits, verdicts, weights)
    fit = pairs.fit()
    most = np.array(
        [
            fit(said, [verdict] * len(said)).max()
            for said, verdict in zip(logits, verdicts, strict=True)
        ]
    )
    truth = np.array([float(bool(trial.broken)) for trial in trials])
    everything = np.arange(len(trials))
    sided = _two_sided(trials, everything)
    used = sided if len(sided) else everything
    fair = weights_of([trials[n] for n in used])
    chosen = plain(Scored(most[used], truth[used], fair), CATEGORY_COST, by=accuracy)
    own = chosen.sets["balanced"]
    return RuleCalibration(
        name=question,
        scale=fit.scale,
        bias=fit.bias,
        by_verdict=fit.by_verdict,
        flag=own.flag,
        block=own.block,
        rows=len(trials),
        positives=int(truth.sum()),
        f1=chosen.f1,
        ece_before=calibration_error(sigmoid(pairs.logits), pairs.labels, pairs.weights),
        ece_after=_cross_fitted_error(trials, logits, verdicts, weights),
        alarms=chosen.alarms,
        sensitivities={n: limits._asdict() for n, limits in chosen.sets.items() if n != "balanced"},
    )


def _cross_fitted_error(
    trials: Sequence[Trial],
    logits: Sequence[np.ndarray],
    verdicts: Sequence[str],
    weights: np.ndarray,
) -> float:
    """The calibration error of policies by the calibration of others."""
    names = list(dict.fromkeys(trial.policy for trial in trials))
    halves = [
        [n for n, trial in enumerate(trials) if names.index(trial.policy) % 2 == half]
        for half in (0, 1)
    ]
    sides = [
        known_pairs(
            *([each[n] for n in half] for each in (trials, logits, verdicts)), weights[half]
        )
        for half in halves
        if half
    ]
    if len(sides) < 2 or any(len({*side.labels.tolist()}) < 2 for side in sides):
        sides = [known_pairs(trials, logits, verdicts, weights)]
    # Each by the other's; one alone by its own.
    fits = [side.fit() for side in sides][::-1]
    p = [fit(side.logits, side.verdicts) for fit, side in zip(fits, sides, strict=True)]
    return calibration_error(
        np.concatenate(p),
        np.concatenate([side.labels for side in sides]),
        np.concatenate([side.weights for side in sides]),
    )
