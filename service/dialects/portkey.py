"""``POST /portkey``: a webhook guardrail of Portkey's gateway.

The gateway lets a request through where the webhook fails or is late, unless told otherwise.
"""

from typing import Final, Literal

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.answers import WEBHOOK
from service.dialects.chat import ChatRequest, ChatResponse
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, data_of, verdict_of
from tamis import content
from tamis.content import Content

router = Dialect(hook=True)


class Sent(Loose):
    """The request to the model: as it was sent, and its last text."""

    body: ChatRequest | None = Field(None, alias="json")
    text: str | None = None


class Received(Loose):
    """The model's response, likewise."""

    body: ChatResponse | None = Field(None, alias="json")
    text: str | None = None


class HookRequest(Loose):
    """The body that Portkey sends."""

    event: Literal["beforeRequestHook", "afterRequestHook"] = Field(alias="eventType")
    request: Sent
    response: Received | None = None


BODY: Final = TypeAdapter(HookRequest)
TAGS: Final = frozenset({"str", "list[Part]", "list[str]", "list[union[str,Message]]", "Message"})


@router.judges("/portkey", BODY, WEBHOOK)
async def webhook(request: Request) -> JSONResponse:
    """Judge what the event is about."""
    body = await body_of(request, BODY, TAGS)
    verdict = await verdict_of(request, contents_of(body))
    return JSONResponse({"verdict": not blocks(verdict), "data": data_of(verdict)})


def contents_of(body: HookRequest) -> tuple[Content, ...]:
    """Before a request what is asked, after it the answer alone."""
    asked, said = body.request, body.response or Received()
    sent = asked.body or ChatRequest()
    if body.event == "beforeRequestHook":
        return sent.asked or ((content.prompt(asked.text, "request.text"),) if asked.text else ())
    last = sent.request if sent.request.request else content.Asked(asked.text or "")
    if found := () if said.body is None else said.body.answered(last):
        return found
    if not said.text:
        return ()
    return (content.response(said.text, last.request, "response.text", last.earlier),)
