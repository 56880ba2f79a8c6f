"""What gateways' hooks have in common: one item, judged, and blocked or not."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from service.dialects.crosswalk import reason_of
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content
from tamis.policy import Policy
from tamis.verdict import Action, Verdict


async def verdict_of(
    request: Request, contents: Sequence[Content], policy: Policy | None = None, name: str = ""
) -> Verdict:
    """The verdict of what a hook was given; ``name`` is what of the body has these contents.

    Which side is judged is the hook's to say, so a policy's ``judge`` does not count here.

    Raises:
        RequestError, ClientDisconnect: as ``Moderator.judge``.
    """
    moderator = moderator_of(request)
    policy = policy or moderator.policy(request)
    judged = await moderator.judge(request, [(name, contents)], policy)
    return judged.verdicts[0]


def of_nobody(text: str, policy: Policy, field: str = "text") -> Content:
    """A text of a contract that does not say whose it is: a prompt, unless the policy says so.

    So that rails for answers and for what was retrieved can be had of classifiers and detectors.
    """
    sides = policy.judge or ("prompt",)
    if "prompt" in sides:
        return content.prompt(text, field)
    return (
        content.response(text, "", field)
        if "response" in sides
        else content.document(text, None, field)
    )


def blocks(verdict: Verdict) -> bool:
    """Whether a hook stops it. What is only flagged passes, and shows in logs and metrics."""
    return verdict.action is Action.BLOCK


def refusal_of(verdict: Verdict) -> str:
    """What a user may be told."""
    return f"Blocked by the moderation policy: {reason_of(verdict)}"


def data_of(verdict: Verdict) -> dict[str, Any]:
    """What a gateway may log: the verdict in short."""
    return {
        "action": verdict.action.value,
        "flagged": verdict.flagged,
        "severity": verdict.severity.value,
        "score": round(verdict.score, 4),
        "reason": reason_of(verdict) if verdict.flagged else None,
        "fields": {name: field.action.value for name, field in verdict.fields.items()},
        "policy": f"{verdict.provenance.policy}@{verdict.provenance.policy_version}",
        "model": f"{verdict.provenance.model}@{verdict.provenance.bundle[:12]}",
    }
