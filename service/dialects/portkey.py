"""``POST /portkey``: a webhook guardrail of Portkey's gateway.

The gateway lets a request through where the webhook fails or is late, unless told otherwise. Under
a policy that masks, it is given the request or the answer rewritten.
"""

from typing import Any, Final, Literal

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import Response

from service.dialects.answers import WEBHOOK
from service.dialects.chat import TAGS, ChatRequest, ChatResponse, words_of
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, data_of, verdict_of
from service.dialects.rewriting import response, rewritten
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content

router = Dialect(hook=True)


class Sent(Loose):
    """The request to the model: as it was sent, and its last text.

    The gateway takes what it finds for that text, which may be parts, or a completion's list.
    """

    body: ChatRequest | None = Field(None, alias="json")
    text: Any = None


class Received(Loose):
    """The model's response, likewise."""

    body: ChatResponse | None = Field(None, alias="json")
    text: Any = None


class HookRequest(Loose):
    """The body that Portkey sends."""

    event: Literal["beforeRequestHook", "afterRequestHook"] = Field(alias="eventType")
    request: Sent
    response: Received | None = None


BODY: Final = TypeAdapter(HookRequest)


@router.judges("/portkey", BODY, WEBHOOK)
async def webhook(request: Request) -> Response:
    """Judge what the event is about."""
    body = await body_of(request, BODY, TAGS)
    contents, policy = contents_of(body), moderator_of(request).policy(request)
    side = "request" if body.event == "beforeRequestHook" else "response"
    # The text alone has its whole name.
    alone = any(one.field == f"{side}.text" for one in contents)
    verdict = await verdict_of(request, contents, policy, "" if alone else f"{side}.json")
    answer: dict[str, Any] = {"verdict": not blocks(verdict), "data": data_of(verdict)}
    if answer["verdict"]:
        masked = await rewritten(request, (side, "json"), contents, policy, verdict)
        if masked is not None:
            answer["transformedData"] = {side: {"json": masked}}
    return response(answer)


def contents_of(body: HookRequest) -> tuple[Content, ...]:
    """Before a request what is asked, after it the answer alone."""
    asked, said = body.request, body.response or Received()
    sent, text = asked.body or ChatRequest(), words_of(asked.text)
    if body.event == "beforeRequestHook":
        return sent.asked or ((content.prompt(text, "request.text"),) if text else ())
    last = sent.request if sent.request.request else content.Asked(text)
    if found := () if said.body is None else said.body.answered(last):
        return found
    if not (answer := words_of(said.text)):
        return ()
    return (content.response(answer, last.request, "response.text", last.earlier),)
