"""Tiers: the fast bundle, the accurate one, or the fast one first and the other where it is unsure.

A tier is a bundle and a name. The cascade is two of them, and the bands in which the first bundle's
scores leave its answer open; they were chosen for these two bundles and hold for no others. In each
tier, a multilingual bundle judges what the tier's own cannot read.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tamis.bundle import QUESTIONS, Bundle, BundleError, default_bundle, models, thresholds_of
from tamis.content import Question
from tamis.deciding import asked_of
from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, DOCUMENT, REFUSAL, SEVERITY, TOXICITY
from tamis.verdict import Finding, Role, Second

Tier = Literal["fast", "accurate", "cascade"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
# What a service is unless it is told: most of what the fast bundle would flag is heard again, and
# most ordinary texts cost what they did (docs/results.md). By its word alone may be stopped what no
# band holds: prompts that are an attack or rude but not unsafe, since bands are on the overall
# score.
DEFAULT: Final[Tier] = "cascade"
FORMAT: Final = "tamis.cascade/1"
BANDS: Final = "cascade.json"
OVERALL: Final = "overall"
# The heads of which two opinions can be weighed: a category is a share of one of them. What tools
# and pages say is weighed by itself: an attack looks otherwise there than in a request.
WEIGHED: Final = frozenset((*QUESTIONS, DOCUMENT))
# Nobody is surer than this of anything: a score of 0 or 1 has no logit.
SUREST: Final = 1e-6
# What a companion's variable says where there is to be none.
OFF: Final = "off"
NONE: Final = ("", OFF)


@dataclass(frozen=True, slots=True)
class Band:
    """A closed interval of calibrated scores."""

    low: float
    high: float

    def holds(self, score: float) -> bool:
        """Whether a score leaves the answer open."""
        return self.low <= score <= self.high


@dataclass(frozen=True, slots=True)
class Weighing:
    """Two opinions on one question as one: P = sigmoid(first · z1 + second · z2 + bias).

    z1 and z2 are the logits of both calibrated scores. Two bundles err in different places: of
    texts that were asked twice, both together rank better than the better one of them.
    """

    first: float
    second: float
    bias: float
    thresholds: Thresholds
    """On P."""

    def score(self, first: float, second: float) -> float:
        """P, of the first and the second bundle's score."""
        if first == second == 1:
            return 1.0  # What nobody can see is an attack by rule, and no opinion.
        z = self.first * logit(first) + self.second * logit(second) + self.bias
        return 1 / (1 + math.exp(-z))


