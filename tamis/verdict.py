"""What was found in an item, and the verdict on it: what it says, and who says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from tamis.content import Question
from tamis.policy import Thresholds
from tamis.reasoner.protocol import Guideline

# The labels of evidence for the overall question, and for being borderline.
UNSAFE: Final = "unsafe"
BORDERLINE: Final = "borderline"


class Action(StrEnum):
    """What a gateway should do; ordered from mild to severe."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"


class Severity(StrEnum):
    """How bad a content is, whatever the policy does about it; ordered from mild to severe.

    Reasonable policies differ about what is borderline.
    """

    SAFE = "safe"
    BORDERLINE = "borderline"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """A calibrated probability and whether it reached the policy's flag threshold."""

    score: float
    flagged: bool
    threshold: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Words that decided: ``text == field[start:end]``, offsets in characters (code points).

    ``category`` is a category of the taxonomy, ``attack``, ``unsafe`` for the overall question, or
    ``borderline`` where the policy acts on that. ``score`` is the calibrated probability that these
    words alone argue for.
    """

    start: int
    end: int
    text: str
    category: str
    score: float
    field: str


Role = Literal["accurate", "multilingual", "rules"]
Missed = Literal["deadline", "not_ready", "failed"]
"""Why a content that the fast tier was unsure of got no second opinion."""


@dataclass(frozen=True, slots=True)
class Second:
    """Another bundle than the one that is asked first, and its own thresholds by head.

    ``role`` says why it was asked: because the first one was unsure, or reads other languages ill,
    or about rules that no classifier knows; the thresholds of the latter are by question.
    """

    model: str
    bundle: str
    thresholds: Mapping[str, Thresholds]
    role: Role = "accurate"
    cascade: str | None = None
    """The version of the bands that settled its opinion with the first one's: its thresholds are
    those of both together."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a policy encoder says of one content: how likely it breaks each of a policy's rules."""

    by: Second
    scores: Mapping[Guideline, float]
    """Calibrated probabilities, each of its rule alone: they need not sum to anything."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a classifier says of one content, before any policy.

    ``overall`` answers the content's question; ``categories`` holds calibrated probabilities of
    the categories that the model was taught. ``windows`` is how many were read. ``severity`` is
    the probability that the text is at least borderline; ``refusal``, of a response, that it
    declines from its beginning to its end. Both are None where the model was not taught them.
    """

    question: Question
    overall: float
    categories: Mapping[str, float]
    attack: float | None
    windows: int
    tokens: int
    evidence: Sequence[Evidence] = ()
    refusal: float | None = None
    severity: float | None = None
    field: str = "text"
    transforms: Sequence[str] = ()
    """How the text was obfuscated, or why it could not be read: of ``tamis.reading.TRANSFORMS``."""
    second: Second | None = None
    """Whose it is, whole, where it is not that of the bundle that is asked first."""
    missed: Missed | None = None
    ruled: Ruled | None = None
    """Of rules that no classifier knows; None where nobody was asked about any."""
    other: "Finding | None" = None
    """What the other of two bundles says that both read the text: a policy hears both."""

    @property
    def opinions(self) -> "tuple[Finding, ...]":
        """Its own, and the other one's: each what one bundle says of the content."""
        if self.other is None:
            return (self,)
        return self, replace(self.other, field=self.field, ruled=self.ruled)

    def limits(self, own: Mapping[str, Thresholds]) -> Mapping[str, Thresholds]:
        """The thresholds of whoever said it; ``own`` are those of the bundle asked first."""
        return own if self.second is None else self.second.thresholds


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which weights and which rules: the same two give the same verdict."""

    model: str
    bundle: str
    policy: str
    policy_version: str


@dataclass(frozen=True, slots=True)
class FieldVerdict:
    """The judgement of one content, on its own: a prompt's harm is not its response's.

    ``action`` is that of everything the policy asks of the content, ``score`` and ``threshold`` are
    those of its overall question. ``refusal`` is None where no response was judged, or where the
    bundle has no such head.
    """

    question: Question
    flagged: bool
    action: Action
    score: float
    threshold: float | None
    severity: Severity
    refusal: CategoryScore | None = None
    withheld: Action | None = None
    """What the policy would have done, where it only scores."""
    transforms: Sequence[str] = ()
    """How the content was obfuscated, or why it could not be read."""
    provenance: Provenance | None = None
    """Who says so, where that is not who the verdict names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one item under one policy: the worst of its contents' (``fields``)."""

    flagged: bool
    action: Action
    score: float
    threshold: float | None
    categories: Mapping[str, CategoryScore]
    attack: CategoryScore | None
    evidence: Sequence[Evidence]
    windows: int
    tokens: int
    provenance: Provenance
    severity: Severity
    fields: Mapping[str, FieldVerdict]
    """By where the contents stood in the request, in the order in which they were judged."""
    withheld: Action | None = None
    """What the policy would have done, where it only scores."""
    transforms: Sequence[str] = ()
    """Those of all contents, each once, in the order in which they are undone."""
    second_opinion: Literal["given"] | Missed | None = None
    """Whether the fast tier was unsure of a content, and all that it was unsure of was settled."""
    encoder: Provenance | None = None
    """Who judged the policy's own categories, where it has some and somebody did."""
