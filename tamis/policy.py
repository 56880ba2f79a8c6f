"""A policy: which categories count, and from which scores on they flag or block."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from tamis.content import Side
from tamis.reasoner.protocol import Guideline, GuidelineError, guidelines
from tamis.taxonomy import ATTACK, UnknownCategoryError, taxonomy

OVERALL: Final = "overall"
FIELDS: Final = {
    *("name", "description", "categories", "deadline_ms", "mode", "shadow", "sensitivity"),
    *("severity", "judge", "mask", OVERALL),
}
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

    @classmethod
    def parse(cls, raw: Any, where: str = "policy") -> "Policy":
        """Build a policy from plain data, as YAML or JSON give it.

        Raises:
            PolicyError: naming ``where`` and the field that is unknown, missing or out of range.
        """
        data = _mapping(raw, where)
        _only(data, FIELDS, where)
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise PolicyError(f"{where}: field 'name' must be a non-empty text")
        shadow = data.get("shadow")
        if shadow is not None and (not isinstance(shadow, str) or shadow in ("", name)):
            raise PolicyError(f"{where}: field 'shadow' must be the name of another policy")
        categories = _mapping(data.get("categories", {}), f"{where}: field 'categories'")
        rules = {c: _rule(r, f"{where}: category {c!r}") for c, r in categories.items()}
        _check_categories(rules, where)
        overall = data.get(OVERALL, None)
        if not categories and OVERALL not in data:
            raise PolicyError(f"{where}: a policy needs at least one category or 'overall'")
        deadline = data.get("deadline_ms")
        known = range(1, MAX_DEADLINE_MS + 1)
        if deadline is not None and (type(deadline) is not int or deadline not in known):
            raise PolicyError(
                f"{where}: field 'deadline_ms' must be a whole number from 1 to {MAX_DEADLINE_MS}"
            )
        return cls(
            name=name,
            mode=MODES[_one_of(data, "mode", MODES, "enforce", where)],
            sensitivity=_one_of(data, "sensitivity", get_args(Sensitivity), "balanced", where),
            severity=_severity(data, where),
            judge=_sides(data, where),
            mask=_mask(data, where),
            deadline_ms=deadline,
            shadow=shadow,
            description=str(data.get("description") or ""),
            categories=rules,
            overall=_rule(overall, f"{where}: 'overall'") if OVERALL in data else None,
        )

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file.

        Raises:
            PolicyError: where the file is not YAML or not a policy.
        """
        try:
            raw = _Unique(path.read_text(encoding="utf-8")).get_single_data()
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            # A ValueError are bytes that are no text, and a day that is none (2026-02-30).
            raise PolicyError(f"{path.name}: not YAML: {error}") from None
        return cls.parse(raw, path.name)


class _Unique(yaml.SafeLoader):
    """YAML that has every name of a mapping once: PyYAML keeps the last of several, unasked."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for name in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{name.value!r} stands twice", problem_mark=name.start_mark
                )
            seen.add(name.value)
        return node


def load_policies(directory: Path, encoded: bool = False) -> dict[str, Policy]:
    """Every ``*.yaml`` policy of a directory by its name.

    ``encoded``: a policy encoder judges categories of their own.

    Raises:
        PolicyError: where one cannot be read, two share a name, or one has categories of its own
            that nobody can read, or that nobody judges where they want it: for a shadow, and by
            thresholds.
    """
    policies: dict[str, Policy] = {}
    files: dict[str, str] = {}
    for path in sorted(directory.glob("*.yaml")):
        policy = Policy.load(path)
        if policy.name in policies:
            raise PolicyError(f"{path.name}: a policy named {policy.name!r} exists already")
        _check_own(policy, path.name)
        if not encoded:
            check_unscored(policy, path.name)
        policies[policy.name], files[policy.name] = policy, path.name
    for name, policy in policies.items():
        shadow = policies.get(policy.shadow or "")
        if shadow is not None and shadow.own and not encoded:
            raise PolicyError(
                f"{files[name]}: field 'shadow': {shadow.name!r} has the category "
                f"{shadow.own[0]!r} of its own, for which the classifier has no score"
            )
    return policies


def check_unscored(policy: Policy, where: str) -> None:
    """Refuse thresholds for what nobody scores: categories of its own without a policy encoder.

    Raises:
        PolicyError: naming the category.
    """
    for name in policy.own:
        rule = policy.categories[name]
        if rule.flag is not None or rule.block is not None:
            raise PolicyError(
                f"{where}: category {name!r} is your own: without the policy encoder nobody gives "
                "it a score that 'flag' or 'block' could apply to"
            )


def default_policy() -> Policy:
    """The policy that ships: every category, at the bundle's own thresholds."""
    return Policy.load(Path(__file__).parent / "policies" / "default.yaml")