@dataclass(frozen=True)
class Bands:
    """When the fast bundle is unsure of a content: by question, on the overall score.

    ``fast`` and ``accurate`` are the fingerprints of the bundles that they were chosen for.
    """

    fast: str
    accurate: str
    overall: Mapping[Question, Band]
    kept: frozenset[str] = frozenset()
    """Categories that the fast bundle tells better, or alone: it found more of them held out."""
    weighed: Mapping[str, Weighing] = field(default_factory=dict)
    """By head: how both opinions become one. Of other heads the second opinion stands alone."""

    @cached_property
    def version(self) -> str:
        """A hash of all of it: the same version asks twice of the same, and weighs it alike."""
        said = asdict(self) | {"kept": sorted(self.kept)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def thresholds(
        self, first: Mapping[str, Thresholds], second: Mapping[str, Thresholds]
    ) -> dict[str, Thresholds]:
        """The thresholds of what both opinions come to, by those of their bundles.

        They are the same for every content, so that an audit log holds them once: a head is weighed
        wherever both bundles have it.
        """
        kept = {name: first[name] for name in (self.kept - WEIGHED) & first.keys()}
        weighed = WEIGHED & self.weighed.keys() & {DOCUMENT, *(first.keys() & second.keys())}
        return {**second, **kept, **{head: self.weighed[head].thresholds for head in weighed}}

    def unsure(self, finding: Finding) -> bool:
        """Whether a second opinion is wanted.

        Of an empty text there is nothing to say, and of what another bundle said, nothing more.
        """
        if not finding.windows or finding.second is not None:
            return False
        overall = self.overall.get(finding.question)
        return overall is not None and overall.holds(finding.overall)

    def settle(self, first: Finding, second: Finding, own: Mapping[str, Thresholds]) -> Finding:
        """Both opinions as one, with the categories that the first one tells better.

        A category's score is P(unsafe) · P(category | unsafe): the former is that of both, the
        latter the fast bundle's where its category is kept. So is evidence where the fast bundle
        has any: it marks words where a larger body, whose states all know of each other, marks
        sentences. ``own`` are the fast bundle's thresholds.
        """
        if second.second is None:
            return replace(second, ruled=first.ruled, other=first.other)
        settled = replace(
            second.second,
            thresholds=self.thresholds(own, second.second.thresholds),
            cascade=self.version,
        )

        def weighed(head: str, mine: float | None, theirs: float | None) -> float | None:
            how = self.weighed.get(head)
            if how is None or mine is None or theirs is None:
                return theirs
            return how.score(mine, theirs)

        asked = asked_of(first, self.weighed)
        attack = asked if first.question == ATTACK else ATTACK
        overall = weighed(asked, first.overall, second.overall) or 0.0
        told = {}
        for finding, mine in ((second, False), (first, True)):
            share = overall / finding.overall if finding.overall else 0.0
            for name, score in finding.categories.items():
                if name == TOXICITY:
                    # A question of its own, not a share of what is unsafe.
                    continue
                if not mine or name in self.kept:
                    told[name] = score * share
        toxic = weighed(TOXICITY, first.categories.get(TOXICITY), second.categories.get(TOXICITY))
        if toxic is not None:
            told[TOXICITY] = toxic
        marked = {one.category for one in first.evidence}
        return replace(
            second,
            overall=overall,
            attack=weighed(attack, first.attack, second.attack),
            refusal=weighed(REFUSAL, first.refusal, second.refusal),
            severity=weighed(SEVERITY, first.severity, second.severity),
            categories=told,
            evidence=(
                *first.evidence,
                *(one for one in second.evidence if one.category not in marked),
            ),
            second=settled,
            ruled=first.ruled,
            other=first.other,
        )

    def check(self, fast: Bundle, accurate: Bundle | None = None) -> None:
        """Refuse bands that were chosen for other bundles.

        Raises:
            BundleError: naming the bundle that they were not chosen for.
        """
        for wanted, bundle in ((self.fast, fast), (self.accurate, accurate)):
            if bundle is not None and bundle.fingerprint != wanted:
                raise BundleError(
                    f"{BANDS} was made for the bundle {wanted[:12]}, not for {bundle.name}@"
                    f"{bundle.fingerprint[:12]}; `tamis export cascade` makes one"
                )


@dataclass(frozen=True, slots=True)
class Companion:
    """A bundle beside the fast one, shipped whole or as a delta to its public base.

    ``variable`` says where it is.
    """

    name: str
    variable: str

    @property
    def folder(self) -> Path:
        """Where it is looked for: as its variable says, else beside the fast one."""
        if (chosen := os.environ.get(self.variable)) and chosen != OFF:
            return Path(chosen)
        return default_bundle().parent / self.name

    @property
    def wanted(self) -> bool:
        """Whether its variable does not say that there is to be none."""
        return os.environ.get(self.variable) not in NONE

    @property
    def delta(self) -> Path:
        """The folder of what makes it out of its public base."""
        return models() / f"{self.name}-delta"


ACCURATE: Final = Companion("tamis-110m", "TAMIS_ACCURATE")
MULTILINGUAL: Final = Companion("tamis-multilingual", "TAMIS_MULTILINGUAL")


def bands_file(accurate: Path) -> Path | None:
    """Where the bands are: in the accurate bundle's folder, or, before it is made, its delta's."""
    return next((p for p in (accurate / BANDS, ACCURATE.delta / BANDS) if p.is_file()), None)


def load_bands(accurate: Path) -> Bands:
    """The bands of the cascade with that accurate bundle.

    Raises:
        BundleError: where there are none, or they are not of this format.
    """
    path = bands_file(accurate)
    if path is None:
        raise BundleError(f"{accurate / BANDS} is missing: nothing says when to ask twice")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"format is {raw['format']!r}, this release reads {FORMAT!r}")
        return Bands(
            fast=str(raw["fast"]["fingerprint"]),
            accurate=str(raw["accurate"]["fingerprint"]),
            overall=_bands(raw["bands"]),
            kept=frozenset(map(str, raw.get("kept", ()))),
            weighed={
                str(head): _weighing({"name": head} | how)
                for head, how in raw.get("weighed", {}).items()
            },
        )
    except KeyError as error:
        raise BundleError(f"{path}: field {error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None


def second_of(bundle: Bundle, role: Role = "accurate") -> Second:
    """A bundle as findings name it that are its own, and not of the one that is asked first."""
    return Second(bundle.name, bundle.fingerprint, bundle.thresholds, role)


def _bands(raw: Mapping[str, Any]) -> dict[Question, Band]:
    found: dict[Question, Band] = {}
    for question in get_args(Question):
        if (limits := raw.get(question, {}).get(OVERALL)) is not None:
            low, high = map(float, limits)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"the band of {question} is not within 0 and 1")
            found[question] = Band(low, high)
    return found


def _weighing(raw: Mapping[str, Any]) -> Weighing:
    first, second, bias = (float(raw[name]) for name in ("first", "second", "bias"))
    if min(first, second) < 0:
        raise ValueError(f"the weights of {raw['name']} must not be below 0")
    return Weighing(first, second, bias, thresholds_of(raw))


def logit(p: float) -> float:
    """The logit of a probability, which is finite."""
    p = min(max(p, SUREST), 1 - SUREST)
    return math.log(p / (1 - p))
