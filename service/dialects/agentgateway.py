"""``POST /request`` and ``POST /response``: the prompt-guard webhook of agentgateway and kgateway.

The gateway tells its answers apart by their shape, so a refusal has a status and no message list.
"""

from typing import Any, Final

from fastapi import Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.answers import GUARD
from service.dialects.chat import ChatRequest, ChatResponse
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, refusal_of, verdict_of
from tamis.content import Asked
from tamis.verdict import Verdict

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
TAGS: Final = frozenset({"str", "list[Part]", "list[str]", "list[union[str,Message]]", "Message"})


@router.judges("/request", REQUEST, GUARD)
async def on_request(request: Request) -> JSONResponse:
    """Judge what is asked."""
    given = (await body_of(request, REQUEST, TAGS)).body
    return JSONResponse(answer_json(await verdict_of(request, given.asked)))


@router.judges("/response", RESPONSE, GUARD)
async def on_response(request: Request) -> JSONResponse:
    """Judge the answers alone."""
    given = (await body_of(request, RESPONSE, TAGS)).body
    return JSONResponse(answer_json(await verdict_of(request, given.answered(Asked()))))


def answer_json(verdict: Verdict) -> dict[str, Any]:
    """Pass or reject."""
    said = refusal_of(verdict) if blocks(verdict) else verdict.action.value
    if not blocks(verdict):
        return {"action": {"reason": said}}
    return {"action": {"body": said, "status_code": REFUSED, "reason": said}}
