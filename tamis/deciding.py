"""What a policy makes of what was found: the verdict on an item, and what to say of it."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from tamis.policy import Policy, Rule, Thresholds
from tamis.reading import TRANSFORMS
from tamis.taxonomy import ATTACK, DOCUMENT, REFUSAL, SEVERITY, TOXICITY
from tamis.verdict import (
    BORDERLINE,
    UNSAFE,
    Action,
    CategoryScore,
    Evidence,
    FieldVerdict,
    Finding,
    Provenance,
    Severity,
    Verdict,
)

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Breach:
    """What a verdict comes to in words: of which content to speak, and of which category.

    ``category`` is None where nothing is broken, and where something is that has no category.
    """

    at: int
    """The content's place among the item's."""
    broken: bool
    category: str | None
    probability: float
    """The highest of all that the policy asks of the content, attacks aside."""
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Read:
    """One content's finding under a policy."""

    finding: Finding
    verdict: FieldVerdict
    scores: Mapping[str, CategoryScore]
    """Of categories and attack."""
    shown: Collection[str]
    """Labels that are flagged, or whose evidence is shown."""
    evidence: Sequence[Evidence]
    """What is shown of it."""

    @property
    def margin(self) -> float:
        """How far its overall score lies above its threshold."""
        return self.verdict.score - (self.verdict.threshold or 0.0)


def decide(
    findings: Sequence[Finding],
    policy: Policy,
    own: Mapping[str, Thresholds],
    provenance: Provenance,
) -> Verdict:
    """Apply a policy to the findings of one item's contents.

    Every content is judged on its own, by the thresholds of the bundle that judged it, and the item
    is as bad as its worst content; where two bundles judged a content, so is that. A category's
    score is the one furthest above its threshold. Where the policy asks the overall question, a
    category is flagged only along with it: the categories say what an unsafe content is about, and
    do not overrule the head that was taught to tell unsafe from safe. Toxicity, attack, and what a
    policy asks beyond the taxonomy are questions of their own and need no company.

    Args:
        findings: one per content; none (an empty conversation) is allowed.
        policy: whose rules apply; names without a score in the findings are left out.
        own: the bundle's thresholds by head, for what the policy leaves open; a second opinion
            brings its own.
        provenance: goes into the verdict, with the bundle of a second opinion that decided.
    """
    read = [_judged(finding, policy, own) for finding in findings]
    verdicts = [one.verdict for one in read]
    # Of several contents the one furthest above (or least below) its threshold speaks for the item.
    speaker = max(read, key=lambda one: one.margin, default=None)
    loudest = None if speaker is None else speaker.verdict
    action = _worst(Action, (v.action for v in verdicts))
    who = _who(provenance, None if speaker is None else speaker.finding)
    fields = {}
    for one in read:
        by = _who(provenance, one.finding)
        fields[one.finding.field] = (
            one.verdict if by == who else replace(one.verdict, provenance=by)
        )
    scores: dict[str, CategoryScore] = {}
    for name in dict.fromkeys([*policy.categories, ATTACK]):
        if found := [one.scores[name] for one in read if name in one.scores]:
            scores[name] = _highest(found)
    attack = scores.pop(ATTACK, None)
    return Verdict(
        flagged=action is not Action.ALLOW,
        action=action,
        score=0.0 if loudest is None else loudest.score,
        threshold=None if loudest is None else loudest.threshold,
        categories=scores,
        attack=attack,
        evidence=[e for one in read for e in one.evidence],
        windows=sum(f.windows for f in findings),
        tokens=sum(f.tokens for f in findings),
        provenance=who,
        second_opinion=next((f.missed for f in findings if f.missed), None)
        or ("given" if any(f.second and f.second.role == "accurate" for f in findings) else None),
        severity=_worst(Severity, (v.severity for v in verdicts)),
        fields=fields,
        transforms=_together([f.transforms for f in findings]),
        encoder=next(
            (
                replace(provenance, model=f.ruled.by.model, bundle=f.ruled.by.bundle)
                for f in findings
                if f.ruled is not None
            ),
            None,
        ),
    )


def breach(
    findings: Sequence[Finding], policy: Policy, own: Mapping[str, Thresholds]
) -> Breach | None:
    """What to say of an item in words; None where there is nothing to speak of.

    That is of the content that breaks the policy most, and of the category in which it does. Of
    documents nothing is said, nor of attacks.
    """
    found = [
        _breach(at, _judged(finding, policy, own))
        for at, finding in enumerate(findings)
        if finding.question != ATTACK and finding.windows
    ]
    return max(found, key=lambda one: (one[0].broken, one[1]), default=(None, 0.0))[0]


