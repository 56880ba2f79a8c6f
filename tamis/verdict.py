"""A verdict: what was found in an item, what the policy makes of it, and who says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from tamis.content import Question
from tamis.policy import Policy, Rule, Thresholds
from tamis.taxonomy import ATTACK, TOXICITY

# The label of evidence for the overall question.
UNSAFE: Final = "unsafe"


class Action(StrEnum):
    """What a gateway should do; ordered from mild to severe."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """A calibrated probability and whether it reached the policy's flag threshold."""

    score: float
    flagged: bool
    threshold: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Words that decided: ``text == field[start:end]``, offsets in characters (code points).

    ``category`` is a category of the taxonomy, ``attack``, or ``unsafe`` for the overall question.
    ``score`` is the calibrated probability that these words alone argue for.
    """

    start: int
    end: int
    text: str
    category: str
    score: float
    field: str


Missed = Literal["deadline", "not_ready"]
"""Why a content that the fast tier was unsure of got no second opinion."""


@dataclass(frozen=True, slots=True)
class Second:
    """Another bundle than the one that is asked first, and its own thresholds by head."""

    model: str
    bundle: str
    thresholds: Mapping[str, Thresholds]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a classifier says of one content, before any policy.

    ``overall`` answers the content's question; ``categories`` holds calibrated probabilities of
    the categories that the model was taught. ``windows`` is how many were read.
    """

    question: Question
    overall: float
    categories: Mapping[str, float]
    attack: float | None
    windows: int
    tokens: int
    evidence: Sequence[Evidence] = ()
    second: Second | None = None
    """Whose it is, where a second opinion was asked and this is it, whole."""
    missed: Missed | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which weights and which rules: the same two give the same verdict."""

    model: str
    bundle: str
    policy: str
    policy_version: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one item under one policy."""

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
    withheld: Action | None = None
    """What the policy would have done, where it only scores."""
    second_opinion: Literal["given"] | Missed | None = None
    """Whether the fast tier was unsure of a content, and all that it was unsure of was settled."""


def decide(
    findings: Sequence[Finding],
    policy: Policy,
    own: Mapping[str, Thresholds],
    provenance: Provenance,
) -> Verdict:
    """Apply a policy to the findings of one item's contents.

    A category's score is its highest over the contents. Each finding is held against the
    thresholds of the bundle that made it, and the one that speaks for the item gives the verdict
    its bundle. Where the policy asks the overall question,
    a category is flagged only along with it: the categories say what an unsafe item is about, and
    do not overrule the head that was taught to tell unsafe from safe. Toxicity and attack are
    questions of their own and need no company.

    Args:
        findings: one per content; none (an empty conversation) is allowed.
        policy: whose rules apply; names without a score in the findings are left out.
        own: the bundle's thresholds by head, for what the policy leaves open; a second opinion
            brings its own.
        provenance: goes into the verdict, with the bundle of a second opinion that decided.
    """
    actions = [Action.ALLOW]
    # Of several contents the one furthest above (or least below) its threshold speaks for the item.
    speaker = max(findings, key=lambda f: f.overall, default=None)
    threshold = None
    unsafe = policy.overall is None

    def limits_of(finding: Finding, name: str, rule: Rule) -> Thresholds:
        return rule.resolve((finding.second.thresholds if finding.second else own)[name])

    if policy.overall is not None and findings:
        judged = [(f, limits_of(f, f.question, policy.overall)) for f in findings]
        speaker, limits = max(judged, key=lambda pair: pair[0].overall - pair[1].flag)
        threshold = limits.flag
        actions += [_action(f.overall, limit) for f, limit in judged]
        unsafe = any(f.overall >= limit.flag for f, limit in judged)

    def scored(name: str, rule: Rule, values: Sequence[tuple[Finding, float]]) -> CategoryScore:
        judged = [(value, limits_of(f, name, rule)) for f, value in values]
        value, limits = max(judged, key=lambda pair: pair[0] - pair[1].flag)
        counts = unsafe or name in (ATTACK, TOXICITY)
        if counts:
            actions.extend(_action(*pair) for pair in judged)
        return CategoryScore(value, counts and value >= limits.flag, limits.flag)

    categories: dict[str, CategoryScore] = {}
    attack: CategoryScore | None = None
    for name, rule in policy.categories.items():
        if name == ATTACK:
            if values := [(f, f.attack) for f in findings if f.attack is not None]:
                attack = scored(name, rule, values)
        elif values := [(f, f.categories[name]) for f in findings if name in f.categories]:
            categories[name] = scored(name, rule, values)

    action = max(actions, key=list(Action).index)
    shown = {name for name, c in categories.items() if c.flagged}
    shown |= {UNSAFE} if unsafe and policy.overall is not None else set()
    shown |= {ATTACK} if attack is not None and attack.flagged else set()
    return Verdict(
        flagged=action is not Action.ALLOW,
        action=action,
        score=speaker.overall if speaker is not None else 0.0,
        threshold=threshold,
        categories=categories,
        attack=attack,
        evidence=[e for f in findings for e in f.evidence if e.category in shown],
        windows=sum(f.windows for f in findings),
        tokens=sum(f.tokens for f in findings),
        provenance=_who(provenance, speaker),
        second_opinion=next((f.missed for f in findings if f.missed), None)
        or ("given" if any(f.second for f in findings) else None),
    )


def withhold(verdict: Verdict) -> Verdict:
    """The verdict of a policy that only scores: nothing flagged, every score and threshold kept."""

    def scored(found: CategoryScore) -> CategoryScore:
        return replace(found, flagged=False)

    return replace(
        verdict,
        flagged=False,
        action=Action.ALLOW,
        categories={name: scored(found) for name, found in verdict.categories.items()},
        attack=None if verdict.attack is None else scored(verdict.attack),
        withheld=verdict.action,
    )


def _who(first: Provenance, speaker: Finding | None) -> Provenance:
    if speaker is None or (second := speaker.second) is None:
        return first
    return replace(first, model=second.model, bundle=second.bundle)


def _action(score: float, limits: Thresholds) -> Action:
    if score >= limits.block:
        return Action.BLOCK
    return Action.FLAG if score >= limits.flag else Action.ALLOW
