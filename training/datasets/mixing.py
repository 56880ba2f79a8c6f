"""Which rows are trained on, which are held out, and how often each source is drawn."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from training.datasets.readings import as_read
from training.datasets.registry import source_of, sources
from training.datasets.schema import Row, data_files, read_rows

Variant = Literal["permissive", "all"]

FREE: Final = ("permissive", "own")
# Where a source says nothing else (``sources.yaml``).
HELD_OUT_PERCENT: Final = 8
# A source of n rows is drawn in proportion to n^0.75: large, narrow sets (10,000 sexism tweets)
# do not drown small, rich ones.
TEMPERATURE: Final = 0.75
# Short posts outnumber prompts by three to one; prompts are what the service mostly sees.
TARGET_WEIGHT: Final = {"prompt": 1.4, "response": 1.4, "text": 0.7, "document": 1.0}


def load(directories: Sequence[Path], variant: Variant, feedback: Path | None = None) -> list[Row]:
    """The training rows of a variant that teach at least one head, in file order.

    A row that was labelled anew retires the one that it replaces; ``readings`` outrank labels.

    ``permissive`` keeps rows whose licence allows the weights to be shipped, and the trainer's own;
    ``all`` keeps all. Rows of ``feedback``, a file that need not exist, come last.
    """
    files = [path for directory in directories for path in data_files(directory)]
    if feedback is not None and feedback.exists():
        files.append(feedback)
    rows = list(as_read(row for path in files for row in read_rows(path)))
    superseded = {row.replaces for row in rows if row.replaces is not None}
    return [
        row
        for row in rows
        if row.id not in superseded
        and (variant == "all" or row.licence in FREE)
        and source_of(row).labels_of(row)
    ]


def is_held_out(row: Row) -> bool:
    """Whether a row belongs to the held-out slice: by a hash of its group, or of its prompt.

    Twins of a group stay together. Hashing the prompt keeps all answers to one prompt on the same
    side, and keeps a row on its side whatever else the data contains. Rows of sources that nobody
    trains on (evaluation sets) are parted as most are.
    """
    known = sources().get(row.source)
    percent = None if known is None else known.held_out
    return is_held_out_prompt(row.group or row.prompt, percent)


def is_held_out_prompt(prompt: str, percent: int | None = None) -> bool:
    """The same of a row's prompt alone."""
    digest = hashlib.sha256(prompt.strip().lower().encode()).digest()
    return int.from_bytes(digest[:4]) % 100 < (HELD_OUT_PERCENT if percent is None else percent)


def split(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(train, held out)."""
    train: list[Row] = []
    held: list[Row] = []
    for row in rows:
        (held if is_held_out(row) else train).append(row)
    return train, held


def probabilities(rows: list[Row]) -> np.ndarray:
    """How likely each row is to be drawn, shape (rows,), summing to 1."""
    group = [(row.source, row.target) for row in rows]
    sizes = Counter(group)
    weights = {
        row_group: source_of(row).weight
        * TARGET_WEIGHT[row.target]
        * sizes[row_group] ** TEMPERATURE
        / sizes[row_group]
        for row_group, row in zip(group, rows, strict=True)
    }
    drawn = np.array([weights[g] for g in group])
    return drawn / drawn.sum()
