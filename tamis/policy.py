"""A policy: which categories count, and from which scores on they flag or block."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Final, Literal

from tamis.content import Side
from tamis.reasoner.protocol import Guideline, guidelines
from tamis.taxonomy import ATTACK, taxonomy

OVERALL: Final = "overall"
# What policies did not always have counts in their version where it is not the default, so that
# versions from before hold.
ADDED: Final = {"mode", "sensitivity", "severity", "judge", "mask"}

MAX_DEADLINE_MS: Final = 3_600_000
"""An hour, as much as a request may ask for: whatever is longer is a slip."""

Mode = Literal["enforce", "score"]
"""Whether a verdict carries the action that the policy asks for, or scores alone."""
# OpenAI's inline moderation says "score" and "block".
MODES: Final[Mapping[str, Mode]] = {"enforce": "enforce", "block": "enforce", "score": "score"}

Sensitivity = Literal["strict", "balanced", "loose"]
"""Which of a bundle's own sets of thresholds holds: strict misses less, loose alarms less."""

Act = Literal["allow", "flag", "block"]
"""What a policy may ask for by name."""


Personal = Literal["email", "phone", "card", "iban", "ip", "national_id"]
"""Kinds of personal data that a policy may have masked."""

# Numbers with check digits by which people are known, as python-stdnum's modules name them.
NATIONAL_IDS: Final[Mapping[str, tuple[str, ...]]] = {
    "au": ("au.tfn",),
    "be": ("be.nn",),
    "br": ("br.cpf",),
    "ca": ("ca.sin",),
    "ch": ("ch.ssn",),
    "cn": ("cn.ric",),
    "de": ("de.idnr",),
    "dk": ("dk.cpr",),
    "es": ("es.dni", "es.nie"),
    "fi": ("fi.hetu",),
    "fr": ("fr.nir",),
    "gb": ("gb.nhs",),
    "in": ("in_.aadhaar", "in_.pan"),
    "it": ("it.codicefiscale",),
    "nl": ("nl.bsn",),
    "no": ("no.fodselsnummer",),
    "pl": ("pl.pesel",),
    "pt": ("pt.nif",),
    "se": ("se.personnummer",),
    "us": ("us.ssn", "us.itin"),
    "za": ("za.idnr",),
}


class PolicyError(ValueError):
    """A policy that cannot be used; the message names the file or policy and the field."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which an item is flagged and blocked; ``flag <= block``, both in (0, 1]."""

    flag: float
    block: float

    def at(self, sensitivity: Sensitivity) -> "Thresholds":  # noqa: ARG002
        """The set for a sensitivity; plain thresholds are the same at each."""
        return self


@dataclass(frozen=True, slots=True)
class CalibratedThresholds(Thresholds):
    """A head's own thresholds, which are ``balanced``, with the sets for less and more of them."""

    strict: Thresholds
    loose: Thresholds

    def at(self, sensitivity: Sensitivity) -> Thresholds:
        """The set for a sensitivity."""
        match sensitivity:
            case "strict":
                return self.strict
            case "loose":
                return self.loose
        return self


@dataclass(frozen=True, slots=True)
class SeverityRule:
    """What a policy does with contents by their severity.

    Of an unsafe content ``overall`` and the categories decide, by its score.
    """

    borderline: Act = "allow"


@dataclass(frozen=True, slots=True)
class MaskRule:
    """What a policy has replaced by marks: personal data of some kinds, and evidence.

    ``countries`` are those whose national ids are sought, and whose telephone numbers as they are
    written within the country.
    """

    pii: tuple[Personal, ...] = ()
    evidence: bool = False
    countries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy says of one category; None takes the bundle's own threshold."""

    flag: float | None = None
    block: float | None = None
    definition: str | None = None

    def resolve(self, own: Thresholds) -> Thresholds:
        """Thresholds with the gaps filled from the bundle, block raised to flag if need be."""
        flag = own.flag if self.flag is None else self.flag
        block = own.block if self.block is None else self.block
        if self.flag is None and self.block is not None:
            flag = min(flag, block)
        return Thresholds(flag, max(flag, block))


@dataclass(frozen=True)
class Policy:
    """Categories (and ``attack``) that count, and the overall question where it counts.

    ``overall`` is "is it unsafe at all?", whatever the category. A policy without it leaves the
    decision to the categories it names.
    """

    name: str
    categories: Mapping[str, Rule]
    overall: Rule | None = None
    description: str = ""
    mode: Mode = "enforce"
    deadline_ms: int | None = None
    """How long an answer is worth waiting for, where the request does not say."""
    shadow: str | None = None
    """The policy by whose rules the same findings are judged on trial, for the metrics only."""
    sensitivity: Sensitivity = "balanced"
    """Which of the bundle's sets fills what the rules leave open."""
    severity: SeverityRule = SeverityRule()
    mask: MaskRule | None = None
    """What is masked in the texts that come back; None: no text does."""
    judge: tuple[Side, ...] | None = None
    """The sides of an exchange that are judged, the other being context; None judges both."""

    @cached_property
    def own(self) -> tuple[str, ...]:
        """Categories that the taxonomy does not have: no classifier knows them."""
        known = taxonomy().categories
        return tuple(name for name in self.categories if name not in known and name != ATTACK)

    @cached_property
    def rules(self) -> tuple[Guideline, ...]:
        """The categories of its own as the policy encoder reads them.

        Raises:
            GuidelineError: as ``guidelines``.
        """
        own = frozenset(self.own)
        return tuple(one for one in self.guidelines if one.name in own) if own else ()

    @cached_property
    def guidelines(self) -> tuple[Guideline, ...]:
        """The policy as the reasoner reads it.

        The attack signal is left out: asked for as one category among others, it costs the others
        accuracy (GSPR, jailbreak ablation).

        Raises:
            GuidelineError: where the reasoner cannot answer with its categories.
        """
        return guidelines({n: r.definition for n, r in self.categories.items() if n != ATTACK})

    @cached_property
    def version(self) -> str:
        """A hash of everything the policy decides by: the same version gives the same verdicts."""
        said = asdict(self)
        del said["deadline_ms"], said["shadow"]
        for field in fields(self):
            if field.name in ADDED and getattr(self, field.name) == field.default:
                del said[field.name]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
