"""Hard rows → what a generator is taught: an instruction, and the row's text as the answer to it.

Only requests are taught, never what answers them; nothing of leaves and categories that no language
model may write about; and nothing sexual with somebody young in it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.datasets.contamination import words
from training.datasets.mixing import is_held_out
from training.datasets.readings import as_read
from training.datasets.registry import (
    CATEGORIES,
    Tag,
    answers_overall,
    answers_surely,
    source_of,
)
from training.datasets.schema import Row, data_files, read_pairs
from training.synthesis import prompts
from training.synthesis.filters import names_young
from training.synthesis.prompts import Prompt
from training.synthesis.seeds import RESTRICTED, Leaf, Seeds
from training.synthesis.templates import fill

# The stretch of a row that tells it from others, where nothing says what the row is about.
STRETCH: Final = 5
ANY: Final = "anything"


@dataclass(frozen=True, slots=True)
class Lesson:
    """One thing to learn: what is asked, and what is to be written."""

    id: str
    prompt: Prompt
    text: str
    label: int
    held_out: bool


@dataclass(frozen=True, slots=True)
class Lessons:
    """The lessons of a folder of rows, and why the other rows are none."""

    taught: list[Lesson]
    left_out: Mapping[str, int]


def lessons(directory: Path, seeds: Seeds) -> Lessons:
    """Make lessons of the rows of a folder, in file order.

    Raises:
        FileNotFoundError, SchemaError, UnknownSourceError: see there.
    """
    pairs = [pair for path in data_files(directory) for pair in read_pairs(path)]
    rows = as_read(row for _, row in pairs)
    found = [(row, json.loads(line)) for (line, _), row in zip(pairs, rows, strict=True)]
    reasons = [unfit(row, seeds.by_id.get(str(raw.get("leaf", "")))) for row, raw in found]
    fit = [pair for pair, reason in zip(found, reasons, strict=True) if reason is None]
    rare = rarity([row.prompt for row, _ in fit])
    return Lessons(
        [_lesson(row, raw, seeds, rare) for row, raw in fit],
        dict(sorted(Counter(reason for reason in reasons if reason is not None).items())),
    )


def unfit(row: Row, leaf: Leaf | None) -> str | None:
    """Why a row is not taught, or None."""
    if row.target != "prompt":
        return "not a prompt"
    # An attack on a model says nothing of harm: that is another question.
    if not answers_overall(row):
        return "answers another question"
    if not answers_surely(row):
        return "neither safe nor unsafe"
    if leaf is not None and not leaf.generator:
        return "not for language models"
    tags = source_of(row).tags
    mapped = [tags[name] for name in row.categories if name in tags]
    # The categories of a row that was read are our own.
    named = frozenset(row.categories) if row.read else _named(mapped)
    if named & RESTRICTED:
        return "not for language models"
    # Unsafe rows of sources without a taxonomy may be about anything.
    if row.label and ("sexual" in named or not mapped) and names_young(row.prompt):
        return "names somebody young"
    return None


def _named(tags: Sequence[Tag]) -> frozenset[str]:
    """Every category that these tags name, surely or perhaps."""
    return frozenset().union(*(tag.present | tag.unknown for tag in tags))


def _lesson(row: Row, raw: Mapping[str, Any], seeds: Seeds, rare: Mapping[str, float]) -> Lesson:
    leaf = seeds.by_id.get(str(raw.get("leaf", "")))
    if leaf is not None:
        topic = leaf.category
        about = fill(leaf.text, {name: values[0] for name, values in seeds.slots.items()})
    else:
        topic, about = topic_of(row), stretch(row.prompt, rare)
    text = row.prompt.strip()
    prompt = prompts.request(row.label, topic, about, prompts.form_of(text))
    return Lesson(row.id, prompt, text, row.label, is_held_out(row))


def topic_of(row: Row) -> str:
    """The first category of ours that a row surely has; ``ANY`` where its source names none."""
    known = source_of(row).labels_of(row)
    return next((name for name in CATEGORIES if known.get(name) == 1), ANY)


def rarity(texts: Sequence[str]) -> dict[str, float]:
    """Inverse document frequency of the words of these texts."""
    count = Counter(word for text in texts for word in set(words(text)))
    return {word: math.log(len(texts) / n) for word, n in count.items()}


def stretch(text: str, rare: Mapping[str, float]) -> str:
    """The ``STRETCH`` words in a row that are rarest together: what a text is about, in short.

    Taught so, a generator takes the phrase of a seed for what its message is to be about.
    """
    found = text.split()
    weights = [sum(rare.get(word, 0.0) for word in words(part)) for part in found]
    starts = range(max(1, len(found) - STRETCH + 1))
    at = max(starts, key=lambda start: sum(weights[start : start + STRETCH]))
    return " ".join(found[at : at + STRETCH]).strip(".,:;!?\"'()")
