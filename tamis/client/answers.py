"""Verdicts as a caller reads them. Fields that are not known here are left aside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.verdict import Action, CategoryScore, Evidence, Severity


@dataclass(frozen=True, slots=True)
class Refusal:
    """Whether an answer declines."""

    score: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class FieldAnswer:
    """The verdict of one content; ``refusal`` is None but for a response."""

    flagged: bool
    action: Action
    score: float
    threshold: float | None
    severity: Severity
    refusal: Refusal | None = None
    transforms: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Moderation:
    """The verdict of one item; ``raw`` is the answer as it came."""

    id: str
    flagged: bool
    action: Action
    score: float
    threshold: float | None
    severity: Severity
    categories: Mapping[str, CategoryScore]
    attack: CategoryScore | None
    evidence: Sequence[Evidence]
    fields: Mapping[str, FieldAnswer]
    windows: int
    tokens: int
    model: str
    policy: str
    withheld: Action | None
    explanation: Mapping[str, Any] | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def blocked(self) -> bool:
        """Whether the policy wants it stopped."""
        return self.action is Action.BLOCK


def moderation_of(raw: Mapping[str, Any]) -> Moderation:
    """A verdict from its JSON.

    Raises:
        KeyError, TypeError, ValueError: where it is none.
    """
    attack, withheld = raw["attack"], raw.get("withheld")
    return Moderation(
        id=raw["id"],
        flagged=raw["flagged"],
        action=Action(raw["action"]),
        score=raw["score"],
        threshold=raw["threshold"],
        severity=Severity(raw["severity"]),
        categories={name: _score(one) for name, one in raw["categories"].items()},
        attack=None if attack is None else _score(attack),
        evidence=[
            Evidence(e["start"], e["end"], e["text"], e["category"], e["score"], e["field"])
            for e in raw["evidence"]
        ],
        fields={name: _field(one) for name, one in raw["fields"].items()},
        windows=raw["windows"],
        tokens=raw["tokens"],
        model=raw["model"],
        policy=raw["policy"],
        withheld=None if withheld is None else Action(withheld),
        explanation=raw.get("explanation"),
        raw=raw,
    )


def _score(raw: Mapping[str, Any]) -> CategoryScore:
    return CategoryScore(raw["score"], raw["flagged"], raw["threshold"])


def _field(raw: Mapping[str, Any]) -> FieldAnswer:
    refusal = raw.get("refusal")
    return FieldAnswer(
        flagged=raw["flagged"],
        action=Action(raw["action"]),
        score=raw["score"],
        threshold=raw["threshold"],
        severity=Severity(raw["severity"]),
        refusal=None if refusal is None else Refusal(refusal["score"], refusal["flagged"]),
        transforms=tuple(raw.get("transforms", ())),
    )
