"""A verdict: what was found in an item, what the policy makes of it, and who says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from tamis.content import Question
from tamis.policy import Policy, Rule, Thresholds
from tamis.reading import TRANSFORMS
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
    transforms: Sequence[str] = ()
    """How the text was obfuscated, or why it could not be read: of ``tamis.reading.TRANSFORMS``."""


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
    transforms: Sequence[str] = ()
    """Those of all contents, each once, in the order in which they are undone."""


def decide(
    findings: Sequence[Finding],
    policy: Policy,
    own: Mapping[str, Thresholds],
    provenance: Provenance,
) -> Verdict:
    """Apply a policy to the findings of one item's contents.

    A category's score is its highest over the contents. Where the policy asks the overall question,
    a category is flagged only along with it: the categories say what an unsafe item is about, and
    do not overrule the head that was taught to tell unsafe from safe. Toxicity and attack are
    questions of their own and need no company.

    Args:
        findings: one per content; none (an empty conversation) is allowed.
        policy: whose rules apply; names without a score in the findings are left out.
        own: the bundle's thresholds by head, for what the policy leaves open.
        provenance: goes into the verdict as it is.
    """
    actions = [Action.ALLOW]
    # Of several contents the one furthest above (or least below) its threshold speaks for the item.
    score, threshold = max((f.overall for f in findings), default=0.0), None
    unsafe = policy.overall is None
    if policy.overall is not None and findings:
        judged = [(f.overall, policy.overall.resolve(own[f.question])) for f in findings]
        score, limits = max(judged, key=lambda pair: pair[0] - pair[1].flag)
        threshold = limits.flag
        actions += [_action(value, limit) for value, limit in judged]
        unsafe = any(value >= limit.flag for value, limit in judged)

    def scored(name: str, rule: Rule, values: Sequence[float]) -> CategoryScore:
        value, limits = max(values), rule.resolve(own[name])
        counts = unsafe or name in (ATTACK, TOXICITY)
        if counts:
            actions.append(_action(value, limits))
        return CategoryScore(value, counts and value >= limits.flag, limits.flag)

    categories: dict[str, CategoryScore] = {}
    attack: CategoryScore | None = None
    for name, rule in policy.categories.items():
        if name == ATTACK:
            if values := [f.attack for f in findings if f.attack is not None]:
                attack = scored(name, rule, values)
        elif values := [f.categories[name] for f in findings if name in f.categories]:
            categories[name] = scored(name, rule, values)

    action = max(actions, key=list(Action).index)
    shown = {name for name, c in categories.items() if c.flagged}
    shown |= {UNSAFE} if unsafe and policy.overall is not None else set()
    shown |= {ATTACK} if attack is not None and attack.flagged else set()
    return Verdict(
        flagged=action is not Action.ALLOW,
        action=action,
        score=score,
        threshold=threshold,
        categories=categories,
        attack=attack,
        evidence=[e for f in findings for e in f.evidence if e.category in shown],
        windows=sum(f.windows for f in findings),
        tokens=sum(f.tokens for f in findings),
        provenance=provenance,
        transforms=_together([f.transforms for f in findings]),
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


def _together(transforms: Sequence[Sequence[str]]) -> Sequence[str]:
    fired = {name for names in transforms for name in names}
    return tuple(name for name in TRANSFORMS if name in fired) if fired else ()


def _action(score: float, limits: Thresholds) -> Action:
    if score >= limits.block:
        return Action.BLOCK
    return Action.FLAG if score >= limits.flag else Action.ALLOW
