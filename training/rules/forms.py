"""Both forms of a policy encoder, whole and split: what a pair is, and how pairs become arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from tamis import rules
from tamis.rules import PairShape, Text
from tamis.windows import Window

# The model's arrays, by name; of the split form those of rules and texts are lists of such.
Feed = Mapping[str, Any]
# As the classifier's batches: few distinct widths (``batches.WIDTH_STEP``).
WIDTH_STEP: Final = 16
# Of what is read alone, where batches are many and short.
ALONE_STEP: Final = 8


class Parts(NamedTuple):
    """A pair whose rule and text are read alone at first."""

    rule: Sequence[int]
    text: Window


P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Form(Generic[P]):
    """What a pair is to one form."""

    pairs: Callable[[Sequence[int], Text, PairShape], list[P]]
    """Tokens of a rule and of a text → a pair for each window of the text."""
    size: Callable[[P], int]
    """Its tokens."""
    feed: Callable[[Sequence[P]], dict[str, Any]]
    """Some pairs → the model's arrays, padded."""
    order: Callable[[P], Any]
    """What pairs are sorted by before they are cut into batches."""


def feed_of(windows: Sequence[Window], step: int = WIDTH_STEP) -> dict[str, np.ndarray]:
    """Arrays (windows, tokens) of some windows, padded to a multiple of ``step``."""
    width = up_to(max(len(window.ids) for window in windows), step)
    feed = {name: np.zeros((len(windows), width), np.int64) for name in rules.INPUTS}
    for n, window in enumerate(windows):
        size = len(window.ids)
        feed["input_ids"][n, :size] = window.ids
        feed["attention_mask"][n, :size] = 1
        feed["token_type_ids"][n, :size] = window.types
    return feed


def up_to(size: int, step: int = WIDTH_STEP) -> int:
    """The next multiple of ``step``."""
    return -(-size // step) * step


def _parts(rule: Sequence[int], text: Text, shape: PairShape) -> list[Parts]:
    alone = rules.rule_alone(rule, shape)
    return [Parts(alone, window) for window in rules.texts_alone(text, shape)]


def _size(pair: Parts) -> int:
    return len(pair.rule) + len(pair.text.ids)


def _feed(pairs: Sequence[Parts]) -> dict[str, Any]:
    """Every rule and every text once, in batches of like lengths, and where a pair has its tokens.

    A rule is of type 0 throughout, so that none is a text.
    """
    keys = [(_key(pair.rule), _key(pair.text.ids, pair.text.types)) for pair in pairs]
    unique = dict.fromkeys(key for both in keys for key in both)
    alone, starts, at = [], {}, 0
    for _, group in groupby(sorted(unique, key=_width), _width):
        some = list(group)
        made = feed_of([Window(list(ids), list(types), 0, 0, 0) for ids, types in some], ALONE_STEP)
        width = made["input_ids"].shape[1]
        starts |= {key: at + n * width for n, key in enumerate(some)}
        at += len(some) * width
        alone.append(made)
    width = up_to(max(map(_size, pairs)))
    names = ("places", "attention_mask", "judged")
    feed: dict[str, Any] = {name: np.zeros((len(pairs), width), np.int64) for name in names}
    for n, (rule, text) in enumerate(keys):
        first, size = len(rule[0]), len(rule[0]) + len(text[0])
        feed["places"][n, :first] = starts[rule] + np.arange(first)
        feed["places"][n, first:size] = starts[text] + np.arange(size - first)
        feed["attention_mask"][n, :size] = 1
        feed["judged"][n, first:size] = text[1]
    return feed | {"alone": alone}


def _apart(pairs: Sequence[Parts]) -> dict[str, Any]:
    """What a bundle's two graphs read, which pad nothing: the pairs themselves."""
    return {"pairs": list(pairs)}


Key = tuple[tuple[int, ...], tuple[int, ...]]


def _key(ids: Sequence[int], types: Sequence[int] | None = None) -> Key:
    return tuple(ids), tuple(types or [0] * len(ids))


def _width(key: Key) -> int:
    return up_to(len(key[0]), ALONE_STEP)


CROSS: Final = Form(rules.pairs, lambda w: len(w.ids), feed_of, lambda w: len(w.ids))
# A text's pairs stay together: it is read once for all of them.
SPLIT: Final = Form(_parts, _size, _feed, lambda pair: (len(pair.text.ids), pair.text.ids))
HALVES: Final = Form(_parts, _size, _apart, SPLIT.order)


def cut(sizes: Sequence[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Where to cut rows of given sizes into batches of at most ``tokens``, padding counted.

    Yields the first row of each batch, and the first behind it; no batch is empty.
    """
    first = width = 0
    for n, size in enumerate(sizes):
        if n > first and max(width, size) * (n + 1 - first) > tokens:
            yield first, n
            first, width = n, 0
        width = max(width, size)
    if sizes:
        yield first, len(sizes)


def form_of(split: int) -> Form[Any]:
    """The form of a model that is cut at so many layers; 0: not cut."""
    return SPLIT if split else CROSS


def tensors(feed: Feed, on: torch.device) -> dict[str, Any]:
    """The model's arguments."""
    return {
        name: [tensors(part, on) for part in value]
        if isinstance(value, list)
        else torch.from_numpy(value).to(on)
        for name, value in feed.items()
    }
