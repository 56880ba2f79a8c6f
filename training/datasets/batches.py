"""Rows → tokens → windows → batches, in an order that is a pure function of the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from tamis.windows import Window, WindowShape, windows
from training.datasets.registry import BORDERLINE, HEADS, source_of
from training.datasets.schema import Row

# Batches are cut from pools of this many draws sorted by length: little padding, random enough.
POOL = 4096
# Batch widths are multiples of this: oneDNN compiles a kernel for every new shape it meets, which
# doubled the time of a step when each batch had a width of its own.
WIDTH_STEP = 16
UNKNOWN = -1
# The arrays of a batch that the model reads.
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "judged")
# Held-out rows are scored on their first windows only: a few very long prompts would otherwise
# take two thirds of the time.
HELD_OUT_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised row: all its windows, and a label per head (0 to 1, or UNKNOWN)."""

    windows: list[Window]
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of shape (B, T), labels (B, H); padding is 0 everywhere."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray
    judged: np.ndarray
    labels: np.ndarray


def encode(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    shape: WindowShape,
    most: int | None = None,
    borderline: float = BORDERLINE,
) -> list[Example]:
    """Tokenise rows into windows (the first ``most``); a response is judged behind its prompt.

    ``borderline`` is how unsafe a borderline row is to its question, 0 to 1.
    """

    def ids(texts: list[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    examples: list[Example] = []
    for at in range(0, len(rows), POOL):
        chunk = rows[at : at + POOL]
        judged = ids([row.judged for row in chunk])
        context = ids([row.behind or "" for row in chunk])
        for row, tokens, before in zip(chunk, judged, context, strict=True):
            behind = None if row.behind is None else before
            labels = _label_vector(row, borderline)
            examples.append(Example(windows(tokens, shape, behind)[:most], labels))
    return examples


def _label_vector(row: Row, borderline: float) -> np.ndarray:
    labels = source_of(row).labels_of(row, borderline)
    return np.array([labels.get(head, UNKNOWN) for head in HEADS], dtype=np.float32)


def settled(labels: np.ndarray) -> np.ndarray:
    """Labels without those that are neither yes nor no: borderline rows measure nothing."""
    return np.where((labels > 0) & (labels < 1), UNKNOWN, labels)


def draws(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Systematic sampling: len(chances) row indices, each row drawn as often as its chance says.

    Every row appears floor or ceil of its expected count, so an epoch wastes no draw on luck.
    """
    marks = np.floor(np.cumsum(chances) * len(chances) + rng.random()).astype(int)
    counts = np.diff(marks, prepend=0)
    return rng.permutation(np.repeat(np.arange(len(chances)), counts))


def choose_window(example: Example, rng: np.random.Generator) -> Window:
    """The first window half of the time, else any: long texts are served window by window."""
    if len(example.windows) == 1 or rng.random() < 0.5:
        return example.windows[0]
    return example.windows[int(rng.integers(len(example.windows)))]


def epoch(
    examples: Sequence[Example], chances: np.ndarray, tokens: int, seed: int
) -> list[list[tuple[int, Window]]]:
    """The batches of one epoch as (row index, window) lists of at most ``tokens`` padded tokens."""
    rng = np.random.default_rng(seed)
    chosen = [(int(i), choose_window(examples[i], rng)) for i in draws(chances, rng)]
    batches: list[list[tuple[int, Window]]] = []
    for at in range(0, len(chosen), POOL):
        pool = sorted(chosen[at : at + POOL], key=lambda pick: len(pick[1].ids))
        cut = list(by_tokens(pool, tokens))
        batches += [cut[i] for i in rng.permutation(len(cut))]
    return batches


def by_tokens(
    picks: Sequence[tuple[int, Window]], tokens: int
) -> Iterator[list[tuple[int, Window]]]:
    """Cut picks sorted by length into batches of at most ``tokens`` tokens, padding counted.

    Longest first: a batch is as wide as its first window, rounded up, and as tall as fits, so that
    few distinct shapes occur (see WIDTH_STEP).
    """
    longest_first = picks[::-1]
    at = 0
    while at < len(longest_first):
        height = max(1, tokens // _width(longest_first[at][1]))
        yield list(longest_first[at : at + height])
        at += height


def _width(window: Window) -> int:
    return -(-len(window.ids) // WIDTH_STEP) * WIDTH_STEP


def collate(picks: Sequence[tuple[int, Window]], examples: Sequence[Example]) -> Batch:
    """Pad a batch to its longest window."""
    width = max(_width(window) for _, window in picks)

    def padded(values: list[list[int]]) -> np.ndarray:
        out = np.zeros((len(values), width), dtype=np.int64)
        for row, value in zip(out, values, strict=True):
            row[: len(value)] = value
        return out

    found = [window for _, window in picks]
    return Batch(
        input_ids=padded([w.ids for w in found]),
        attention_mask=padded([[1] * len(w.ids) for w in found]),
        token_type_ids=padded([w.types for w in found]),
        judged=padded([w.judged for w in found]),
        labels=np.stack([examples[i].labels for i, _ in picks]),
    )
