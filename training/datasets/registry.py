"""What each source's label and category names mean (data: ``sources.yaml``)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

from tamis.taxonomy import ATTACK, REFUSAL, SEVERITY, TOXICITY, taxonomy
from training.datasets.schema import Row

# The questions, then one head per category: "given that it is unsafe, is it this?". Toxicity is a
# question of its own, so it has no such head. ``refusal`` asks whether an answer declines, and
# ``severity`` whether a text is borderline at least.
QUESTIONS: Final = ("prompt", "response", TOXICITY, ATTACK, REFUSAL, SEVERITY)
CATEGORIES: Final = tuple(c for c in taxonomy().categories if c != TOXICITY)
HEADS: Final = (*QUESTIONS, *CATEGORIES)
# Which head answers "is it unsafe?" for a row's target.
QUESTION_OF: Final[Mapping[str, str]] = {
    "prompt": "prompt",
    "response": "response",
    "text": TOXICITY,
    "document": ATTACK,
}
# How unsafe a borderline row is to its question. Reasonable policies differ about such rows: taught
# as 0 they cost recall on sets that call them unsafe, taught as 1 precision on ordinary requests.
BORDERLINE: Final = 0.4


class UnknownSourceError(ValueError):
    """A training row whose source has no entry in ``sources.yaml``."""


@dataclass(frozen=True, slots=True)
class Tag:
    """What one of a source's own category names says of ours."""

    present: frozenset[str]
    unknown: frozenset[str]


@dataclass(frozen=True, slots=True)
class Source:
    """The meaning of one source's labels; see the head of ``sources.yaml``."""

    unsafe: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()
    known: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[int, float] = field(default_factory=dict)
    weight: float = 1.0
    tags: Mapping[str, Tag] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()
    synthetic: bool = False
    calibrates: bool = True
    held_out: int | None = None

    @property
    def covers(self) -> frozenset[str]:
        """The categories of ours that the source's own taxonomy can express."""
        return frozenset(c for tag in self.tags.values() for c in tag.present)

    def categories_of(self, row: Row) -> dict[str, int]:
        """Known category labels of a row: 1, 0, or absent where the source does not say."""
        tags = [self.tags[name] for name in row.categories if name in self.tags]
        if not tags:
            return {}
        present = frozenset().union(*(t.present for t in tags))
        unknown = frozenset().union(*(t.unknown for t in tags)) - present
        return {c: int(c in present) for c in sorted(self.covers - unknown)}

    def is_aside(self, row: Row) -> bool:
        """Whether one of the row's own categories does not answer the source's main question."""
        return bool(self.aside.intersection(row.categories))

    def labels_of(self, row: Row, borderline: float = BORDERLINE) -> dict[str, float]:
        """Known head labels of a row; heads that are absent are masked out of the loss.

        A row that was read under our guide says what it says, whatever its source.
        """
        if row.read:
            return _labels_as_read(row, borderline)
        aside = self.is_aside(row)
        labels: dict[str, float] = dict(self.known)
        if not aside:
            labels |= dict.fromkeys(self.unsafe if row.label else self.safe, row.label)
            if row.label in self.shares:
                labels[QUESTION_OF[row.target]] = self.shares[row.label]
        # A prompt row cannot teach the response head, nor the other way round.
        labels.pop("response" if row.target != "response" else "prompt", None)
        if row.target == "response":
            labels.pop(ATTACK, None)
            labels.pop(TOXICITY, None)
        if row.label or aside:
            labels |= self.categories_of(row)
        if row.target == "text" and labels:
            # Written to people, so no attack on a model: without these rows every insult that
            # begins with "You are" looked like a jailbreak.
            labels[ATTACK] = 0
        return labels


def _labels_as_read(row: Row, borderline: float) -> dict[str, float]:
    """Labels of a row that was read: every category, severity, stance and attack are known."""
    if row.target == "document":
        return {ATTACK: float(row.label)}
    assert row.severity is not None
    labels: dict[str, float] = {
        QUESTION_OF[row.target]: (0.0, borderline, 1.0)[row.severity],
        SEVERITY: float(row.severity > 0),
    }
    labels |= {category: float(category in row.categories) for category in CATEGORIES}
    if row.stance is not None:
        labels[REFUSAL] = float(row.stance == "refuses")
    if row.target == "text":
        labels[ATTACK] = 0.0
    elif row.attack is not None and row.target == "prompt":
        labels[ATTACK] = float(row.attack)
    return labels


