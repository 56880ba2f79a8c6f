"""A verdict in the names of another taxonomy."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.errors import RequestError
from tamis.policy import Policy
from tamis.taxonomy import ATTACK, taxonomy
from tamis.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Told:
    """What a verdict says of a foreign category; ``score`` is None where nothing answers for it."""

    flagged: bool
    score: float | None


def told(verdict: Verdict, table: str, names: Collection[str] | None = None) -> dict[str, Told]:
    """Every category of a crosswalk, or those of ``names``, in its order."""
    found = dict(verdict.categories)
    if verdict.attack is not None:
        found[ATTACK] = verdict.attack
    scores = {name: category.score for name, category in found.items()}
    flagged = {name for name, category in found.items() if category.flagged}
    return {
        name: Told(False, None) if rule is None else Told(rule.holds(flagged), rule.score(scores))
        for name, rule in taxonomy().crosswalk[table].items()
        if names is None or name in names
    }


def require(policy: Policy, own: Collection[str], table: str) -> None:
    """Refuse a policy that cannot be told in a contract that has nothing but categories.

    ``own`` are the heads of the bundle.

    Raises:
        RequestError: where the policy has no category, of those, that answers for one of them.
    """
    known = {name: 0.0 for name in policy.categories if name in own}
    rules = taxonomy().crosswalk[table].values()
    if not any(rule is not None and rule.score(known) is not None for rule in rules):
        raise RequestError(
            f"policy: {policy.name!r} has no category that this contract could answer with",
            param="policy",
            code="invalid_policy",
        )


def standing_in(verdict: Verdict, said: Mapping[str, Told]) -> str | None:
    """The category that has to speak for a harmful item of which no category is flagged.

    A classifier may know that a text is harmful, and not of which kind. Contracts that have nothing
    but categories would let it pass.
    """
    if not is_harmful(verdict) or any(one.flagged for one in said.values()):
        return None
    scores = {name: one.score for name, one in said.items() if one.score is not None}
    return max(scores, key=lambda name: scores[name], default=None)


def is_harmful(verdict: Verdict) -> bool:
    """Whether something else than an attack is flagged."""
    overall = any(
        field.flagged and field.threshold is not None and field.score >= field.threshold
        for field in verdict.fields.values()
        if field.question != ATTACK
    )
    return overall or any(category.flagged for category in verdict.categories.values())


def reason_of(verdict: Verdict) -> str:
    """What a verdict found, in a few words that quote nothing: ``violence 0.97, attack 0.31``."""
    found = {name: c.score for name, c in verdict.categories.items() if c.flagged}
    if verdict.attack is not None and verdict.attack.flagged:
        found[ATTACK] = verdict.attack.score
    if not found:
        return f"unsafe {verdict.score:.2f}"
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {score:.2f}" for name, score in ordered)
