"""``POST /request`` and ``POST /response``: the prompt-guard webhook of agentgateway and kgateway.

The gateway tells its answers apart by their shape: a rewrite has messages or choices for a body, a
refusal a text and a status, what passes has neither.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import Request
from pydantic import TypeAdapter
from starlette.responses import Response

from service.dialects.answers import GUARD
from service.dialects.chat import TAGS, ChatRequest, ChatResponse
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, refusal_of, verdict_of
from service.dialects.rewriting import response, rewritten
from service.moderation.moderator import moderator_of
from tamis.content import Asked, Content

router = Dialect(hook=True)
REFUSED: Final = 403


class OnRequest(Loose):
    """What a user sends to a model."""

    body: ChatRequest


class OnResponse(Loose):
    """What a model answers; its request is not sent along."""

    body: ChatResponse


REQUEST: Final = TypeAdapter(OnRequest)
RESPONSE: Final = TypeAdapter(OnResponse)


@router.judges("/request", REQUEST, GUARD)
async def on_request(request: Request) -> Response:
    """Judge what is asked."""
    given = (await body_of(request, REQUEST, TAGS)).body
    return await _answer(request, given.asked)


@router.judges("/response", RESPONSE, GUARD)
async def on_response(request: Request) -> Response:
    """Judge the answers alone."""
    given = (await body_of(request, RESPONSE, TAGS)).body
    return await _answer(request, given.answered(Asked()))


async def _answer(request: Request, contents: Sequence[Content]) -> Response:
    """Pass, reject, or rewrite."""
    policy = moderator_of(request).policy(request)
    verdict = await verdict_of(request, contents, policy, "body")
    action: dict[str, Any] = {"reason": verdict.action.value}
    if blocks(verdict):
        said = refusal_of(verdict)
        action = {"body": said, "status_code": REFUSED, "reason": said}
    elif (masked := await rewritten(request, ("body",), contents, policy, verdict)) is not None:
        action = {"body": masked, "reason": "masked"}
    return response({"action": action})
