"""``POST /beta/litellm_basic_guardrail_api``: LiteLLM's generic guardrail.

What is judged follows the hook: on the way in what the user asks and what tools said, on the way
out the answer alone, in the light of what was asked in the same call (LiteLLM sends an answer
without its request, so that is remembered).
"""

from typing import Any, Final, Literal

from fastapi import Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.calls import Calls, Key, calls_of
from service.dialects.chat import Call, ChatRequest, Message, said
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, refusal_of, verdict_of
from tamis import content
from tamis.content import Asked, Content
from tamis.verdict import Verdict

router = Dialect(hook=True)


class Params(Loose):
    """Of ``additional_provider_specific_params``, in LiteLLM's configuration, what is ours."""

    policy: str | dict[str, Any] | None = None
    judge: Literal["document"] | None = None
    """For guardrails of MCP tools, whose texts nobody asks: they came from outside."""


class GuardrailRequest(Loose):
    """The body of ``POST /beta/litellm_basic_guardrail_api``."""

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    structured_messages: list[Message] | None = None
    tool_calls: list[Call] | None = None
    litellm_call_id: str | None = None
    additional_provider_specific_params: Params | None = None


BODY: Final = TypeAdapter(GuardrailRequest)
TAGS: Final = frozenset({"str", "list[Part]", "dict[str,any]"})


@router.judges("/beta/litellm_basic_guardrail_api", BODY)
async def guardrail(request: Request) -> JSONResponse:
    """Judge one side of a call."""
    body = await body_of(request, BODY, TAGS)
    given = body.additional_provider_specific_params or Params()
    contents = contents_of(body, given, calls_of(request), _key(request, body.litellm_call_id))
    return JSONResponse(answer_json(await verdict_of(request, contents, given.policy)))


def contents_of(
    body: GuardrailRequest, given: Params, calls: Calls, call: Key | None
) -> tuple[Content, ...]:
    """What is judged; a request is noted, for the answer to come."""
    texts = body.texts or []
    if given.judge == "document":
        return tuple(content.document(t, field=f"texts[{n}]") for n, t in enumerate(texts))
    if body.input_type == "response":
        last = Asked() if call is None else calls.asked(call)
        found = [
            content.response(text, last.request, f"texts[{n}]", last.earlier)
            for n, text in enumerate(texts)
            if text
        ]
        for n, made in enumerate(body.tool_calls or ()):
            arguments = said(None if made.function is None else made.function.arguments)
            if arguments:
                found.append(content.document(arguments, last.request, content.call_field(n)))
        return tuple(found)
    if body.structured_messages:
        chat = ChatRequest(messages=body.structured_messages)
        if call is not None and chat.request.request:
            calls.keep(call, chat.request)
        return chat.asked
    if call is not None and texts:
        calls.keep(call, Asked(texts[-1]))
    return tuple(content.prompt(text, f"texts[{n}]") for n, text in enumerate(texts))


def answer_json(verdict: Verdict) -> dict[str, Any]:
    """Block or pass. LiteLLM takes ``texts`` for a rewrite even with ``NONE``: none are sent."""
    if blocks(verdict):
        return {"action": "BLOCKED", "blocked_reason": refusal_of(verdict)}
    return {"action": "NONE"}


def _key(request: Request, call: str | None) -> Key | None:
    caller = request.state.caller
    return None if not call else (None if caller is None else caller.id, call)
