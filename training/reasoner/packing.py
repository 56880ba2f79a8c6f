"""Many texts behind one policy in one sequence: the policy is computed once, not once a text.

A sequence is a tree of segments. The policy is its root, each text a branch, and whatever may
follow a text (the answers to choose from) a twig. A token sees its own segment up to itself, and
the whole of every segment above; positions count along the path from the root, so each branch reads
as if it stood behind its policy alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from tamis.reasoner.protocol import (
    END,
    START,
    Format,
    Pieces,
    answer,
    case,
    encode,
    given,
    prefix,
)
from training.reasoner.attention import Span
from training.reasoner.examples import Example

ROOT: Final = -1
# What the tokens of an answer weigh. Each label counts as much as the other however many tokens it
# has. The layout is the same in every answer and learnt at once, so only answers with a reason
# teach it: a predicted token costs a row of the head, which weighs a quarter of all other layers.
LAYOUT: Final = 0.1


class Coder:
    """Pieces → ids, with the pieces that recur remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ValueError where the tokenizer lacks a control token."""
        self._tokenizer = tokenizer
        # What a row says can never become a control token.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        found = {name: tokenizer.token_to_id(name) for name in (START, END)}
        if missing := [name for name, id_ in found.items() if id_ is None]:
            raise ValueError(f"the tokenizer has no {missing[0]}")
        self.control: Mapping[str, int] = found
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, path: Path) -> "Coder":
        """The coder of a ``tokenizer.json``."""
        return cls(Tokenizer.from_file(str(path)))

    def ids(self, pieces: Iterable[tuple[str, bool]] | Pieces) -> list[int]:
        """Ids of pieces in a row."""
        return encode(pieces, self.text, self.control)  # type: ignore[arg-type]

    def text(self, text: str) -> list[int]:
        """Ids of plain text."""
        if len(text) > 80:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if text not in self._known:
            self._known[text] = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return self._known[text]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens left in."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


@dataclass(slots=True)
class Tree:
    """One sequence. All lists have one entry a token, ``parents`` one a segment."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """What predicting this token counts in the loss."""
    parents: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)

    def add(self, parent: int, ids: Sequence[int], weights: Sequence[float] | None = None) -> int:
        """Append a segment below another (or ROOT); returns its number."""
        start = 0 if parent == ROOT else self._ends[parent]
        number = len(self.parents)
        self.parents.append(parent)
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [number] * len(ids)
        self.weights += weights if weights is not None else [0.0] * len(ids)
        self._ends.append(start + len(ids))
        return number

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Trees one after the other, without padding: arrays (T,), and who sees whom."""

    ids: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    spans: tuple[Span, ...]


def collate(trees: Sequence[Tree]) -> Batch:
    """Join trees; each sees itself alone."""
    spans: list[Span] = []
    for tree in trees:
        first, sizes = len(spans), np.bincount(tree.segments)
        for size, parent in zip(sizes.tolist(), tree.parents, strict=True):
            above = () if parent == ROOT else (*spans[first + parent].above, first + parent)
            spans.append(Span(size, above))
    return Batch(
        np.concatenate([tree.ids for tree in trees]),
        np.concatenate([tree.positions for tree in trees]),
        np.concatenate([tree.weights for tree in trees]).astype(np.float32),
        tuple(spans),
    )


def answer_weights(
    example: Example, form: Format, coder: Coder, reason: float
) -> tuple[list[int], list[float]]:
    """Ids of an answer and what each counts; without a reason, of the verdict alone.

    Of an answer whose verdict is given only the reason and its end count.

    Args:
        example: whose answer.
        form: how it is written; a verdict alone can only be taught where it comes first.
        coder: tokenises.
        reason: what a whole reason counts, where the verdict's two labels count 1 each.
    """
    pieces = answer(example.answer, form)
    if example.given:
        told = given(example.answer, form)
        before, written = coder.ids(told), coder.ids(pieces[len(told) :])
        each = reason / len(written)
        return [*before, *written], [*[0.0] * len(before), *[each] * len(written)]
    if not example.reason:
        if form.order != "verdict-first":
            raise ValueError("an example without a reason needs the verdict to come first")
        pieces = pieces[:5]  # The verdict's own; nothing is taught of what follows.
    labels = {example.answer.safety, example.category or "not applicable"}
    ids: list[int] = []
    weights: list[float] = []
    for piece in pieces:
        found = coder.ids([piece])
        if piece.text == example.reason:
            each = reason / len(found)
        else:
            layout = LAYOUT if example.reason else 0.0
            each = 1 / len(found) if piece.text in labels else layout
        ids += found
        weights += [each] * len(found)
    return ids, weights


def pack(
    examples: Iterable[Example], coder: Coder, form: Format, limit: int, reason: float
) -> Iterator[Tree]:
    """Trees of at most ``limit`` tokens, neighbours of equal policy together.

    An example that is over the limit by itself is left out.
    """
    for _, group in groupby(examples, key=lambda e: e.view):
        members = list(group)
        root = coder.ids(prefix(members[0].policy, form))
        tree = Tree()
        for example in members:
            question = coder.ids(case(example.content))
            said, weights = answer_weights(example, form, coder, reason)
            if len(root) + len(question) + len(said) > limit:
                continue
            if tree.ids and len(tree) + len(question) + len(said) > limit:
                yield tree
                tree = Tree()
            if not tree.ids:
                tree.add(ROOT, root)
            tree.add(0, [*question, *said], [*[0.0] * len(question), *weights])
        if len(tree.parents) > 1:
            yield tree


def batches(trees: Sequence[Tree], tokens: int, seed: int) -> list[list[int]]:
    """Indices of trees in batches of at most ``tokens`` tokens, shuffled by the seed.

    A tree of more tokens than that is a batch by itself.
    """
    found: list[list[int]] = []
    room = 0
    for n in np.random.default_rng(seed).permutation(len(trees)):
        size = len(trees[int(n)])
        if size > room:
            found.append([])
            room = tokens
        found[-1].append(int(n))
        room -= size
    return found
