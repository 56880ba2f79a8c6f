"""Which words decided: token contributions of the pooling, gathered into words and spans."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Words with at least this share of the strongest word's contribution count as evidence.
SHARE: Final = 0.4
MOST_SPANS: Final = 3


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start:end`` of the judged text and the probability they argue for."""

    start: int
    end: int
    score: float


def logistic(x: float) -> float:
    """The logistic function, without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else (e := math.exp(x)) / (1 + e)


def spans(
    attention: NDArray[np.float32],
    logits: NDArray[np.floating],
    words: Sequence[int | None],
    offsets: Sequence[tuple[int, int]],
) -> list[Span]:
    """The strongest spans for one head, in the order of the text.

    A head's logit is the sum of attention * token logit, so a word's part in the verdict is the
    sum over its tokens. Neighbouring strong words make one span, which scores as if its words
    were the whole text.

    Args:
        attention: (T,) over the judged tokens.
        logits: (T,) calibrated token logits (scale * logit + bias).
        words: the word each token belongs to.
        offsets: character offsets of each token.
    """
    parts: dict[int, list[int]] = {}
    for token, word in enumerate(words):
        if word is not None:
            parts.setdefault(word, []).append(token)
    if not parts:
        return []
    given = attention * logits
    worth = {word: float(given[tokens].sum()) for word, tokens in parts.items()}
    strongest = max(worth.values())
    if strongest <= 0:
        return []
    runs: list[list[int]] = []
    for word in sorted(w for w, value in worth.items() if value >= SHARE * strongest):
        if runs and word - runs[-1][-1] <= 2:
            runs[-1].append(word)
        else:
            runs.append([word])
    runs.sort(key=lambda run: -sum(worth[word] for word in run))
    found = []
    for run in runs[:MOST_SPANS]:
        tokens = [t for word in run for t in parts[word]]
        weight = float(attention[tokens].sum())
        score = logistic(float(given[tokens].sum()) / weight) if weight > 0 else 0.0
        found.append(Span(offsets[tokens[0]][0], offsets[tokens[-1]][1], score))
    return sorted(found, key=lambda span: span.start)
