"""``POST /v1/moderations``: OpenAI's contract, as its official clients send and parse it.

Mistral's is the same but for its categories and for what it leaves out, so its models' names ask
for that (see ``mistral``).
"""

from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from starlette.responses import JSONResponse

from service.dialects import mistral
from service.dialects.answers import MODERATIONS
from service.dialects.crosswalk import require, told
from service.dialects.dialect import Dialect, Loose, body_of
from service.errors import RequestError
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.taxonomy import taxonomy
from tamis.verdict import Verdict

router = Dialect()

JUDGED: Final = tuple(n for n, rule in taxonomy().crosswalk["openai"].items() if rule is not None)


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


class ModerationsRequest(Loose):
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
    model: str | None = Field(
        None,
        description="The name of a policy that is offered; of Mistral's models, whose categories "
        "are answered then; or anything.",
    )


BODY: Final = TypeAdapter(ModerationsRequest)
TAGS: Final = frozenset({"string", "strings", "parts", "text", "image_url"})


@router.judges("/v1/moderations", BODY, MODERATIONS)
async def moderations(request: Request) -> JSONResponse:
    """Judge texts as prompts, in OpenAI's categories or Mistral's."""
    moderator = moderator_of(request)
    body = await body_of(request, BODY, TAGS)
    items = _items(body.input)
    moderator.check_items(len(items))
    policy = moderator.policy(request, moderator.offered(body.model))
    if mistral.speaks(body.model):
        require(policy, moderator.loaded().bundle.thresholds, "mistral")
    judged = await moderator.judge(request, moderator.select(items, policy), policy)
    if mistral.speaks(body.model):
        return mistral.answer(request, body.model, judged.verdicts)
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
    """One result with all 13 categories, and beside them what the contract has no place for.

    Where no head of the bundle answers for a category, its score is 0 and its list of applied
    input types is empty: the contract's own way of saying "not judged".
    """
    said = told(verdict, "openai", JUDGED)
    attack = verdict.attack
    return {
        "flagged": verdict.flagged,
        "categories": {name: one.flagged for name, one in said.items()},
        "category_scores": {n: round(one.score or 0.0, 6) for n, one in said.items()},
        "category_applied_input_types": {
            name: [] if one.score is None else ["text"] for name, one in said.items()
        },
        "action": verdict.action.value,
        "severity": verdict.severity.value,
        "attack": attack and {"flagged": attack.flagged, "score": round(attack.score, 6)},
    }
