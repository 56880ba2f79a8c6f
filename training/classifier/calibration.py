"""Logits → calibrated probabilities and thresholds, from the held-out slice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tamis.bundle import REFUSAL, REQUIRED
from training.classifier.thresholds import (
    FEWEST_BENIGN,
    TARGETS,
    Chosen,
    Name,
    Scored,
    Target,
    benign,
    choose,
    plain,
)
from training.datasets import mixing
from training.datasets.batches import UNKNOWN, settled
from training.datasets.registry import HEADS, QUESTION_OF, QUESTIONS, source_of
from training.datasets.schema import Row

# A category whose head saw fewer held-out positives is not offered: nothing could be said of it.
FEWEST: Final = 5
# Of either label, for rows in other languages to speak alone.
FEWEST_FOREIGN: Final = 40
# Nor one that is found this badly: it would mislead more than it tells.
LEAST_F1: Final = 0.2
# What F1 of a category may lose to its strict and loose thresholds.
CATEGORY_COST: Final = 0.05
BINS: Final = 15
FILE: Final = "calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """One head: p = sigmoid(scale * logit + bias), thresholds on p, and how far p can be trusted.

    ``ece_*`` is the expected calibration error over 15 equal-mass bins, cross-fitted for ``after``.
    """

    name: str
    scale: float
    bias: float
    flag: float
    block: float
    rows: int
    positives: int
    f1: float
    ece_before: float
    ece_after: float
    alarms: float = 0.0
    """The share of negative rows at ``flag``: of a question in TARGETS benign rows, by source."""
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """``flag`` and ``block`` of ``strict`` and ``loose``; empty where they are the plain ones."""
    synthetic: bool = False
    """No row that people wrote speaks for it: its figures are of our own rows, which are easy."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def fit_platt(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Weighted Platt scaling: (scale, bias) minimising the log loss, scale kept positive."""
    (scale,), bias = fit_logistic(z[:, None], y, w)
    return scale, bias


