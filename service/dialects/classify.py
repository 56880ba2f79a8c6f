"""``POST /classify`` as vLLM and ``POST /predict`` as TEI answer a classifier's clients.

One label speaks for a text: the likeliest flagged category, else "unsafe", else "safe". A client's
own threshold should stay below one half, so that the policy's thresholds decide and not the
client's. Texts are prompts, unless a policy's ``judge`` says that they are answers or documents.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse

from service.dialects.detectors import flagged
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.hook import of_nobody
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content
from tamis.policy import Policy
from tamis.taxonomy import ATTACK
from tamis.verdict import UNSAFE, Verdict

router = Dialect(hook=True)
SAFE: Final = "safe"


class ClassifyRequest(Loose):
    """The body of ``POST /classify``."""

    input: str | list[str]
    model: str | None = None


Pair = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictRequest(Loose):
    """The body of ``POST /predict``; two texts together are a prompt and its response."""

    inputs: str | Pair | Annotated[list[Pair], Field(min_length=1)]


CLASSIFY: Final = TypeAdapter(ClassifyRequest)
PREDICT: Final = TypeAdapter(PredictRequest)
TAGS: Final = frozenset({"str", "list[str]", "list[list[str]]"})


@router.judges("/classify", CLASSIFY)
async def classify(request: Request) -> JSONResponse:
    """Judge texts; two probabilities each, of not being that label and of being it."""
    body = await body_of(request, CLASSIFY, TAGS)
    if isinstance(body.input, str):
        names, texts = ["input"], [body.input]
    else:
        names, texts = [f"input[{n}]" for n in range(len(body.input))], body.input
    verdicts = await _verdicts(request, names, texts, "input", body.model)
    tokens = sum(verdict.tokens for verdict in verdicts)
    data = []
    for n, verdict in enumerate(verdicts):
        label, score = decided(verdict)
        probabilities = [1 - score, score]
        data.append({"index": n, "label": label, "probs": probabilities, "num_classes": 2})
    return JSONResponse(
        {
            "id": f"classify-{request.state.request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": body.model or verdicts[0].provenance.model,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )


@router.judges("/predict", PREDICT)
async def predict(request: Request) -> JSONResponse:
    """Judge texts, or prompts with their responses, of which the response is judged alone."""
    body = await body_of(request, PREDICT, TAGS)
    batch = isinstance(body.inputs, list) and isinstance(body.inputs[0], list)
    given: Sequence[Any] = body.inputs if batch else [body.inputs]
    names = [f"inputs[{n}]" for n in range(len(given))] if batch else ["inputs"]
    verdicts = await _verdicts(request, names, given, "inputs", None)
    answers = [labels(verdict) for verdict in verdicts]
    return JSONResponse(answers if batch else answers[0])


def decided(verdict: Verdict) -> tuple[str, float]:
    """The label that speaks for a text, and its probability."""
    if not verdict.flagged:
        return SAFE, 1 - verdict.score
    return next(iter(flagged(verdict).items()))


def labels(verdict: Verdict) -> list[dict[str, Any]]:
    """Every label with its probability: the one that decides first, the others by probability."""
    scores = {UNSAFE: verdict.score, SAFE: 1 - verdict.score}
    scores |= {name: category.score for name, category in verdict.categories.items()}
    if verdict.attack is not None:
        scores[ATTACK] = verdict.attack.score
    first, _ = decided(verdict)
    ordered = sorted(scores, key=lambda name: (name != first, -scores[name]))
    return [{"label": name, "score": round(scores[name], 6)} for name in ordered]


async def _verdicts(
    request: Request,
    names: Sequence[str],
    given: Sequence[str | list[str]],
    param: str,
    model: str | None,
) -> list[Verdict]:
    moderator = moderator_of(request)
    moderator.check_items(len(given), param)
    policy = moderator.policy(request, moderator.offered(model))
    items = [(name, (_content(one, policy),)) for name, one in zip(names, given, strict=True)]
    return (await moderator.judge(request, items, policy)).verdicts


def _content(given: str | list[str], policy: Policy) -> Content:
    if isinstance(given, str) or len(given) == 1:
        return of_nobody(given if isinstance(given, str) else given[0], policy)
    asked, answered = given
    return content.response(answered, asked, "text")
