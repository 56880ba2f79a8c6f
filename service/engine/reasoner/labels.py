"""Which of several labels comes next: probabilities read off a decoder, without decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Logits = Callable[[Sequence[int]], Floats]
"""The logits (vocabulary,) behind some more tokens."""


@dataclass(slots=True)
class _Node:
    children: dict[int, "_Node"] = field(default_factory=dict)
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Log-probabilities of labels among themselves, in their order.

    ``free`` says of each whether the model, asked without constraint, would have gone on with one
    of the labels wherever its path branches: what the labels' spelling leaves to decide.
    """

    scores: list[float]
    free: list[bool]


class SameLabelsError(ValueError):
    """Labels that cannot be told apart by their tokens."""


class Labels:
    """Alternatives as a trie of tokens.

    A label's probability is the product, over the places where its tokens differ from another
    label's, of the share of its branch among the branches there are: constrained decoding's own
    distribution. Where all differ in their first token, one row of logits says it all. It equals
    the unconstrained distribution where the model puts no mass elsewhere, as it was taught.
    """

    def __init__(self, options: Sequence[Sequence[int]]) -> None:
        """Build the trie; options must end so that none is another's beginning.

        Raises:
            SameLabelsError: where one is.
        """
        self._size = len(options)
        self._root = _Node()
        for label, tokens in enumerate(options):
            node = self._root
            for token in tokens:
                if node.label is not None:
                    raise SameLabelsError("a label is the beginning of another")
                node = node.children.setdefault(token, _Node())
            if node.children or node.label is not None:
                raise SameLabelsError("a label is the beginning of another")
            node.label = label

    def choose(self, first: Floats, further: Logits, temperature: float = 1.0) -> Choice:
        """Score the labels.

        Args:
            first: logits (vocabulary,) of a label's first token.
            further: asked for the logits behind a common beginning of several labels.
            temperature: divides the log-probabilities of the labels before they are normalised.
        """
        found = Choice([0.0] * self._size, [True] * self._size)
        self._walk(self._root, [], 0.0, True, first, further, found)
        scaled = np.array(found.scores) / temperature
        top = scaled.max()
        total = top + np.log(np.exp(scaled - top).sum())
        return Choice([float(s - total) for s in scaled], found.free)

    def _walk(
        self,
        node: _Node,
        path: list[int],
        score: float,
        free: bool,
        logits: Floats | None,
        further: Logits,
        found: Choice,
    ) -> None:
        while len(node.children) == 1:
            ((token, node),) = node.children.items()
            path, logits = [*path, token], None
        if node.label is not None:
            found.scores[node.label], found.free[node.label] = score, free
            return
        if logits is None:
            logits = further(path)
        tokens = list(node.children)
        free = free and int(logits.argmax()) in node.children
        branches = logits[tokens].astype(np.float64)
        top = branches.max()
        branches -= top + np.log(np.exp(branches - top).sum())
        for token, branch in zip(tokens, branches, strict=True):
            child = node.children[token]
            self._walk(child, [*path, token], score + float(branch), free, None, further, found)