def _breach(at: int, read: _Read) -> tuple[Breach, float]:
    """What to say of a content, and how far the highest of its scores is above its threshold."""
    scores = {name: score for name, score in read.scores.items() if name != ATTACK}
    margins = {name: one.score - one.threshold for name, one in scores.items()}
    flagged = [name for name, one in scores.items() if one.flagged]
    broken = bool(set(read.shown) - {ATTACK})
    # What the overall question alone finds is spoken of as what it is likeliest to be.
    category = max(flagged or margins, key=margins.__getitem__, default=None) if broken else None
    highest, probabilities = list(margins.values()), [one.score for one in scores.values()]
    if read.verdict.threshold is not None:
        highest.append(read.margin)
        probabilities.append(read.verdict.score)
    return (
        Breach(
            at,
            broken,
            category,
            max(probabilities, default=0.0),
            {name: one.score for name, one in scores.items()},
        ),
        max(highest, default=0.0),
    )


def _judged(finding: Finding, policy: Policy, own: Mapping[str, Thresholds]) -> _Read:
    """What a policy makes of one content, by the thresholds of the bundle that judged it.

    Where two did, the one speaks of which it makes more; what the other finds is not lost.
    """
    read = []
    for one in finding.opinions:
        limits = one.limits(own)
        read.append(_read(as_answered(one), policy, limits))
    if len(read) == 1:
        return read[0]
    actions = list(Action)
    said = max(read, key=lambda one: (actions.index(one.verdict.action), one.margin))
    severity = _worst(Severity, (one.verdict.severity for one in read))
    names = dict.fromkeys(name for one in read for name in one.scores)
    return replace(
        said,
        verdict=replace(said.verdict, severity=severity),
        scores={
            name: _highest([one.scores[name] for one in read if name in one.scores])
            for name in names
        },
        shown={name for one in read for name in one.shown},
        evidence=[e for one in read for e in one.evidence],
    )


def louder(first: Finding, other: Finding, own: Mapping[str, Thresholds]) -> Finding:
    """Of two findings of one content the one further above its own bundle's flag thresholds.

    That is of its question or of attack; ``own`` are the thresholds of a finding that names no
    other bundle. It holds the other one: a policy may ask what that alone has found.
    """

    def margin(finding: Finding) -> float:
        limits = finding.limits(own)
        said = as_answered(finding)
        found = said.overall - limits[asked_of(said, limits)].flag
        if said.attack is None or said.question == ATTACK:
            return found
        return max(found, said.attack - limits[ATTACK].flag)

    if margin(other) > margin(first):
        first, other = other, first
    return replace(first, other=other)


def asked_of(finding: Finding, known: Container[str]) -> str:
    """The name of what a finding's overall score answers, of those that are known."""
    return DOCUMENT if finding.question == ATTACK and DOCUMENT in known else finding.question


def as_answered(finding: Finding) -> Finding:
    """A response's finding in the light of its refusal.

    To decline is safe by definition, so a response is unsafe, or borderline, where what it says is
    and it does not decline: P(unsafe) = P(question) * (1 - P(refusal)). Of answers that declined
    and were held out, the few that score high are so told from unsafe ones at a lower threshold.
    ``Finding.refusal`` is that of the window that declines least, so that neither a polite opening
    nor an answer that goes on behind it passes for a refusal; and no score becomes zero: a policy
    with low thresholds still hears what the response's own question says.
    """
    if finding.refusal is None:
        return finding
    share = 1 - finding.refusal
    return replace(
        finding,
        overall=finding.overall * share,
        categories={name: score * share for name, score in finding.categories.items()},
        severity=None if finding.severity is None else finding.severity * share,
    )


