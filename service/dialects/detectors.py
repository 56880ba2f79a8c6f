"""``/api/v1/text/…``: the detector API of FMS and TrustyAI, OpenShift AI's guardrails.

A detection is a flagged category, with the words that decided; ``detector_params.threshold``, where
it is not 0, takes the place of the policy's thresholds. The header ``detector-id`` may name a
policy that is offered.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse, Response

from service.dialects.answers import DETECTION, listed
from service.dialects.chat import Message
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import of_nobody
from service.dialects.mistral import last_of
from service.errors import RequestError
from service.moderation.moderator import moderator_of, name_in
from tamis import content
from tamis.content import Content
from tamis.policy import Policy, Rule
from tamis.taxonomy import ATTACK
from tamis.verdict import UNSAFE, Verdict


def _refusal(error: RequestError) -> Response:
    said = {"code": error.status, "message": error.message}
    return JSONResponse(said, error.status, error.headers)


ERRORS: Final = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
}
router = Dialect(hook=True, refusal=_refusal, errors=ERRORS, below="/api/v1/text/")
DETECTOR: Final = "detector-id"


class Parameters(Loose):
    """What a caller may ask of a detector."""

    threshold: float | None = Field(None, ge=0, le=1)


class ContentsRequest(Loose):
    """Texts, each judged as a prompt, unless the policy's ``judge`` says what they are."""

    contents: list[str]
    detector_params: Parameters | None = None


class ChatRequest(Loose):
    """A conversation, whose last message is judged."""

    messages: list[Message] = Field(min_length=1)
    detector_params: Parameters | None = None


class GenerationRequest(Loose):
    """An answer, judged in the light of its prompt."""

    prompt: str
    generated_text: str
    detector_params: Parameters | None = None


CONTENTS: Final = TypeAdapter(ContentsRequest)
CHAT: Final = TypeAdapter(ChatRequest)
GENERATION: Final = TypeAdapter(GenerationRequest)
TAGS: Final = frozenset({"str", "list[Part]"})


@router.judges("/api/v1/text/contents", CONTENTS, listed(listed(DETECTION)))
async def contents(request: Request) -> JSONResponse:
    """Detections in each text."""
    body = await body_of(request, CONTENTS, TAGS)
    moderator_of(request).check_items(len(body.contents), "contents")
    policy = _policy(request, body.detector_params)
    items = [(f"contents[{n}]", (of_nobody(t, policy),)) for n, t in enumerate(body.contents)]
    verdicts = await _verdicts(request, items, policy)
    found = zip(body.contents, verdicts, strict=True)
    return JSONResponse([detections(text, verdict) for text, verdict in found])


@router.judges("/api/v1/text/chat", CHAT, listed(DETECTION))
async def chat(request: Request) -> JSONResponse:
    """Detections in the last message."""
    body = await body_of(request, CHAT, TAGS)
    items = [("", last_of(body.messages))]
    (verdict,) = await _verdicts(request, items, _policy(request, body.detector_params))
    return JSONResponse([_said(label, score) for label, score in flagged(verdict).items()])


@router.judges("/api/v1/text/generation", GENERATION, listed(DETECTION))
async def generation(request: Request) -> JSONResponse:
    """Detections in an answer."""
    body = await body_of(request, GENERATION, TAGS)
    judged = content.response(body.generated_text, body.prompt, "generated_text")
    policy = _policy(request, body.detector_params)
    (verdict,) = await _verdicts(request, [("", (judged,))], policy)
    return JSONResponse([_said(label, score) for label, score in flagged(verdict).items()])


def flagged(verdict: Verdict) -> dict[str, float]:
    """What a verdict flags, with its scores, the likeliest first."""
    found = {name: c.score for name, c in verdict.categories.items() if c.flagged}
    if verdict.attack is not None and verdict.attack.flagged:
        found[ATTACK] = verdict.attack.score
    if verdict.flagged and not found:
        found[UNSAFE] = verdict.score
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def detections(text: str, verdict: Verdict) -> list[dict[str, Any]]:
    """A detection for every span of evidence; over the whole text where a category has none."""
    found = []
    for label, score in flagged(verdict).items():
        spans = [(e.start, e.end) for e in verdict.evidence if e.category == label]
        for start, end in spans or [(0, len(text))]:
            span = {"start": start, "end": end, "text": text[start:end]}
            found.append(span | _said(label, score) | {"evidences": []})
    return found


def _said(label: str, score: float) -> dict[str, Any]:
    kind = "prompt_injection" if label == ATTACK else "risk"
    return {
        "detection": label,
        "detection_type": kind,
        "score": round(score, 6),
        "metadata": {},
    }


def _policy(request: Request, parameters: Parameters | None) -> Policy:
    moderator = moderator_of(request)
    policy = moderator.policy(request, moderator.offered(name_in(request.headers, DETECTOR)))
    if parameters is None or not parameters.threshold:
        return policy
    return at_threshold(policy, parameters.threshold)


async def _verdicts(
    request: Request, items: Sequence[tuple[str, Sequence[Content]]], policy: Policy
) -> list[Verdict]:
    return (await moderator_of(request).judge(request, items, policy, evidence=True)).verdicts


def at_threshold(policy: Policy, threshold: float) -> Policy:
    """A policy that flags everything it names from one score on."""
    everything = Rule(flag=threshold, block=threshold)
    # Definitions stay: by them a category of the policy's own is judged.
    categories = {
        name: replace(everything, definition=rule.definition)
        for name, rule in policy.categories.items()
    }
    overall = None if policy.overall is None else everything
    return replace(policy, overall=overall, categories=categories)
