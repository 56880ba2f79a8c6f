"""One harmful sentence among calm ones: how often it is found, by its place and their length.

    tamis evaluate --padding DATA/train DATA/annotated --json OUT.json

Both are held-out rows: thresholds saw them, training did not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis import content
from tamis.content import Content
from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, TOXICITY
from tamis.verdict import Finding
from training.datasets import mixing
from training.datasets.schema import Row
from training.evaluation.suite import JudgeAll, content_of
from training.synthesis.padded import CALM, SENTENCE, drawn

LENGTHS: Final = (10, 100, 1_000, 8_000)
PLACES: Final = ("start", "middle", "end")
SAMPLES: Final = 24
TARGETS: Final = ("prompt", "text")
SHORTEST, LONGEST = 6, 30

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Texts:
    """Harmful sentences, and as many calm texts (as sentences) of each length."""

    harmful: Sequence[Row]
    calm: Mapping[int, Sequence[Sequence[str]]]


def rows_of(directories: Sequence[Path]) -> list[Row]:
    """The held-out English rows of folders in the data schema.

    Raises:
        FileNotFoundError, SchemaError: where a folder or a row cannot be read.
    """
    _, held = mixing.split(mixing.load(directories, "permissive"))
    return [row for row in held if row.english]


def texts_of(rows: Sequence[Row], count: Count, lengths: Sequence[int] = LENGTHS) -> Texts:
    """Draw the texts, the same at every call; ``count`` says how many tokens a text has.

    Raises:
        ValueError: where the rows hold no calm or no harmful sentence.
    """
    draw = np.random.default_rng(15)
    harmful: list[Row] = []
    for target in TARGETS:
        short = [r for r in rows if r.target == target and r.label and _short(r, count)]
        harmful += [short[n] for n in draw.permutation(len(short))[: SAMPLES // len(TARGETS)]]
    pool = [
        sentence
        for row in rows
        if row.source in CALM and not row.label
        for sentence in SENTENCE.split(row.judged)
        if sentence.strip()
    ]
    if not harmful or not pool:
        raise ValueError("padding: the data has no short harmful rows, or none that are calm")
    calm = {n: [drawn(pool, n, count, draw) for _ in harmful] for n in lengths}
    return Texts(harmful, calm)


def measure(texts: Texts, judge_all: JudgeAll, own: Mapping[str, Thresholds]) -> dict[str, Any]:
    """Recall by length and place, and the calm texts that are flagged.

    By the own flags of whoever judged: of ``own``, or of a second opinion.

    A harmful sentence is found where its own question is flagged. Calm texts are judged as
    prompts; any of the three things that are asked of a prompt is a false alarm.
    """
    harmful = texts.harmful
    figures: dict[str, Any] = {
        "sentences": len(harmful),
        "alone": _share(_found(map(content_of, harmful), judge_all, own)),
    }
    for tokens, calm in texts.calm.items():
        row: dict[str, float] = {}
        for place in PLACES:
            padded = (_padded(r, each, place) for r, each in zip(harmful, calm, strict=True))
            row[place] = _share(_found(padded, judge_all, own))
        alarms = judge_all([content.prompt(" ".join(each)) for each in calm])
        row["calm alone"] = _share([_alarming(finding, own) for finding in alarms])
        figures[f"{tokens} calm tokens"] = row
    return figures


def _short(row: Row, count: Count) -> bool:
    text = row.judged.strip()
    single = "\n" not in text and len(SENTENCE.split(text)) == 1
    return single and not row.context and SHORTEST <= count(text) <= LONGEST


def _padded(row: Row, calm: Sequence[str], place: str) -> Content:
    text = row.judged.strip()
    text = text if text[-1] in ".!?" else f"{text}."
    at = {"start": 0, "middle": len(calm) // 2, "end": len(calm)}[place]
    joined = " ".join([*calm[:at], text, *calm[at:]])
    return content.plain(joined) if row.target == "text" else content.prompt(joined)


def _found(
    contents: Iterator[Content], judge_all: JudgeAll, own: Mapping[str, Thresholds]
) -> list[bool]:
    found = judge_all(list(contents))
    return [finding.overall >= finding.limits(own)[finding.question].flag for finding in found]


def _alarming(finding: Finding, own: Mapping[str, Thresholds]) -> bool:
    limits = finding.limits(own)
    return (
        finding.overall >= limits[finding.question].flag
        or finding.categories[TOXICITY] >= limits[TOXICITY].flag
        or (finding.attack or 0.0) >= limits[ATTACK].flag
    )


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 3)