def fit_logistic(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[list[float], float]:
    """(scales, bias) of several logits of each row that minimise the log loss of their sum.

    Args:
        z: (rows, logits).
        y: (rows,), 0 or 1.
        w: (rows,), what each weighs.
    """
    scales, bias, _ = fit_shifted(z, np.zeros((len(z), 0)), y, w)
    return scales, bias


def fit_shifted(
    z: np.ndarray, kinds: np.ndarray, y: np.ndarray, w: np.ndarray
) -> tuple[list[float], float, list[float]]:
    """(scales, bias, shifts) as ``fit_logistic``, where rows of a kind have a bias of their own.

    ``kinds`` (rows, kinds) is 1 where a row is of a kind; rows of none have the bias alone.
    """
    many = z.shape[1]
    parameters = torch.zeros(many + 1 + kinds.shape[1], dtype=torch.float64, requires_grad=True)
    logits, shifted, labels, weights = (
        torch.from_numpy(a.astype(np.float64)) for a in (z, kinds, y, w)
    )
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = logits @ (parameters[:many].exp() / many) + parameters[many]
        scaled = scaled + shifted @ parameters[many + 1 :]
        loss = binary_cross_entropy_with_logits(scaled, labels, weight=weights / weights.mean())
        # A pull towards no change, worth two rows: it keeps heads with few rows, which are often
        # perfectly separable, from claiming certainty.
        loss = loss + 2 / len(z) * parameters.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = parameters.detach().tolist()
    scales = [float(np.exp(log) / many) for log in found[:many]]
    return scales, found[many], found[many + 1 :]


def calibration_error(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Expected calibration error over bins of equal row count."""
    parts = np.array_split(np.argsort(p, kind="stable"), BINS)
    gaps = [abs(np.average(p[i] - y[i], weights=w[i])) * w[i].sum() for i in parts if len(i)]
    return float(np.sum(gaps) / w.sum())


def calibrate(rows: list[Row], labels: np.ndarray, logits: np.ndarray) -> list[Calibration]:
    """Calibrate every head that the held-out slice can speak for.

    Rows weigh as they did in training (``mixing.probabilities``), so that a large source does not
    set the scale alone. Sources that do not calibrate (``sources.yaml``) say nothing of questions,
    and synthetic ones speak only for categories that no others speak for. Thresholds of questions
    come from sources that hold both labels: where a source is all safe or all unsafe, recognising
    the source is enough, and the best threshold lies anywhere in the wide gap between sources
    (0.56 for prompts, where one mixed source says 0.3). How often ordinary texts alarm is counted
    over sources that are all safe, each weighing the same (``thresholds.TARGETS``); answers that
    decline are counted by themselves, and must alarm as rarely. A body that reads other languages
    judges what is not in English, so that those rows speak alone wherever they are enough.

    Args:
        rows: held-out rows.
        labels: (rows, heads), 0 to 1 or UNKNOWN; only what is 0 or 1 counts.
        logits: (rows, heads).

    Raises:
        ValueError: naming a question that every bundle answers and no row says anything of.
    """
    unsure = (labels > 0) & (labels < 1)
    labels = settled(labels)
    weights = mixing.probabilities(rows)
    speaks = np.array([source_of(row).calibrates for row in rows])
    genuine = np.array([not source_of(row).synthetic for row in rows])
    names = np.array([f"{row.source}/{row.target}" for row in rows])
    asked = np.array([HEADS.index(QUESTION_OF[row.target]) for row in rows])
    foreign = np.array([not row.english for row in rows])
    found: dict[str, Calibration] = {}
    overall = np.zeros(len(rows))
    # What an answer scores depends on whether it declines, so that head comes first.
    for name in sorted(QUESTIONS, key=lambda question: question != REFUSAL):
        head = HEADS.index(name)
        known = (labels[:, head] != UNKNOWN) & speaks
        if _enough(labels[known & foreign, head], FEWEST_FOREIGN):
            known &= foreign
        z, y, w = logits[known, head], labels[known, head], weights[known]
        if name not in REQUIRED and not _enough(y):
            continue
        if not len(y):
            raise ValueError(f"calibration: no held-out row says anything of {name!r}")
        scale, bias = fit_platt(z, y, w)
        p = _as_answered(name, sigmoid(scale * z + bias), logits[known], found)
        declines = labels[known, HEADS.index(REFUSAL)] == 1
        chosen = limits(name, Scored(p, y, w), names[known], declines)
        found[name] = _calibration(name, z, y, w, scale, bias, chosen)
        mine = asked == head
        said = sigmoid(scale * logits[mine, head] + bias)
        # What an answer scores by category sinks as well, where it declines.
        overall[mine] = _as_answered(name, said, logits[mine], found)
    # Every safe row is one: "none of our categories" is known of it. A document is never asked.
    answer = labels[np.arange(len(rows)), asked]
    document = np.array([row.target == "document" for row in rows])
    safe, unsure = (answer == 0) & ~document, unsure.any(axis=1) | document
    for column, name in enumerate(HEADS[len(QUESTIONS) :], len(QUESTIONS)):
        # "Given that it is unsafe": rows with complete categories say it of safe texts as well.
        told = (labels[:, column] != UNKNOWN) & ~safe & ~unsure
        pool = genuine if _enough(labels[told & genuine, column]) else np.ones_like(genuine)
        if _enough(labels[told & pool & foreign, column], FEWEST_FOREIGN):
            pool = pool & foreign
        known = told & pool
        if not _enough(labels[known, column]):
            continue
        z, y, w = logits[known, column], labels[known, column], weights[known]
        scale, bias = fit_platt(z, y, w)
        # Thresholds apply to P(unsafe) * P(category | unsafe), so safe rows count as negatives.
        judged = known | (safe & pool)
        score = overall[judged] * sigmoid(scale * logits[judged, column] + bias)
        truth = np.where(known, labels[:, column], 0)[judged]
        chosen = plain(Scored(score, truth, weights[judged]), CATEGORY_COST)
        offered = _calibration(name, z, y, w, scale, bias, chosen)
        if offered.f1 >= LEAST_F1:
            found[name] = replace(offered, synthetic=not genuine[known].all())
    return sorted(found.values(), key=lambda each: HEADS.index(each.name))


def limits(
    name: str,
    scored: Scored,
    sources: np.ndarray,
    declines: np.ndarray,
    targets: Mapping[str, Mapping[Name, Target]] = TARGETS,
) -> Chosen:
    """The thresholds of a question's head, from all rows that say something of it.

    Args:
        name: the head.
        scored: calibrated scores; of answers, as answered.
        sources: (rows,), each with what it teaches.
        declines: (rows,), whether the answer is known to decline.
        targets: by head; a head without one has its thresholds where F1 is best.
    """
    p, y, _ = scored
    both = _holds_both(sources, y)
    told = Scored(*(part[both] for part in scored))
    if name not in targets:
        return plain(told)
    # The safe rows of a source with both labels are its hard ones, twins of unsafe rows.
    ordinary = (y == 0) & ~both if ((y == 0) & ~both).any() else y == 0
    groups = [benign(p[ordinary], sources[ordinary])]
    refused = (y == 0) & declines
    if name == "response" and refused.sum() >= FEWEST_BENIGN:
        # Among all benign answers they would not be heard, and an output guard that stops
        # refusals is of no use.
        groups.append(benign(p[refused], np.zeros(int(refused.sum()))))
    return choose(told, groups, targets[name])


def _as_answered(
    name: str, p: np.ndarray, logits: np.ndarray, found: Mapping[str, Calibration]
) -> np.ndarray:
    """P(unsafe) as a verdict has it, which is not to decline either: ``deciding.as_answered``."""
    refusal = found.get(REFUSAL)
    if name != "response" or refusal is None:
        return p
    likely = sigmoid(refusal.scale * logits[:, HEADS.index(REFUSAL)] + refusal.bias)
    return p * (1 - likely)


def _holds_both(sources: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows of sources with at least FEWEST rows of either label; all rows where there is none."""
    mixed = np.zeros(len(y), dtype=bool)
    for source in set(sources):
        mine = sources == source
        if _enough(y[mine]):
            mixed |= mine
    return mixed if mixed.any() else ~mixed


def _enough(y: np.ndarray, fewest: int = FEWEST) -> bool:
    """Whether there are rows of either label to say something of."""
    return bool(min(y.sum(), (1 - y).sum()) >= fewest)


def _calibration(
    name: str,
    z: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    scale: float,
    bias: float,
    chosen: Chosen,
) -> Calibration:
    own = chosen.sets["balanced"]
    further = {str(n): limits._asdict() for n, limits in chosen.sets.items() if n != "balanced"}
    half = np.arange(len(z)) % 2 == 0
    fitted = np.empty(len(z))
    for part in (half, ~half):
        a, b = fit_platt(z[~part], y[~part], w[~part])
        fitted[part] = sigmoid(a * z[part] + b)
    return Calibration(
        name=name,
        scale=scale,
        bias=bias,
        flag=own.flag,
        block=own.block,
        rows=len(z),
        positives=int(y.sum()),
        f1=chosen.f1,
        alarms=chosen.alarms,
        sensitivities=further,
        ece_before=calibration_error(sigmoid(z), y, w),
        ece_after=calibration_error(fitted, y, w),
    )


def as_json(calibrations: Sequence[Calibration]) -> list[Mapping[str, Any]]:
    """Plain data for ``calibration.json`` and the manifest, rounded to six digits."""
    return [_rounded(asdict(calibration)) for calibration in calibrations]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def read(checkpoint: Path) -> list[dict[str, Any]]:
    """The calibration of a finished checkpoint, as plain data.

    Raises:
        FileNotFoundError: where it was not calibrated.
    """
    found: list[dict[str, Any]] = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    return found


def write(checkpoint: Path, calibrations: Sequence[Calibration]) -> None:
    """Keep it beside the weights."""
    text = json.dumps(as_json(calibrations), indent=2)
    (checkpoint / FILE).write_text(text + "\n", encoding="utf-8")
