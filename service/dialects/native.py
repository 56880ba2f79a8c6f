"""``POST /moderate``: Tamis's own contract."""

from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from starlette.responses import JSONResponse, Response

from service.dialects import chat
from service.dialects.answers import VERDICTS
from service.dialects.dialect import Dialect, body_of
from service.dialects.streaming import explanation_stream
from service.dialects.written import check_written
from service.engine.timings import STAGES, Timings
from service.errors import RequestError
from service.moderation.explaining import explanation_json
from service.moderation.masking import Masked
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.verdict import CategoryScore, FieldVerdict, Provenance, Verdict

router = Dialect()


class Strict(BaseModel):
    """Unknown fields are errors: a misspelt "polcy" must not silently mean the default."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Exchange(Strict):
    """A prompt and the response to it; both are judged, the response in context."""

    prompt: str
    response: str


class Prompt(Strict):
    """A prompt on its own, the same as a string."""

    prompt: str


class Plain(Strict):
    """A post or comment addressed to people, judged for toxicity rather than as a request."""

    text: str


class Document(Strict):
    """What came from outside, and what the user had asked: judged for attacks and nothing else."""

    document: str
    prompt: str | None = None


class Message(chat.Message):
    """One turn, as chat APIs write it, in a text."""

    role: str
    content: str | None = None


class Conversation(Strict):
    """A conversation; its last user message and what followed it are judged.

    Both in the light of what user and assistant said before. What tools were asked and what they
    said is judged as documents are.
    """

    messages: list[Message] = Field(min_length=1)


def _shape(raw: Any) -> str | None:
    if isinstance(raw, str):
        return "string"
    keys = raw if isinstance(raw, dict) else ()
    if "messages" in keys:
        return "conversation"
    if "document" in keys:
        return "from-outside"
    if "response" in keys:
        return "exchange"
    if "prompt" in keys:
        return "prompt-only"
    return "plain" if "text" in keys else None


ITEM_SHAPES: Final = (
    'must be a text, {"prompt"}, {"prompt", "response"}, {"messages": [{"role", "content"}, …]}, '
    '{"document"} or {"text"}'
)
Item = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[Exchange, Tag("exchange")]
    | Annotated[Prompt, Tag("prompt-only")]
    | Annotated[Conversation, Tag("conversation")]
    | Annotated[Document, Tag("from-outside")]
    | Annotated[Plain, Tag("plain")],
    Discriminator(_shape, custom_error_type="item_shape", custom_error_message=ITEM_SHAPES),
]
Input = Annotated[
    Annotated[list[Item], Tag("batch")] | Annotated[Item, Tag("single")],
    Discriminator(lambda raw: "batch" if isinstance(raw, list) else "single"),
]
TAGS: Final = frozenset(
    {"string", "exchange", "prompt-only", "conversation", "from-outside", "plain"}
    | {"batch", "single", "str", "dict[str,any]"}
)


class ModerateRequest(Strict):
    """The body of ``POST /moderate``."""

    input: Input
    policy: str | dict[str, Any] | None = Field(
        None,
        description="A policy by name, or written out, with categories of your own if you like; "
        "the default policy where absent.",
    )
    judge: list[content.Side] | None = Field(
        None,
        min_length=1,
        description="The sides of an exchange to judge, the other being context; the policy's "
        "choice where absent, else both.",
    )
    explain: Literal["evidence", "reason"] | None = Field(
        None,
        description='"evidence" adds the words that decided, "reason" a verdict in words.',
    )
    stream: bool = Field(
        False, description='One item\'s "reason" as server-sent events, while it is written.'
    )


BODY: Final = TypeAdapter(ModerateRequest)


@router.judges("/moderate", BODY, VERDICTS, streams=True)
async def moderate(request: Request) -> Response:
    """Judge one item or a batch under a policy."""
    moderator = moderator_of(request)
    body = await body_of(request, BODY, TAGS)
    if body.stream:
        _check_stream(body)
    batch = body.input if isinstance(body.input, list) else [body.input]
    moderator.check_items(len(batch))
    names = (
        [f"input[{n}]" for n in range(len(batch))] if isinstance(body.input, list) else ["input"]
    )
    reasoned = body.explain == "reason"
    check_written(await request.body(), body.policy)
    policy = moderator.policy(request, body.policy, reasoned)
    contents = map(contents_of, batch)
    items = moderator.select(list(zip(names, contents, strict=True)), policy, body.judge)
    if reasoned:
        # Said before anything is judged.
        moderator.reasoning.check_items(len(batch))
        moderator.reasoning.guidelines(policy)
        moderator.reasoning.loaded()
    await moderator.check_masking(items, policy)
    judged = await moderator.judge(request, items, policy, evidence=body.explain == "evidence")
    request_id: str = request.state.request_id
    timings = timings_json(judged.timings)
    single = not isinstance(body.input, list)
    verdicts = [
        verdict_json(
            verdict,
            f"mod-{request_id}" if single else f"mod-{request_id}-{n}",
            timings if single else None,
        )
        for n, verdict in enumerate(judged.verdicts)
    ]
    if policy.mask is not None:
        shown = [contents for _, contents in items]
        evidence = [verdict.evidence for verdict in judged.verdicts]
        masked = await moderator.mask(request, shown, policy.mask, evidence)
        for verdict, texts in zip(verdicts, masked, strict=True):
            verdict["masked"] = {one.field: _masked_json(one) for one in texts}
            if body.explain != "evidence":
                verdict["evidence"] = []
    if body.stream:
        return explanation_stream(request, moderator, items[0], policy, judged, verdicts[0])
    if reasoned:
        explained = await moderator.answering.explain(request, items, policy, judged)
        for verdict, explanation in zip(verdicts, explained, strict=True):
            verdict["explanation"] = explanation_json(explanation)
    if single:
        return JSONResponse(verdicts[0])
    return JSONResponse({"id": f"mod-{request_id}", "results": verdicts, "timings": timings})


def _check_stream(body: ModerateRequest) -> None:
    """Refuse to stream what is there at once, or several items' reasons."""
    if body.explain != "reason":
        raise RequestError("stream: only reasons stream; ask for explain: 'reason'", param="stream")
    if isinstance(body.input, list):
        raise RequestError("stream: takes one item as input, not a list", param="stream")


