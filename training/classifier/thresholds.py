"""Scores of held-out rows → thresholds: from which scores on to flag and to block.

F1 on the held-out mix, half of which is unsafe, is not what a service meets: of ordinary traffic
little is unsafe, and every alarm in a hundred ordinary requests is one too many for somebody. So a
question flags where F1 is best, unless that alarms on more than a stated share of benign rows; then
it flags later, for as long as that costs no more F1 than it is worth. ``loose`` is the same with a
smaller share. ``strict`` goes the other way: it never flags later than where F1 is best, and
earlier where that leaves part of its share of alarms unused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np

Name = Literal["strict", "balanced", "loose"]

# The standard error of F1 on the few hundred rows that set a question's threshold.
PLATEAU: Final = 0.02
BLOCK_PRECISION: Final[Mapping[Name, float]] = {"strict": 0.8, "balanced": 0.9, "loose": 0.95}
# Manifests keep six digits, and a threshold of 0 would flag everything.
LOWEST: Final = 1e-6
# A source with fewer benign rows says too little of how often one of them alarms: of twenty, one is
# twice the share that is asked for.
FEWEST_BENIGN: Final = 50


@dataclass(frozen=True, slots=True)
class Target:
    """A share of false alarms among benign rows, for at most so much of the best F1.

    Of a group so small that the share is less than two rows, a share that is higher by no more than
    its standard error will do: of 74 answers that decline 2 % is one, and the second highest score
    would decide, which was that of an answer that refuses and then goes on about the matter.
    ``early`` spends what is left of the share on recall, as far as F1 hardly changes.
    """

    alarms: float
    cost: float
    early: bool = False


USUAL: Final[Mapping[Name, Target]] = {
    "strict": Target(alarms=0.06, cost=0.05),
    "balanced": Target(alarms=0.02, cost=0.05),
    "loose": Target(alarms=0.005, cost=0.15),
}
# By question. What is borderline is common, and only acted upon where a policy says so.
TARGETS: Final[Mapping[str, Mapping[Name, Target]]] = {
    **dict.fromkeys(("prompt", "toxicity", "attack"), USUAL),
    # Ordinary answers hardly ever alarm (0.9 % at the plateau's middle, refusals among them), and
    # nobody looks at an answer again once it is out. Of 74 refusals the share is one: to be rid of
    # the second one may cost no more F1 than is luck. It had cost .05, at 0.74 instead of 0.47.
    "response": {**USUAL, "balanced": replace(USUAL["balanced"], cost=PLATEAU, early=True)},
    "severity": {
        "strict": Target(alarms=0.1, cost=0.05),
        "balanced": Target(alarms=0.04, cost=0.05),
        "loose": Target(alarms=0.01, cost=0.15),
    },
}


class Scored(NamedTuple):
    """Scores of rows, whether they are positive, and what they weigh; each (rows,)."""

    score: np.ndarray
    truth: np.ndarray
    weight: np.ndarray


class Benign(NamedTuple):
    """Scores of benign rows, and what they weigh: every source the same; each (rows,)."""

    score: np.ndarray
    weight: np.ndarray


class Limits(NamedTuple):
    """Scores from which a row is flagged and blocked."""

    flag: float
    block: float


# A measure of "at least this" at each threshold of a grid.
Quality = Callable[[Scored, np.ndarray], np.ndarray]


class Chosen(NamedTuple):
    """The sets of one head, F1 at ``balanced``, and its share of false alarms among benign rows."""

    sets: Mapping[Name, Limits]
    f1: float
    alarms: float


def benign(score: np.ndarray, sources: np.ndarray) -> Benign:
    """Benign rows of sources with enough of them (all rows where there is none), equal in weight.

    Ordinary requests come in many kinds. Counted by rows, the one large source would say alone how
    often they alarm; a source of chat, one of instructions and one of alarming words about harmless
    things each have their say.
    """
    names, index, counts = np.unique(sources, return_inverse=True, return_counts=True)
    enough = counts >= FEWEST_BENIGN
    kept = enough[index] if enough.any() else np.ones(len(score), dtype=bool)
    many = int(enough.sum()) or max(1, len(names))
    return Benign(score[kept], 1 / (many * counts[index][kept]))


def choose(scored: Scored, ordinary: Sequence[Benign], targets: Mapping[Name, Target]) -> Chosen:
    """The three sets of a question; its share of alarms is that of the group with most.

    All begin at the middle of the plateau around the best F1, or, where ``balanced`` is to be
    early, at its low end. ``balanced`` is raised until no more
    than its share of benign rows alarms, ``loose`` further, and ``strict`` is lowered as far as its
    share allows. None of them leaves the range in which F1 is within the target's cost of the best.
    """
    grid = np.unique(np.concatenate([scored.score, *(group.score for group in ordinary)]))[::-1]
    f1 = _f1(scored, grid)
    shares = [_at_least(group.score, group.weight, grid) for group in ordinary]
    alarms = np.max(shares, axis=0)
    # As many rows of equal weight would say as much.
    many = [1 / float(np.square(group.weight).sum()) for group in ordinary]

    def quiet(name: Name) -> int:
        """The lowest threshold with no more alarms than the target, within its cost."""
        high, low = _around_best(f1, targets[name].cost)
        share = targets[name].alarms
        luck = [(share * (1 - share) / n) ** 0.5 if share * n < 2 else 0.0 for n in many]
        most = [share + more for more in luck]
        fits = [np.searchsorted(s, m + 1e-12, "right") for s, m in zip(shares, most, strict=True)]
        return min(max(int(min(fits)) - 1, high), low)

    begin = _around_best(f1, PLATEAU)[1] if targets["balanced"].early else _middle(grid, f1)
    # The grid falls, so what is further on is lower.
    balanced = min(begin, quiet("balanced"))
    places: dict[Name, int] = {
        "strict": max(begin, quiet("strict")),
        "balanced": balanced,
        "loose": min(balanced, quiet("loose")),
    }
    flags = {name: _between(grid, at) for name, at in places.items()}
    return Chosen(_blocking(scored, flags), float(f1[balanced]), float(alarms[balanced]))


def plain(scored: Scored, cost: float | None = None, by: Quality | None = None) -> Chosen:
    """The sets of a head without a target: the plateau's middle, and where F1 has lost ``cost``.

    Without a cost ``balanced`` is all there is. ``by`` is another measure in place of F1.
    """
    grid = np.unique(scored.score)[::-1]
    f1 = _f1(scored, grid)
    quality = f1 if by is None else by(scored, grid)
    middle = _middle(grid, quality)
    places: dict[Name, int] = {"balanced": middle}
    if cost is not None:
        high, low = _around_best(quality, cost)
        places |= {"strict": max(middle, low), "loose": min(middle, high)}
    flags = {name: _between(grid, at) for name, at in places.items()}
    negative = scored.weight * (1 - scored.truth)
    (alarms,) = _at_least(scored.score, negative, grid[middle : middle + 1])
    share = float(alarms / max(negative.sum(), 1e-12))
    return Chosen(_blocking(scored, flags), float(f1[middle]), share)


def lowest_at_precision(p: np.ndarray, y: np.ndarray, w: np.ndarray, precision: float) -> float:
    """The lowest threshold with at least this weighted precision; 1.0 where none has it."""
    grid = np.unique(p)[::-1]
    reached = _at_least(p, y * w, grid) / _at_least(p, w, grid)
    good = np.flatnonzero(reached >= precision)
    return float(grid[good[-1]]) if len(good) else 1.0


def _blocking(scored: Scored, flags: Mapping[Name, float]) -> dict[Name, Limits]:
    return {
        name: Limits(flag, max(flag, lowest_at_precision(*scored, BLOCK_PRECISION[name])))
        for name, flag in flags.items()
    }


def _at_least(score: np.ndarray, weight: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Weight of the rows that reach each threshold."""
    order = np.argsort(score, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    return below[-1] - below[np.searchsorted(score[order], grid, side="left")]


def _f1(scored: Scored, grid: np.ndarray) -> np.ndarray:
    """Weighted F1 of "at least this" at each threshold: 2 hits / (flagged + positives)."""
    score, truth, weight = scored
    hits = _at_least(score, truth * weight, grid)
    flagged = _at_least(score, weight, grid)
    return 2 * hits / np.maximum(flagged + (truth * weight).sum(), 1e-12)


def accuracy(scored: Scored, grid: np.ndarray) -> np.ndarray:
    """The mean of the accuracies on either label of "at least this" at each threshold."""
    score, truth, weight = scored
    hits = _at_least(score, truth * weight, grid) / max((truth * weight).sum(), 1e-12)
    safe = (1 - truth) * weight
    return (hits + 1 - _at_least(score, safe, grid) / max(safe.sum(), 1e-12)) / 2


def _around_best(f1: np.ndarray, cost: float) -> tuple[int, int]:
    """(first, last) of the unbroken range around the best F1 that is within ``cost`` of it."""
    first = last = int(np.argmax(f1))
    while first > 0 and f1[first - 1] >= f1.max() - cost:
        first -= 1
    while last + 1 < len(f1) and f1[last + 1] >= f1.max() - cost:
        last += 1
    return first, last


def _middle(grid: np.ndarray, f1: np.ndarray) -> int:
    """The middle of the plateau around the best F1.

    F1 hardly changes over a wide range of thresholds (from 0.1 to 0.6 for prompts it stays within
    0.02), and where in it the very best lies is luck: 0.17 in one checkpoint, 0.42 600 steps later.
    """
    first, last = _around_best(f1, PLATEAU)
    middle = (grid[first] + grid[last]) / 2
    return first + int(np.argmin(np.abs(grid[first : last + 1] - middle)))


def _between(grid: np.ndarray, at: int) -> float:
    """A threshold that the row at this place reaches, and the next one does not."""
    below = float(grid[at + 1]) if at + 1 < len(grid) else 0.0
    threshold = (float(grid[at]) + below) / 2
    # Between neighbouring floats there is nothing: the middle would be the lower one.
    return max(threshold if threshold > below else float(grid[at]), LOWEST)