_otherwise: ContextVar[Mapping[str, Source] | None] = ContextVar("otherwise", default=None)


def _tag(names: list[str]) -> Tag:
    tag = Tag(
        present=frozenset(n for n in names if not n.startswith("~")),
        unknown=frozenset(n[1:] for n in names if n.startswith("~")),
    )
    taxonomy().check(tag.present | tag.unknown)
    return tag


def _source(raw: Mapping[str, Any]) -> Source:
    stray = set(raw) - {
        "unsafe",
        "safe",
        "known",
        "shares",
        "weight",
        "categories",
        "aside",
        "synthetic",
        "calibrates",
        "held_out",
    }
    if stray:
        raise ValueError(f"sources.yaml: unknown fields {sorted(stray)}")
    heads = {*raw.get("unsafe", ()), *raw.get("safe", ()), *raw.get("known", {})}
    if not heads <= set(QUESTIONS):
        raise ValueError(f"sources.yaml: unknown heads {sorted(heads - set(QUESTIONS))}")
    shares = raw.get("shares", {})
    if not all(label in (0, 1) and 0 <= share <= 1 for label, share in shares.items()):
        raise ValueError(f"sources.yaml: shares must be of labels 0 and 1: {shares}")
    return Source(
        unsafe=tuple(raw.get("unsafe", ())),
        safe=tuple(raw.get("safe", ())),
        known=raw.get("known", {}),
        shares=shares,
        weight=float(raw.get("weight", 1.0)),
        tags={name: _tag(ours) for name, ours in raw.get("categories", {}).items()},
        aside=frozenset(raw.get("aside", ())),
        synthetic=bool(raw.get("synthetic", False)),
        calibrates=bool(raw.get("calibrates", True)),
        held_out=raw.get("held_out"),
    )


def sources() -> Mapping[str, Source]:
    """Every registered source by name."""
    return _otherwise.get() or _as_written()


@contextmanager
def meaning(changes: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Within, sources' labels mean something else: for ablations, which say what that is worth.

    ``changes`` holds fields in place of those of ``sources.yaml``, by source; a None takes a field
    away.

    Raises:
        UnknownSourceError, ValueError: where there is no such source, field, head or category.
    """
    found = dict(_as_written())
    for name, fields in changes.items():
        if name not in found:
            raise UnknownSourceError(f"source {name!r} has no entry in sources.yaml")
        raw = {**_raw()[name], **fields}
        found[name] = _source({key: value for key, value in raw.items() if value is not None})
    token = _otherwise.set(found)
    try:
        yield
    finally:
        _otherwise.reset(token)


@cache
def _raw() -> Mapping[str, Mapping[str, Any]]:
    text = files("training.datasets").joinpath("sources.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)["sources"]
    return found


@cache
def _as_written() -> Mapping[str, Source]:
    return {name: _source(raw) for name, raw in _raw().items()}


def source_of(row: Row) -> Source:
    """The source of a training row.

    Raises:
        UnknownSourceError: where ``sources.yaml`` does not say what its labels mean.
    """
    try:
        return sources()[row.source]
    except KeyError:
        raise UnknownSourceError(f"source {row.source!r} has no entry in sources.yaml") from None


def answers_overall(row: Row) -> bool:
    """Whether a row's label answers the overall question of its target (an injection's does not).

    Raises:
        UnknownSourceError: where ``sources.yaml`` does not say what its labels mean.
    """
    return QUESTION_OF[row.target] in source_of(row).labels_of(row)


def answers_surely(row: Row) -> bool:
    """Whether the answer is a yes or a no: neither borderline, nor a label of which a share holds.

    Raises:
        UnknownSourceError: where ``sources.yaml`` does not say what its labels mean.
    """
    return source_of(row).labels_of(row).get(QUESTION_OF[row.target]) in (0, 1)