def contents_of(item: Any) -> tuple[content.Content, ...]:
    """What a validated item asks to be judged."""
    match item:
        case str():
            return (content.prompt(item, "text"),)
        case Exchange():
            return content.exchange(item.prompt, item.response)
        case Prompt():
            return (content.prompt(item.prompt),)
        case Plain():
            return (content.plain(item.text),)
        case Document():
            return (content.document(item.document, item.prompt),)
        case Conversation():
            return content.conversation([message.turn for message in item.messages])
    raise TypeError(type(item).__name__)


def verdict_json(
    verdict: Verdict, verdict_id: str | None, timings: dict[str, float] | None
) -> dict[str, Any]:
    """A verdict in the native contract; probabilities with four digits."""
    out: dict[str, Any] = {
        "id": verdict_id,
        "flagged": verdict.flagged,
        "action": verdict.action.value,
        "score": round(verdict.score, 4),
        "threshold": _rounded(verdict.threshold),
        "severity": verdict.severity.value,
        "fields": {name: _field_json(field) for name, field in verdict.fields.items()},
        "categories": {name: _score_json(c) for name, c in verdict.categories.items()},
        "attack": None if verdict.attack is None else _score_json(verdict.attack),
        "evidence": [
            {
                "start": e.start,
                "end": e.end,
                "text": e.text,
                "category": e.category,
                "score": round(e.score, 4),
                "field": e.field,
            }
            for e in verdict.evidence
        ],
        "transforms": list(verdict.transforms),
        "windows": verdict.windows,
        "tokens": verdict.tokens,
        "model": _model(verdict.provenance),
        "policy": f"{verdict.provenance.policy}@{verdict.provenance.policy_version}",
    }
    if verdict.withheld is not None:
        out["withheld"] = verdict.withheld.value
    if verdict.second_opinion is not None:
        out["second_opinion"] = verdict.second_opinion
    if verdict.encoder is not None:
        out["policy_encoder"] = _model(verdict.encoder)
    if timings is not None:
        out["timings"] = timings
    return out


def _field_json(field: FieldVerdict) -> dict[str, Any]:
    out: dict[str, Any] = {
        "flagged": field.flagged,
        "action": field.action.value,
        "score": round(field.score, 4),
        "threshold": _rounded(field.threshold),
        "severity": field.severity.value,
    }
    if field.question == "response":
        refusal = field.refusal
        out["refusal"] = refusal and {
            "score": round(refusal.score, 4),
            "flagged": refusal.flagged,
        }
    if field.withheld is not None:
        out["withheld"] = field.withheld.value
    if field.transforms:
        out["transforms"] = list(field.transforms)
    if field.provenance is not None:
        out["model"] = _model(field.provenance)
    return out


def _model(who: Provenance) -> str:
    return f"{who.model}@{who.bundle[:12]}"


def _masked_json(masked: Masked) -> dict[str, Any]:
    spans = [{"start": s.start, "end": s.end, "mark": s.mark} for s in masked.spans]
    return {"text": masked.text, "spans": spans}


def timings_json(timings: Timings) -> dict[str, float]:
    """Milliseconds with two digits."""
    return {f"{stage}_ms": round(getattr(timings, stage), 2) for stage in STAGES}


def _score_json(score: CategoryScore) -> dict[str, Any]:
    return {
        "score": round(score.score, 4),
        "flagged": score.flagged,
        "threshold": _rounded(score.threshold),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
