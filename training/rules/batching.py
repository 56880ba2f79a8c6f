"""Texts and their rules → batches of pairs, in an order that is a pure function of the seed."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from tamis import rules
from tamis.rules import Encode, PairShape
from tamis.windows import Window
from training.rules.banks import Bank
from training.rules.drawing import Item, Mixture, draw
from training.rules.judge import WIDTH_STEP, feed_of

# Batches are cut from so many texts sorted by length: little padding, random enough.
POOL: Final = 1024


class Batch(NamedTuple):
    """Some texts' pairs: the graph's arrays, and of each pair its text and its label."""

    feed: dict[str, np.ndarray]
    texts: np.ndarray
    labels: np.ndarray


def batches(
    banks: Sequence[Bank], ids: Encode, shape: PairShape, tokens: int, seed: int
) -> Iterator[Batch]:
    """Batches without end: of at most ``tokens`` tokens, all pairs of a text together."""
    items = draw(Mixture(banks), seed)
    order = np.random.default_rng([seed, 1])
    while True:
        some = [_encoded(item, ids, shape) for item in islice(items, POOL)]
        some.sort(key=lambda item: -_widest(item[0]))
        cut = list(_cut(some, tokens))
        for n in order.permutation(len(cut)):
            yield _collate(cut[int(n)])


Encoded = tuple[list[Window], tuple[float, ...]]


def _encoded(item: Item, ids: Encode, shape: PairShape) -> Encoded:
    """The pairs of a text; of a long one its beginning: the label is of the whole."""
    text = rules.read_text(item.content, ids, shape)
    read = (rules.read_rule(rule, ids, shape) for rule in item.rules)
    return [rules.pairs(rule, text, shape)[0] for rule in read], item.labels


def _widest(windows: Sequence[Window]) -> int:
    return -(-max(len(window.ids) for window in windows) // WIDTH_STEP) * WIDTH_STEP


def _cut(items: Sequence[Encoded], tokens: int) -> Iterator[list[Encoded]]:
    """Texts sorted by their longest pair → batches."""
    batch: list[Encoded] = []
    width = height = 0
    for item in items:
        if batch and width * (height + len(item[0])) > tokens:
            yield batch
            batch, height = [], 0
        if not batch:
            width = _widest(item[0])
        batch.append(item)
        height += len(item[0])
    if batch:
        yield batch


def _collate(items: Sequence[Encoded]) -> Batch:
    windows = [window for found, _ in items for window in found]
    return Batch(
        feed_of(windows),
        np.repeat(np.arange(len(items)), [len(found) for found, _ in items]),
        np.array([label for _, labels in items for label in labels], np.float32),
    )
