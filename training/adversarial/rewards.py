"""What a generated request is worth, as pure functions of numbers and texts, each in [0, 1].

    reward = complexity x consistency x fluency x (1 - repetition) x novelty x validity

A product, not a sum: a text that lacks one of them is worth nothing however good it is otherwise,
which leaves a generator fewer ways to be paid for the wrong thing. The first paper's reward is the
normalised classifier loss alone ("complexity"); one summary of it writes a negative loss, which
would pay for easy texts. Here a higher loss gives a higher reward.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from training.datasets.contamination import words
from training.synthesis.filters import Duplicates

# Loss of an undecided classifier: where complexity is one half.
UNDECIDED: Final = math.log(2)
# No verdict is surer than this, or one text of a wrong label would be worth all others together.
SUREST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Parts:
    """One text's worth, by what it is worth it for."""

    complexity: float
    consistency: float
    fluency: float
    freshness: float
    """1 - repetition within the text."""
    novelty: float
    validity: float

    @property
    def reward(self) -> float:
        """The product."""
        return (
            self.complexity
            * self.consistency
            * self.fluency
            * self.freshness
            * self.novelty
            * self.validity
        )


def of_label(unsafe: float, label: int) -> float:
    """The probability of a label, from that of "unsafe"."""
    return unsafe if label else 1 - unsafe


def complexity(probability: float) -> float:
    """The classifier's loss on the intended label, normalised: loss / (loss + ln 2).

    Half where the classifier is undecided. It grows slowly from there (0.87 at a probability of
    0.01): a text that a classifier is quite sure about is more often mislabelled than hard.
    """
    loss = -math.log(max(probability, SUREST))
    return loss / (loss + UNDECIDED)


def consistency(probability: float, gate: float) -> float:
    """The judge's probability of the intended label; nothing below the gate.

    Without the gate a text that the classifier gets quite wrong pays although the judge denies its
    label, which is how the paper's generator came to write safe texts as unsafe ones.
    """
    return probability if probability >= gate else 0.0


def fluency(nats: float, easy: float, hard: float) -> float:
    """1 up to ``easy`` nats per token under the frozen base, 0 from ``hard`` on, linear between."""
    return min(1.0, max(0.0, (hard - nats) / (hard - easy)))


def repetition(text: str) -> float:
    """The share of word pairs that the text has had before."""
    found = words(text)
    pairs = list(pairwise(found))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


class Novelty:
    """Whether a text is new: 1, or 0 where it nearly repeats one that was paid for earlier."""

    def __init__(self) -> None:
        self._earlier = Duplicates()

    def of(self, text: str) -> float:
        """Judge a text, and remember it."""
        return 0.0 if self._earlier.reason(text) else 1.0
