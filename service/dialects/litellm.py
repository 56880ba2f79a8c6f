"""``POST /beta/litellm_basic_guardrail_api``: LiteLLM's generic guardrail.

What is judged follows the hook: on the way in what the user asks and what tools said, on the way
out the answer alone, in the light of what was asked in the same call (LiteLLM sends an answer
without its request, so that is remembered). Of an answer that streams LiteLLM sends all there is
every few chunks, and does not say which is the last: each is judged to its end, and what was read
before is not run again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from fastapi import Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.answers import GUARDRAIL
from service.dialects.calls import Calls, Key, calls_of
from service.dialects.chat import Call, ChatRequest, Message
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import blocks, refusal_of, verdict_of
from service.dialects.rewriting import shown_evidence
from service.dialects.written import check_written
from service.moderation.masking import holdback
from service.moderation.moderator import moderator_of
from service.moderation.streams import settled
from tamis import content
from tamis.content import Asked, Content
from tamis.policy import Policy
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


@router.judges("/beta/litellm_basic_guardrail_api", BODY, GUARDRAIL)
async def guardrail(request: Request) -> JSONResponse:
    """Judge one side of a call: it is blocked, passes, or passes with its texts masked."""
    body = await body_of(request, BODY, TAGS)
    given = body.additional_provider_specific_params or Params()
    check_written(await request.body(), given.policy, "additional_provider_specific_params")
    call = _key(request, body.litellm_call_id)
    contents = contents_of(body, given, calls_of(request), call)
    policy = moderator_of(request).policy(request, given.policy)
    verdict = await _verdict(request, body, contents, policy)
    if blocks(verdict):
        return JSONResponse({"action": "BLOCKED", "blocked_reason": refusal_of(verdict)})
    return JSONResponse(await _passed(request, body, contents, policy, verdict))


def contents_of(
    body: GuardrailRequest, given: Params, calls: Calls, call: Key | None
) -> tuple[Content, ...]:
    """What is judged; a request is noted, for the answer to come."""
    texts = body.texts or []
    if given.judge == "document":
        return tuple(content.document(t, field=_field(n)) for n, t in enumerate(texts))
    if body.input_type == "response":
        last = Asked() if call is None else calls.asked(call)
        found = [
            content.response(text, last.request, _field(n), last.earlier)
            for n, text in enumerate(texts)
            if text
        ]
        for n, made in enumerate(body.tool_calls or ()):
            if content.says_something(made.asked):
                found.append(content.document(made.asked, last.request, content.call_field(n)))
        return tuple(found)
    if body.structured_messages:
        chat = ChatRequest(messages=body.structured_messages)
        if call is not None and chat.request.request:
            calls.keep(call, chat.request)
        return tuple(replace(one, field=f"structured_{one.field}") for one in chat.asked)
    if call is not None and texts:
        calls.keep(call, Asked(texts[-1]))
    return tuple(content.prompt(text, _field(n)) for n, text in enumerate(texts))


async def _verdict(
    request: Request, body: GuardrailRequest, contents: Sequence[Content], policy: Policy
) -> Verdict:
    """An answer is judged as a text that may come again, longer, under its call's name."""
    quoted = policy.mask is not None and policy.mask.evidence
    # Evidence is made of what a memory does not keep.
    if body.input_type == "request" or not body.litellm_call_id or quoted:
        return await verdict_of(request, contents, policy)
    names = [f"{body.litellm_call_id}/{one.question}/{one.field}" for one in contents]
    judged = await moderator_of(request).streams.again(request, names, contents, policy)
    return judged.verdicts[0]


async def _passed(
    request: Request,
    body: GuardrailRequest,
    contents: Sequence[Content],
    policy: Policy,
    verdict: Verdict,
) -> dict[str, Any]:
    """What passes: masked where the policy wants that, and, of answers, how much to hold back.

    LiteLLM takes ``texts`` for a rewrite even with ``NONE``: they are sent if they changed.
    ``stream_holdback_chars`` counts from the end of the texts as they are sent: the word that is
    being written, or as much as may yet be masked otherwise. What LiteLLM has let out of a stream
    cannot be changed any more.
    """
    texts = body.texts or []
    rule = None if policy.mode == "score" else policy.mask
    answer: dict[str, Any] = {"action": "NONE"}
    held = [len(text) - settled(text) for text in texts]
    if rule is not None:
        shown = [content.plain(text, _field(n)) for n, text in enumerate(texts)]
        evidence = [*shown_evidence(verdict, contents, shown)]
        (masked,) = await moderator_of(request).mask(request, [shown], rule, [evidence])
        if any(one.spans for one in masked):
            answer = {"action": "GUARDRAIL_INTERVENED", "texts": [one.text for one in masked]}
        held = [holdback(*pair, rule) for pair in zip(shown, masked, strict=True)]
    if body.input_type == "response" and any(held):
        answer["stream_holdback_chars"] = held
    return answer


def _field(number: int) -> str:
    return f"texts[{number}]"


def _key(request: Request, call: str | None) -> Key | None:
    caller = request.state.caller
    return None if not call else (None if caller is None else caller.id, call)