def _read(finding: Finding, policy: Policy, own: Mapping[str, Thresholds]) -> _Read:
    """What a policy makes of one content."""

    def limits_of(name: str, rule: Rule) -> Thresholds:
        return rule.resolve(own[name].at(policy.sensitivity))

    if finding.question == ATTACK:
        rule = policy.categories.get(ATTACK, Rule())
        return _read_document(finding, policy, limits_of(asked_of(finding, own), rule))
    # How bad a content is can be told by a policy, too, that does not ask the overall question.
    overall = limits_of(finding.question, policy.overall or Rule())
    severity = _severity(finding, overall, limits_of)
    actions, shown = [Action.ALLOW], set[str]()
    if policy.overall is not None:
        actions.append(_action(finding.overall, overall))
        if severity is Severity.UNSAFE:
            shown.add(UNSAFE)
    if severity is not Severity.SAFE and policy.severity.borderline != "allow":
        # What is worse than borderline fares no better.
        actions.append(Action(policy.severity.borderline))
        shown.add(UNSAFE if severity is Severity.UNSAFE else BORDERLINE)
    unsafe = severity is Severity.UNSAFE or policy.overall is None
    scores: dict[str, CategoryScore] = {}
    for name, rule in policy.categories.items():
        score = finding.attack if name == ATTACK else finding.categories.get(name)
        if score is None:
            continue
        limits = limits_of(name, rule)
        flagged = score >= limits.flag and (unsafe or name in (ATTACK, TOXICITY))
        scores[name] = CategoryScore(score, flagged, limits.flag)
        if flagged:
            actions.append(_action(score, limits))
            shown.add(name)
    for name, score, limits in _rules(finding, policy):
        # A question of its own each, which the overall one has no say in.
        scores[name] = _reached(score, limits.flag)
        if scores[name].flagged:
            actions.append(_action(score, limits))
            shown.add(name)

    action = _worst(Action, actions)
    declines = finding.refusal
    verdict = FieldVerdict(
        question=finding.question,
        flagged=action is not Action.ALLOW,
        action=action,
        score=finding.overall,
        threshold=None if policy.overall is None else overall.flag,
        severity=severity,
        refusal=None if declines is None else _reached(declines, own[REFUSAL].flag),
        transforms=finding.transforms,
    )
    return _Read(finding, verdict, scores, shown, _shown(finding, shown))


def _rules(finding: Finding, policy: Policy) -> Iterator[tuple[str, float, Thresholds]]:
    """The policy's own categories as the policy encoder scored them, and their thresholds."""
    if (ruled := finding.ruled) is None:
        return
    own = ruled.by.thresholds[finding.question].at(policy.sensitivity)
    for rule in policy.rules:
        if (score := ruled.scores.get(rule)) is not None:
            yield rule.name, score, policy.categories[rule.name].resolve(own)


def _read_document(finding: Finding, policy: Policy, limits: Thresholds) -> _Read:
    """What a policy makes of a document: of its attack, by the policy's rule for attacks.

    A policy that asks no more than the overall question asks this of documents, too; the thresholds
    it gives there are those of harm, and not meant.
    """
    found = _reached(finding.overall, limits.flag)
    asks = ATTACK in policy.categories or policy.overall is not None
    action = _action(finding.overall, limits) if asks else Action.ALLOW
    verdict = FieldVerdict(
        question=finding.question,
        flagged=action is not Action.ALLOW,
        action=action,
        score=finding.overall,
        threshold=limits.flag if asks else None,
        severity=Severity.UNSAFE if found.flagged else Severity.SAFE,
        transforms=finding.transforms,
    )
    shown = {ATTACK} if asks else set[str]()
    scores = {ATTACK: found} if asks else {}
    return _Read(finding, verdict, scores, shown, _shown(finding, shown))


def _shown(finding: Finding, labels: Container[str]) -> Sequence[Evidence]:
    return [e for e in finding.evidence if e.category in labels]


def _severity(
    finding: Finding, overall: Thresholds, limits_of: Callable[[str, Rule], Thresholds]
) -> Severity:
    if finding.overall >= overall.flag:
        return Severity.UNSAFE
    if finding.severity is None or finding.severity < limits_of(SEVERITY, Rule()).flag:
        return Severity.SAFE
    return Severity.BORDERLINE


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
        fields={
            name: replace(field, flagged=False, action=Action.ALLOW, withheld=field.action)
            for name, field in verdict.fields.items()
        },
        withheld=verdict.action,
    )


def _highest(found: Sequence[CategoryScore]) -> CategoryScore:
    """Of several scores of one category the one furthest above its threshold."""
    highest = max(found, key=lambda f: f.score - f.threshold)
    return replace(highest, flagged=any(f.flagged for f in found))


def _reached(score: float, flag: float) -> CategoryScore:
    return CategoryScore(score, score >= flag, flag)


def _worst(kind: type[E], found: Iterable[E]) -> E:
    order = list(kind)
    return max(found, key=order.index, default=order[0])


def _together(transforms: Sequence[Sequence[str]]) -> Sequence[str]:
    fired = {name for names in transforms for name in names}
    return tuple(name for name in TRANSFORMS if name in fired) if fired else ()


def _who(first: Provenance, speaker: Finding | None) -> Provenance:
    if speaker is None or (second := speaker.second) is None:
        return first
    return replace(first, model=second.model, bundle=second.bundle)


def _action(score: float, limits: Thresholds) -> Action:
    if score >= limits.block:
        return Action.BLOCK
    return Action.FLAG if score >= limits.flag else Action.ALLOW
