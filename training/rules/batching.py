"""Texts and their rules → batches of pairs, in an order that is a pure function of the seed."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np

from tamis import rules
from tamis.rules import Encode, PairShape
from training.rules.banks import Bank
from training.rules.drawing import Item, Mixture, draw_together
from training.rules.forms import CROSS, SPLIT, Form, up_to
from training.rules.hints import Hinted, Noisy, no_hints

# Batches are cut from so many texts or more, sorted by length: little padding, random enough.
POOL: Final = 1024
# Where rules are read once for all texts of a batch, so many texts of a policy are drawn at once,
# and those of like lengths stay together.
DRAWN: Final = 16
TOGETHER: Final = 4


class Batch(NamedTuple):
    """Some texts' pairs: the graph's arrays, and of each pair its text and its label."""

    feed: dict[str, Any]
    texts: np.ndarray
    labels: np.ndarray


def batches(
    banks: Sequence[Bank],
    ids: Encode,
    shape: PairShape,
    tokens: int,
    seed: int,
    form: Form[Any] = CROSS,
    hinted: Hinted = no_hints,
) -> Iterator[Batch]:
    """Batches without end: of at most ``tokens`` tokens, all pairs of a text together."""
    hints = Noisy(hinted, seed)
    count, together = (DRAWN, TOGETHER) if form is SPLIT else (1, 1)
    drawn = draw_together(Mixture(banks), seed, count)
    order = np.random.default_rng([seed, 1])
    while True:
        groups: list[list[Encoded]] = []
        for items in islice(drawn, POOL // together):
            found = [_encoded(item, ids, shape, form, hints) for item in items]
            found.sort(key=lambda item: -_widest(item, form))
            groups += [found[n : n + together] for n in range(0, len(found), together)]
        groups.sort(key=lambda group: -_widest(group[0], form))
        cut = list(_cut([item for group in groups for item in group], tokens, form))
        for n in order.permutation(len(cut)):
            yield _collate(cut[int(n)], form)


Encoded = tuple[list[Any], tuple[float, ...]]


def _encoded(item: Item, ids: Encode, shape: PairShape, form: Form[Any], hints: Hinted) -> Encoded:
    """The pairs of a text; of a long one its beginning: the label is of the whole."""
    text = rules.read_text(item.content, ids, shape, hints(item.content))
    read = (rules.read_rule(rule, ids, shape) for rule in item.rules)
    return [form.pairs(rule, text, shape)[0] for rule in read], item.labels


def _widest(item: Encoded, form: Form[Any]) -> int:
    return up_to(max(map(form.size, item[0])))


def _cut(items: Sequence[Encoded], tokens: int, form: Form[Any]) -> Iterator[list[Encoded]]:
    """Texts, the longest first on the whole → batches."""
    batch: list[Encoded] = []
    width = height = 0
    for item in items:
        wider = max(width, _widest(item, form))
        if batch and wider * (height + len(item[0])) > tokens:
            yield batch
            batch, height, wider = [], 0, _widest(item, form)
        width = wider
        batch.append(item)
        height += len(item[0])
    if batch:
        yield batch


def _collate(items: Sequence[Encoded], form: Form[Any]) -> Batch:
    return Batch(
        form.feed([pair for pairs, _ in items for pair in pairs]),
        np.repeat(np.arange(len(items)), [len(pairs) for pairs, _ in items]),
        np.array([label for _, labels in items for label in labels], np.float32),
    )
