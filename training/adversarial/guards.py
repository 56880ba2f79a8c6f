"""What stops a round of reinforcement learning: pure functions of its record, step by step.

Every threshold compares the mean of the last ``window`` steps with that of the first: texts of as
many prompts, so that figures which depend on the amount of text (distinct-n, compression) compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class GuardError(ValueError):
    """Limits that make no sense; the message names the limit."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a round: means over its completions."""

    step: int
    reward: float
    complexity: float
    consistency: float
    fluency: float
    freshness: float
    novelty: float
    validity: float
    kl: float
    """Nats per token between the generator and the one that the round began with."""
    agreement: float
    """Share of completions whose intended label the judge holds for likelier than not."""
    distinct_2: float
    compression: float
    repetition: float
    length: float
    """Tokens."""
    finished: float
    """Share of completions that ended by themselves."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """When a round is stopped and rolled back."""

    # A step's agreement wavers by 0.17 with four prompts of five texts (texts of one prompt agree
    # with one another), so the mean of five steps of eight prompts by 0.05.
    window: int = 5
    # Collapse. Healthy rounds keep distinct-2 within a tenth of where it was; one phrase in all
    # completions takes a third off.
    least_distinct: float = 0.7
    most_compression: float = 1.3
    more_repetition: float = 0.1
    # Reward hacking. Up to ``disagreement`` is always borne, as no judge of this size is right more
    # often on texts made to be hard; from a worse start, the rise above it is what counts.
    disagreement: float = 0.5
    more_disagreement: float = 0.15
    # Drift, in nats per token: at 0.5 a text of 20 tokens is e^10 times likelier than it was.
    kl: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise GuardError("--window must be at least 1")
        for name in ("least_distinct", "disagreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise GuardError(f"--{name.replace('_', '-')} must be between 0 and 1")
        if self.kl <= 0 or self.most_compression <= 1:
            raise GuardError("--kl-limit must be above 0 and --most-compression above 1")


@dataclass(frozen=True, slots=True)
class Trip:
    """A guard that stopped a round: what it saw, and what it would have borne."""

    guard: str
    measure: str
    step: int
    value: float
    limit: float


def check(record: Sequence[Step], limits: Limits) -> Trip | None:
    """The first guard that trips on the record so far; None where the round may go on.

    Not-a-number trips every guard that sees it.
    """
    # Before that the last steps are the first ones, and nothing can be said but of KL.
    if not record:
        return None
    now = record[-limits.window :]
    found = [("kl blow-up", "kl", mean(now, "kl"), limits.kl, True)]
    if len(record) > limits.window:
        start = record[: limits.window]
        disagreed = 1 - mean(start, "agreement")
        borne = max(limits.disagreement, disagreed + limits.more_disagreement)
        distinct = limits.least_distinct * mean(start, "distinct_2")
        packed = limits.most_compression * mean(start, "compression")
        repeated = mean(start, "repetition") + limits.more_repetition
        found += [
            ("collapse", "distinct_2", mean(now, "distinct_2"), distinct, False),
            ("collapse", "compression", mean(now, "compression"), packed, True),
            ("collapse", "repetition", mean(now, "repetition"), repeated, True),
            ("reward hacking", "disagreement", 1 - mean(now, "agreement"), borne, True),
        ]
    for guard, measure, value, limit, above in found:
        healthy = value <= limit if above else value >= limit
        if not healthy:
            return Trip(guard, measure, record[-1].step, round(value, 4), round(limit, 4))
    return None


def mean(record: Sequence[Step], name: str) -> float:
    """The mean of a figure over steps."""
    return float(np.mean([getattr(step, name) for step in record]))
