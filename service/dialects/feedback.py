"""``POST /feedback``: a person answers what the service has judged."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.dialect import Dialect, body_of, documented
from service.dialects.native import TAGS, Item, Strict, contents_of, verdict_json
from service.errors import RequestError
from service.feedback import feedback_of
from service.moderation.moderator import moderator_of
from tamis.content import Content
from tamis.corrections.record import CATEGORIES, Correction, CorrectionError, Label
from tamis.policy import Policy

router = Dialect()

# Names are shown in terminals and reports: no control characters, of which U+009B escapes, too.
PRINTED: Final = r"^[^\x00-\x1f\x7f-\x9f]+$"
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTED)]
MAX_COMMENT: Final = 2_000


class FeedbackRequest(Strict):
    """The body of ``POST /feedback``; at least one of label, attack and toxicity is given."""

    input: Item
    field: Name | None = Field(
        None,
        description='Which content is meant: "prompt" or "response", or a field as evidence names '
        "it; the response where there is one.",
    )
    label: Label | None = Field(
        None,
        description="Does the prompt ask for harm, does the response give it, is it toxic, does "
        "the document attack the model?",
    )
    categories: list[str] = Field(
        [],
        max_length=len(CATEGORIES),
        description="All that an unsafe content is about; leave it out where unsure.",
        json_schema_extra={"items": {"type": "string", "enum": list(CATEGORIES)}},
    )
    attack: bool | None = Field(None, description="Is the prompt a jailbreak or an injection?")
    toxicity: bool | None = Field(None, description="Is the prompt rude, whatever it asks for?")
    comment: str | None = Field(None, max_length=MAX_COMMENT)
    id: Name | None = Field(None, description="Id of the verdict that is corrected.")
    reviewer: Name | None = Field(None, description="Who says so.")
    policy: str | None = Field(None, description="Name of the policy to compare with.")


BODY: Final = TypeAdapter(FeedbackRequest)


@router.post("/feedback", status_code=201, openapi_extra=documented(BODY))
async def feedback(request: Request) -> JSONResponse:
    """Store a correction, with what the service itself says of the content now."""
    feedback_of(request).check()
    body = await body_of(request, BODY, TAGS)
    moderator = moderator_of(request)
    contents = contents_of(body.input)
    moderator.check_lengths([("input", contents)])
    correction = _correction(body, _meant(contents, body.field), request)
    kept = await keep(request, correction, moderator.policy(request, body.policy))
    return JSONResponse({"id": kept.id, "stored": True, "agrees": kept.agrees}, 201)


async def keep(
    request: Request, correction: Correction, policy: Policy, name: str = "input"
) -> Correction:
    """Judge what a correction is about, and store it with what the service says.

    ``name`` is where the request has it.

    Raises:
        RequestError: as ``Moderator.judge``; 503 where it cannot be stored.
    """
    items = [(name, [correction.content])]
    (verdict,) = (await moderator_of(request).judge(request, items, policy)).verdicts
    said = verdict_json(verdict, None, None)
    del said["id"], said["evidence"]
    correction = replace(correction, verdict=said, agrees=correction.agrees_with(verdict))
    await feedback_of(request).keep(correction)
    return correction


def _meant(contents: Sequence[Content], field: str | None) -> Content:
    """The content that a field names; the last one, which is the response, where none is named."""
    if not contents:
        raise RequestError("input: no message of it is ever judged", param="input")
    if field is None:
        return contents[-1]
    for content in reversed(contents):
        if field in (content.field, content.question):
            return content
    known = ", ".join(dict.fromkeys(content.field for content in contents))
    raise RequestError(f"field: this input has no such field; it has {known}", param="field")


def _correction(body: FeedbackRequest, content: Content, request: Request) -> Correction:
    caller = request.state.caller
    try:
        return Correction(
            content=content,
            time=datetime.now(UTC),
            label=body.label,
            attack=body.attack,
            toxicity=body.toxicity,
            categories=tuple(dict.fromkeys(body.categories)),
            comment=body.comment,
            reviewer=body.reviewer,
            key=None if caller is None else caller.name,
            verdict_id=body.id,
        )
    except CorrectionError as error:
        raise RequestError(str(error), param=error.field) from None