def _mapping(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise PolicyError(f"{where} must be a mapping of names")
    return raw


def _check_categories(rules: Mapping[str, Rule], where: str) -> None:
    """A name of one's own needs a definition, which tells it from a misspelt one."""
    for name, rule in rules.items():
        try:
            taxonomy().check([name])
        except UnknownCategoryError as error:
            if not (rule.definition or "").strip():
                raise PolicyError(
                    f"{where}: {error}; a category of your own needs a 'definition'"
                ) from None


def _check_own(policy: Policy, where: str) -> None:
    """Categories of one's own have to be such that encoder and reasoner can read them."""
    if not policy.own:
        return
    try:
        _ = policy.guidelines
    except GuidelineError as error:
        raise PolicyError(f"{where}: {error}") from None


def _only(data: Mapping[str, Any], known: set[str], where: str) -> None:
    if stray := sorted(set(data) - known):
        allowed = ", ".join(sorted(known))
        raise PolicyError(f"{where}: unknown field {stray[0]!r}; known: {allowed}")


def _one_of(
    data: Mapping[str, Any], field: str, names: Iterable[str], default: str, where: str
) -> Any:
    value, known = data.get(field, default), tuple(names)
    if value not in known:
        raise PolicyError(f"{where}: field {field!r} must be one of {', '.join(known)}")
    return value


def _severity(data: Mapping[str, Any], where: str) -> SeverityRule:
    raw = _mapping(data.get("severity", {}), f"{where}: field 'severity'")
    where = f"{where}: 'severity'"
    _only(raw, {"borderline"}, where)
    return SeverityRule(borderline=_one_of(raw, "borderline", get_args(Act), "allow", where))


def _mask(data: Mapping[str, Any], where: str) -> MaskRule | None:
    if data.get("mask") is None:
        return None
    raw = _mapping(data["mask"], f"{where}: field 'mask'")
    where = f"{where}: 'mask'"
    _only(raw, {"pii", "evidence", "countries"}, where)
    evidence = raw.get("evidence", False)
    if not isinstance(evidence, bool):
        raise PolicyError(f"{where}: field 'evidence' must be true or false")
    pii = _some_of(raw, "pii", get_args(Personal), where)
    countries = _some_of(raw, "countries", tuple(NATIONAL_IDS), where)
    if not pii and not evidence:
        raise PolicyError(f"{where}: needs 'pii' or 'evidence'")
    if "national_id" in pii and not countries:
        raise PolicyError(f"{where}: 'national_id' needs 'countries'")
    return MaskRule(pii, evidence, countries)


def _some_of(
    data: Mapping[str, Any], field: str, known: tuple[Any, ...], where: str
) -> tuple[Any, ...]:
    raw = data.get(field, [])
    if not isinstance(raw, list) or any(name not in known for name in raw):
        raise PolicyError(f"{where}: field {field!r} must be a list of {', '.join(known)}")
    # Versions do not depend on the order.
    return tuple(name for name in known if name in raw)


def _sides(data: Mapping[str, Any], where: str) -> tuple[Side, ...] | None:
    raw, known = data.get("judge"), get_args(Side)
    if raw is None:
        return None
    if not isinstance(raw, list) or not raw or any(side not in known for side in raw):
        raise PolicyError(f"{where}: field 'judge' must be a list of {', '.join(known)}")
    # Versions do not depend on the order.
    return tuple(side for side in known if side in raw)


def _rule(raw: Any, where: str) -> Rule:
    data = _mapping({} if raw is None else raw, where)
    _only(data, {"flag", "block", "definition"}, where)
    for name in ("flag", "block"):
        value = data.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise PolicyError(f"{where}: {name!r} must be a number above 0 and at most 1")
    flag, block = data.get("flag"), data.get("block")
    if flag is not None and block is not None and flag > block:
        raise PolicyError(f"{where}: 'flag' ({flag}) must not be above 'block' ({block})")
    definition = data.get("definition")
    if definition is not None and not isinstance(definition, str):
        raise PolicyError(f"{where}: 'definition' must be a text")
    return Rule(flag, block, definition)
