"""``POST /v1/decisions``: OpenAI's contract, answered with probabilities and without decoding.

A predicate is a rule, and its probability that the input breaks it; a choice's or score's options
are rules, and its probabilities theirs among each other (``service.questions``). Where there is no
policy encoder, a question becomes a policy, read once by the reasoner and kept. ``"explanations":
true``, a field of ours, adds a reason for each question at the top level, since the contract's
answers are closed.
"""

import json
import time
from collections.abc import Iterator, Mapping
from itertools import chain, count
from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
)
from starlette.responses import JSONResponse

from service.dialects.dialect import Dialect, body_of, documented
from service.engine.reasoner.explanation import Explanation
from service.errors import RequestError
from service.moderation.explaining import Asked
from service.moderation.moderator import moderator_of
from tamis.content import Content
from tamis.reasoner.protocol import MAX_DEFINITION, MAX_NAME, Guideline

router = Dialect()


class Part(BaseModel):
    """A part of a content; what it holds depends on its type."""

    model_config = ConfigDict(extra="allow")

    type: str


Words = str | list[Part]


class Loose(BaseModel):
    """Unknown fields are ignored, as OpenAI does."""

    model_config = ConfigDict(extra="ignore")


class Turn(Loose):
    """A message, a tool call, or a tool's output."""

    type: Literal[
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    ] = "message"
    role: Literal["user", "developer", "system", "assistant"] | None = None
    content: Words | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Words | None = None


class Predicate(Loose):
    """Asks how likely it is that a statement about the input is true."""

    type: Literal["predicate"]
    name: str | None = None
    instructions: Words


class Option(Loose):
    """One of several choices."""

    value: StrictStr | StrictBool
    description: str | None = None


class Choice(Loose):
    """Asks which of several options fits the input."""

    type: Literal["choice"]
    name: str | None = None
    instructions: Words
    choices: list[Option] = Field(min_length=2, max_length=255)


class Level(Loose):
    """One of several ordered levels."""

    label: str
    description: str | None = None


class Score(Loose):
    """Asks which of several ordered levels fits the input."""

    type: Literal["score"]
    name: str | None = None
    instructions: Words
    levels: list[Level] = Field(min_length=2, max_length=255)


Question = Annotated[Predicate | Choice | Score, Field(discriminator="type")]


class DecisionsRequest(Loose):
    """The body of ``POST /v1/decisions``."""

    model: str | None = None
    input: str | list[Turn]
    questions: list[Question] = Field(min_length=1, max_length=400)
    explanations: bool = False


BODY: Final = TypeAdapter(DecisionsRequest)
TAGS: Final = frozenset({"str", "list[Turn]", "list[Part]", "predicate", "choice", "score"})


@router.post("/v1/decisions", openapi_extra=documented(BODY))
async def decisions(request: Request) -> JSONResponse:
    """Answer questions about one input, in their order."""
    moderator = moderator_of(request)
    if moderator.rulings is not None:
        # The reasoner has a queue of its own.
        moderator.check_room(request.headers)
    body = await body_of(request, BODY, TAGS)
    moderator.serving.rules.check_count("questions", sum(map(rules_in, body.questions)))
    if body.explanations:
        moderator.reasoning.check_items(len(body.questions), "questions")
    asked = [asked_of(question, n) for n, question in enumerate(body.questions)]
    content = content_of(body.input)
    moderator.check_lengths([("", (content,))])
    rulings = moderator.rulings
    if rulings is None or body.explanations:
        reasoner = moderator.reasoning.loaded().bundle
    if rulings is None:
        name, calibrated = reasoner.name, reasoner.calibration.fitted
    else:
        name, calibrated = rulings.encoder.bundle.name, True
    began = time.perf_counter()
    found = await moderator.answering.decide(request, asked, content, body.explanations)
    read = [one.reading for one in found]
    written = sum(one.written for one in found)
    cached, tokens = sum(r.cached for r in read), sum(r.tokens for r in read)
    answer: dict[str, Any] = {
        "model": name,
        "answers": [
            answer_json(question, one) for question, one in zip(body.questions, found, strict=True)
        ],
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": sum(r.prefix for r in read if not r.cached),
            },
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": written},
            "total_tokens": tokens + written,
        },
        "calibrated": calibrated,
        "ms": round((time.perf_counter() - began) * 1e3, 2),
    }
    if body.explanations:
        answer["explanations"] = [
            {"name": q.name, "status": one.status, "reason": one.reason}
            for q, one in zip(body.questions, found, strict=True)
        ]
    return JSONResponse(answer)


def rules_in(question: Predicate | Choice | Score) -> int:
    """How many rules a question is."""
    if isinstance(question, Predicate):
        return 1
    return len(question.choices if isinstance(question, Choice) else question.levels)


