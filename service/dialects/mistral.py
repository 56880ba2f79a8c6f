"""Mistral's moderation: its categories, ``/v1/chat/moderations``, and no word on the whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Request
from pydantic import Discriminator, Field, Tag, TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.answers import MODERATIONS
from service.dialects.chat import Message
from service.dialects.crosswalk import require, standing_in, told
from service.dialects.dialect import Dialect, Loose, body_of
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content
from tamis.taxonomy import taxonomy
from tamis.verdict import Verdict

router = Dialect()

MODELS: Final = ("mistral-", "ministral-")
# The first generation has the dangerous and the criminal in one, and no jailbreaking.
FIRST: Final = "mistral-moderation-2411"
JOINED: Final = "dangerous_and_criminal_content"
LATER: Final = ("dangerous", "criminal", "jailbreaking")


def _shape(raw: Any) -> str | None:
    if not isinstance(raw, list):
        return None
    return "conversations" if raw and isinstance(raw[0], list) else "conversation"


Turns = Annotated[list[Message], Field(min_length=1)]


class ChatModerationsRequest(Loose):
    """The body of ``POST /v1/chat/moderations``: a conversation, or several."""

    input: Annotated[
        Annotated[list[Turns], Tag("conversations")] | Annotated[Turns, Tag("conversation")],
        Discriminator(
            _shape,
            custom_error_type="input_shape",
            custom_error_message="must be a list of messages, or of such lists",
        ),
    ]
    model: str | None = None


BODY: Final = TypeAdapter(ChatModerationsRequest)
TAGS: Final = frozenset({"conversations", "conversation", "str", "list[Part]"})


@router.judges("/v1/chat/moderations", BODY, MODERATIONS)
async def chat_moderations(request: Request) -> JSONResponse:
    """Judge the last message of each conversation, in the light of those before."""
    moderator = moderator_of(request)
    body = await body_of(request, BODY, TAGS)
    single = isinstance(body.input[0], Message)
    batch: Sequence[Any] = [body.input] if single else body.input
    moderator.check_items(len(batch))
    names = ["input"] if single else [f"input[{n}]" for n in range(len(batch))]
    items = [("", last_of(turns, name)) for name, turns in zip(names, batch, strict=True)]
    policy = moderator.policy(request, moderator.offered(body.model))
    require(policy, moderator.loaded().bundle.thresholds, "mistral")
    judged = await moderator.judge(request, items, policy)
    return answer(request, body.model, judged.verdicts)


def last_of(messages: Sequence[Message], name: str = "messages") -> tuple[Content, ...]:
    """What the last message says and asks of tools, as whoever said it."""
    field = f"messages[{len(messages) - 1}]."
    found = content.conversation([message.turn for message in messages])
    return tuple(
        replace(one, field=name + one.field.removeprefix("messages"))
        for one in found
        if one.field.startswith(field)
    )


def speaks(model: str | None) -> bool:
    """Whether a model is Mistral's, and its callers expect Mistral's answer."""
    return model is not None and model.startswith(MODELS)


def answer(request: Request, model: str | None, verdicts: Sequence[Verdict]) -> JSONResponse:
    """The verdicts in the categories of a model's generation."""
    first = model == FIRST
    names = [
        name
        for name in taxonomy().crosswalk["mistral"]
        if name not in (LATER if first else (JOINED,))
    ]
    return JSONResponse(
        {
            "id": f"modr-{request.state.request_id}",
            "model": model or verdicts[0].provenance.model,
            "results": [result_json(verdict, names) for verdict in verdicts],
        }
    )


def result_json(verdict: Verdict, names: Sequence[str]) -> dict[str, Any]:
    """One result: there is nothing but categories, so one of them speaks for what has none.

    Categories that nothing answers for (health, financial, law) are false with score 0.
    """
    said = told(verdict, "mistral", names)
    spoken = standing_in(verdict, said)
    return {
        "categories": {name: one.flagged or name == spoken for name, one in said.items()},
        "category_scores": {name: round(one.score or 0.0, 6) for name, one in said.items()},
    }
