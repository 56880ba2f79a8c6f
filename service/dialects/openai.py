"""``POST /v1/moderations``: OpenAI's contract, as its official clients send and parse it."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from starlette.responses import JSONResponse

from service.dialects.direct import DirectRoute
from service.errors import RequestError, from_validation
from service.moderation import moderator_of
from tamis import content
from tamis.taxonomy import taxonomy
from tamis.verdict import Verdict

router = APIRouter(route_class=DirectRoute)


class TextPart(BaseModel):
    """One text of a multi-modal input."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image, which a text classifier has to refuse."""

    type: Literal["image_url"]
    image_url: Any


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _shape(raw: Any) -> str | None:
    if isinstance(raw, str):
        return "string"
    if isinstance(raw, list):
        return "parts" if raw and isinstance(raw[0], dict) else "strings"
    return None


class ModerationsRequest(BaseModel):
    """The body of ``POST /v1/moderations``; unknown fields are ignored, as OpenAI does."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[str], Tag("strings")]
        | Annotated[list[Part], Tag("parts")],
        Discriminator(
            _shape,
            custom_error_type="input_shape",
            custom_error_message="must be a text, a list of texts, or a list of content parts",
        ),
    ]
    model: str | None = None


BODY: Final = TypeAdapter(ModerationsRequest)
TAGS: Final = frozenset({"string", "strings", "parts", "text", "image_url"})


@router.post(
    "/v1/moderations",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": BODY.json_schema()}},
        }
    },
)
async def moderations(request: Request) -> JSONResponse:
    """Judge texts as prompts under the default policy, in OpenAI's categories."""
    moderator = moderator_of(request)
    try:
        body = BODY.validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error, TAGS) from None
    items = _items(body.input)
    moderator.check_items(len(items))
    policy = moderator.policy(request)
    judged = await moderator.judge(request, moderator.select(items, policy), policy)
    return JSONResponse(
        {
            "id": f"modr-{request.state.request_id}",
            "model": judged.verdicts[0].provenance.model,
            "results": [result_json(verdict) for verdict in judged.verdicts],
        }
    )


def _items(given: str | list[Any]) -> list[tuple[str, tuple[content.Content, ...]]]:
    """A text, texts, or parts (which together are one input)."""
    if isinstance(given, str):
        return [("input", (content.prompt(given, "text"),))]
    if given and isinstance(given[0], BaseModel):
        for n, part in enumerate(given):
            if isinstance(part, ImagePart):
                raise RequestError(
                    f"input[{n}]: images are not supported, this model reads text",
                    param=f"input[{n}]",
                    code="unsupported_input",
                )
        return [
            ("input", tuple(content.prompt(p.text, f"[{n}].text") for n, p in enumerate(given)))
        ]
    return [(f"input[{n}]", (content.prompt(text, "text"),)) for n, text in enumerate(given)]


def result_json(verdict: Verdict) -> dict[str, Any]:
    """One result with all 13 categories.

    Where no head of the bundle answers for a category, its score is 0 and its list of applied
    input types is empty: the contract's own way of saying "not judged".
    """
    scores = {name: category.score for name, category in verdict.categories.items()}
    flagged = {name for name, category in verdict.categories.items() if category.flagged}
    rules = {n: r for n, r in taxonomy().crosswalk["openai"].items() if r is not None}
    found = {name: rule.score(scores) for name, rule in rules.items()}
    return {
        "flagged": verdict.flagged,
        "categories": {name: rule.holds(flagged) for name, rule in rules.items()},
        "category_scores": {n: 0.0 if s is None else round(s, 6) for n, s in found.items()},
        "category_applied_input_types": {
            n: [] if s is None else ["text"] for n, s in found.items()
        },
    }