def asked_of(question: Predicate | Choice | Score, number: int) -> Asked:
    """A question as a policy and a note beside it.

    Raises:
        RequestError: naming the question's field and what is wrong with it.
    """
    where = f"questions[{number}]"
    said = f"{where}.instructions"
    instructions = _limited(words_of(question.instructions, said), said)
    if isinstance(question, Predicate):
        return Asked(
            (Guideline(_label(question.name or "yes"), instructions),), None, where, "input"
        )
    if isinstance(question, Choice):
        values = [option.value for option in question.choices]
        field, described = "choices", [option.description for option in question.choices]
    else:
        values = [level.label for level in question.levels]
        field, described = "levels", [level.description for level in question.levels]
    if len({(type(value), value) for value in values}) < len(values):
        raise RequestError(f"{where}.{field}: two are the same", param=f"{where}.{field}")
    names: dict[str, None] = {}
    alike: dict[str, Iterator[str]] = {}
    for value in values:
        name = _label(str(value).lower() if isinstance(value, bool) else value)
        # "true" and true are distinct, and so are names that differ in what is not shown.
        if name not in alike:
            alike[name] = chain([name], map(f"{name} ({{}})".format, count(2)))
        names[next(other for other in alike[name] if other not in names)] = None
    texts = [
        None if text is None else _limited(text, f"{where}.{field}[{n}].description")
        for n, text in enumerate(described)
    ]
    return Asked(tuple(map(Guideline, names, texts)), instructions, where, "input")


def answer_json(question: Predicate | Choice | Score, found: Explanation) -> dict[str, Any]:
    """An answer in the contract; a score's levels count from 0.

    A refusal where the model, left alone, would have written no answer: its probabilities then mean
    little.
    """
    reading = found.reading
    if reading.fault is not None:
        return {"type": "refusal", "name": question.name}
    out: dict[str, Any] = {"type": question.type, "name": question.name}
    if isinstance(question, Predicate):
        return out | {"probability": reading.unsafe}
    probabilities = list(reading.categories.values())
    best = max(range(len(probabilities)), key=lambda n: probabilities[n])
    out["confidence"] = probabilities[best]
    if isinstance(question, Choice):
        return out | {
            "choice": question.choices[best].value,
            "probabilities": [
                {"value": option.value, "probability": p}
                for option, p in zip(question.choices, probabilities, strict=True)
            ],
        }
    return out | {
        "score": sum(n * p for n, p in enumerate(probabilities)),
        "probabilities": [
            {"value": n, "label": level.label, "probability": p}
            for n, (level, p) in enumerate(zip(question.levels, probabilities, strict=True))
        ],
    }


def content_of(given: str | list[Turn]) -> Content:
    """The input as one content: its last turn is judged, what came before is its context."""
    if isinstance(given, str):
        return Content("prompt", given, field="input")
    if not given:
        raise RequestError("input: must hold at least one item", param="input")
    turns = [_turn(turn, f"input[{n}]") for n, turn in enumerate(given)]
    (speaker, text), earlier = turns[-1], turns[:-1]
    context = "\n".join(f"{who}: {said}" for who, said in earlier) if earlier else None
    answering = speaker in ("Agent", "Agent calls")
    return Content("response" if answering else "prompt", text, context, "input")


def words_of(given: Words | None, where: str) -> str:
    """The text of a content.

    Raises:
        RequestError: for parts that are not text.
    """
    if given is None:
        raise RequestError(f"{where}: is missing", param=where)
    if isinstance(given, str):
        return given
    said = []
    for n, part in enumerate(given):
        more: Mapping[str, Any] = part.model_extra or {}
        value = more.get("text", more.get("refusal"))
        if part.type.endswith("json") and value is None:
            value = json.dumps(more.get("json", more.get("value")), ensure_ascii=False)
        if not isinstance(value, str):
            raise RequestError(
                f"{where}[{n}]: only text is read", param=f"{where}[{n}]", code="unsupported_input"
            )
        said.append(value)
    return "\n".join(said)


def _turn(turn: Turn, where: str) -> tuple[str, str]:
    if turn.type == "message":
        if turn.role is None:
            raise RequestError(f"{where}.role: is missing", param=f"{where}.role")
        who = {"user": "User", "assistant": "Agent"}.get(turn.role, "Rules")
        return who, words_of(turn.content, f"{where}.content")
    if turn.type.endswith("output"):
        return "Tool", words_of(turn.output, f"{where}.output")
    field = "arguments" if turn.type == "function_call" else "input"
    return "Agent calls", f"{turn.name} {words_of(getattr(turn, field), f'{where}.{field}')}"


def _label(name: str) -> str:
    """A name that can stand between braces on one line."""
    shown = "".join(c if c.isprintable() and c not in "{}\\" else " " for c in name)
    return " ".join(" ".join(shown.split())[:MAX_NAME].split()) or "yes"


def _limited(text: str, where: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_DEFINITION:
        raise RequestError(
            f"{where}: a text of {len(text)} characters is over the limit of {MAX_DEFINITION}",
            param=where,
            code="text_too_long",
        )
    return text
