"""Perspective's attributes, read off our own scores, on Perspective's own scale.

An attribute's score is a weighted sum of the logits of what a classifier says of a plain text,
bent by a rising, piecewise-linear curve. The curve equates shares (equipercentile linking): as many
texts reach 0.7 on it as reached Perspective's 0.7, so that a threshold goes on meaning what it
meant. An isotonic regression has a lower kappa at 0.9 for every attribute (0.31 for 0.51 of
TOXICITY), since it hardly ever says so much. Weights and curve are a small table beside the bundle
(``perspective.json``), which names the bundle that it was fitted for.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tamis.taxonomy import ATTACK, SEVERITY
from tamis.verdict import Finding

FILE: Final = "perspective.json"
FORMAT: Final = "tamis.perspective/1"
ATTRIBUTES: Final = (
    *("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT"),
    "SEXUALLY_EXPLICIT",
)
# The thresholds that Perspective's users have in their code.
THRESHOLDS: Final = (0.5, 0.7, 0.9)
# Beyond one in ten thousand a probability says how sure the model is of itself, and no more.
LEAST: Final = 1e-4


class ScaleError(ValueError):
    """A table that is missing, or not for the bundle that is served."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How one attribute follows from a finding: ``curve(bias + sum(weight * logit(score)))``.

    ``knots`` are points (sum, score), rising in both; beyond the ends the score stays.
    """

    weights: Mapping[str, float]
    bias: float
    knots: Sequence[tuple[float, float]]

    def value(self, scores: Mapping[str, float]) -> float:
        """The attribute's score in [0, 1] for what ``scores_of`` gives.

        Raises:
            KeyError: where a score is missing that the scale weighs.
        """
        at = self.bias + sum(w * logit(scores[name]) for name, w in self.weights.items())
        (first, low), (last, high) = self.knots[0], self.knots[-1]
        if at <= first:
            return low
        if at >= last:
            return high
        right = bisect_right(self.knots, at, key=lambda knot: knot[0])
        (x, y), (further, above) = self.knots[right - 1], self.knots[right]
        return y + (above - y) * (at - x) / (further - x)


def logit(p: float) -> float:
    """Log-odds of a probability, the ends cut off."""
    p = min(max(p, LEAST), 1 - LEAST)
    return math.log(p / (1 - p))


def scores_of(finding: Finding) -> dict[str, float]:
    """What a scale weighs: a plain text's categories (toxicity among them), attack, severity.

    Nothing where nothing could be read, though that is an attack.
    """
    if not finding.windows:
        return {}
    beside = {ATTACK: finding.attack, SEVERITY: finding.severity}
    return {**finding.categories, **{n: s for n, s in beside.items() if s is not None}}


def load(folder: Path, fingerprint: str) -> dict[str, Scale]:
    """The scales that were fitted for the bundle in a folder, by attribute.

    Raises:
        ScaleError: where there are none, or they are those of other weights.
    """
    path = folder / FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ScaleError(f"{path}: format is {raw['format']!r}, this release reads {FORMAT!r}")
        if raw["bundle"] != fingerprint:
            raise ScaleError(f"{path}: fitted for another bundle, {raw['bundle'][:12]}")
        return {name: _scale(one) for name, one in raw["attributes"].items()}
    except FileNotFoundError:
        raise ScaleError(f"{path} is missing") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ScaleError(f"{path}: {type(error).__name__}: {error}") from None


def _scale(raw: Mapping[str, Any]) -> Scale:
    knots = [(float(x), float(y)) for x, y in raw["knots"]]
    weights = {str(name): float(weight) for name, weight in raw["weights"].items()}
    return Scale(weights, float(raw["bias"]), knots)


@dataclass(frozen=True, slots=True)
class Agreement:
    """At one threshold: the share of equal decisions, Cohen's kappa, and the shares above it."""

    agreement: float
    kappa: float
    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two scorings of the same texts compare; differences are ours minus theirs."""

    texts: int
    rank_correlation: float
    mean_difference: float
    mean_absolute_difference: float
    thresholds: Mapping[float, Agreement]


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Spearman's rank correlation, differences, and agreement at the usual thresholds.

    Raises:
        ValueError: where there are fewer than two texts, or not as many on both sides.
    """
    n = len(ours)
    if n != len(theirs) or n < 2:
        raise ValueError(f"cannot compare {n} scores with {len(theirs)}")
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        texts=n,
        rank_correlation=_correlation(_ranks(ours), _ranks(theirs)),
        mean_difference=sum(gaps) / n,
        mean_absolute_difference=sum(map(abs, gaps)) / n,
        thresholds={at: _agreement(ours, theirs, at) for at in THRESHOLDS},
    )


def _agreement(ours: Sequence[float], theirs: Sequence[float], at: float) -> Agreement:
    n = len(ours)
    one, other = sum(a >= at for a in ours) / n, sum(b >= at for b in theirs) / n
    same = sum((a >= at) == (b >= at) for a, b in zip(ours, theirs, strict=True)) / n
    chance = one * other + (1 - one) * (1 - other)
    # Where both always say the same there is nothing to be chance.
    kappa = 1.0 if chance == 1 else (same - chance) / (1 - chance)
    return Agreement(same, kappa, one, other)


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + 1 + stop) / 2
        start = stop
    return ranks


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
    return both / spread if spread else 0.0
