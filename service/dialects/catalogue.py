"""``GET /policies``: the policies that may be named, with the thresholds that hold."""

from dataclasses import asdict
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from service.dialects.dialect import Dialect
from service.moderation.moderator import POLICY, moderator_of, name_in
from tamis.bundle import Bundle
from tamis.content import Question
from tamis.policy import Policy
from tamis.rules import PolicyEncoder
from tamis.taxonomy import taxonomy

# What the overall question is, by content; of a document the rule for attacks decides.
OVERALL: Final[tuple[Question, ...]] = ("prompt", "response", "toxicity")

router = Dialect()


@router.get("/policies")
async def policies(request: Request) -> JSONResponse:
    """Every policy offered by name, and the caller's default."""
    moderator = moderator_of(request)
    bundle, rulings = moderator.loaded().bundle, moderator.rulings
    encoder = None if rulings is None else rulings.encoder.bundle
    offered = moderator.configuration.policies
    asked = moderator.configuration.policy(name_in(request.headers, POLICY), request.state.caller)
    return JSONResponse(
        {
            "default": asked.name,
            "policies": [policy_json(policy, bundle, encoder) for policy in offered.values()],
        }
    )


def policy_json(
    policy: Policy, bundle: Bundle, encoder: PolicyEncoder | None = None
) -> dict[str, Any]:
    """A policy as it decides on a bundle; thresholds are null for what nobody scores.

    ``own`` are the categories that the policy alone has, and the encoder judges, where there is
    one; their thresholds are those of prompts. ``defined`` are those whose definition is its own,
    and not the taxonomy's. ``given`` are the thresholds that a policy itself says: the others are
    the bundle's, and another bundle that judges has its own. ``overall`` has thresholds for each of
    the questions: of a prompt, a response, and a plain text.

    Whoever edits a policy begins with this: what is not here is lost to them.
    """
    own = {name: t.at(policy.sensitivity) for name, t in bundle.thresholds.items()}
    if encoder is not None:
        limits = encoder.head("prompt").thresholds.at(policy.sensitivity)
        own |= dict.fromkeys(policy.own, limits)
    categories: dict[str, Any] = {}
    for name, rule in policy.categories.items():
        held = asdict(rule.resolve(own[name])) if name in own else {"flag": None, "block": None}
        definition = rule.definition or taxonomy().definition(name)
        said = ("flag", rule.flag), ("block", rule.block)
        given = {which: value for which, value in said if value is not None}
        categories[name] = {"definition": definition, **held, "given": given}
    overall = policy.overall
    return {
        "name": policy.name,
        "version": policy.version,
        "description": policy.description,
        "mode": policy.mode,
        "deadline_ms": policy.deadline_ms,
        "shadow": policy.shadow,
        "sensitivity": policy.sensitivity,
        "severity": asdict(policy.severity),
        "judge": policy.judge,
        "mask": policy.mask and asdict(policy.mask),
        "own": policy.own,
        "defined": [name for name, rule in policy.categories.items() if rule.definition],
        "overall": overall and {q: asdict(overall.resolve(own[q])) for q in OVERALL},
        "categories": categories,
    }
