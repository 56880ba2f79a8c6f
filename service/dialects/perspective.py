"""Perspective's ``comments:analyze`` and ``comments:suggestscore``, as Google's clients send them.

Spans are sentences, as they were there, each scored as a text of its own; their offsets count
UTF-16 code units. What the model cannot say is refused by name, in Google's error envelope.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

from fastapi import Request
from pydantic import Field, TypeAdapter, ValidationError
from starlette.responses import JSONResponse

from service.dialects.dialect import Dialect, T, documented
from service.dialects.feedback import PRINTED, keep
from service.dialects.halves import validated
from service.dialects.protobuf import Message
from service.errors import RequestError, from_validation
from service.feedback import feedback_of
from service.moderation.moderator import moderator_of
from tamis import perspective
from tamis.bundle import Bundle
from tamis.content import plain
from tamis.corrections.record import CATEGORIES, Correction
from tamis.perspective import ATTRIBUTES, Scale, ScaleError, scores_of
from tamis.taxonomy import taxonomy

ANALYZE: Final = "/v1alpha1/comments:analyze"
SUGGEST: Final = "/v1alpha1/comments:suggestscore"
# Where a sentence ends. Nothing is tried twice: a row of marks may be as long as a text.
END: Final = re.compile(r"(?<![.!?…])[.!?…]++[\"')\]”’]*+(?=\s)|\n")
# A text of many more is cut into this many pieces of neighbouring sentences.
MOST_SPANS: Final = 100
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
ScoreType = Literal["SCORE_TYPE_UNSPECIFIED", "PROBABILITY", "STD_DEV_SCORE", "PERCENTILE", "RAW"]
TextType = Literal["TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"]


class PerspectiveError(RequestError):
    """A refusal with one of Perspective's own ``errorType``s."""

    def __init__(self, message: str, kind: str = "INVALID_REQUEST", **details: Any) -> None:
        super().__init__(message, code=kind.lower())
        self.details = {"errorType": kind, **details}


def error_json(error: RequestError) -> JSONResponse:
    """Any refusal in the envelope of Google's APIs."""
    said: dict[str, Any] = {
        "code": error.status,
        "message": error.message,
        "status": STATUSES.get(error.status, "UNKNOWN"),
    }
    if isinstance(error, PerspectiveError):
        kind = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
        said["details"] = [{"@type": kind, **error.details}]
    return JSONResponse({"error": said}, error.status, error.headers)


STATUS: Final = {
    "type": "object",
    "required": ["code", "message", "status"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "status": {"enum": [*STATUSES.values(), "UNKNOWN"]},
        "details": {"type": "array", "items": {"type": "object", "required": ["@type"]}},
    },
}
ERRORS: Final = {"type": "object", "required": ["error"], "properties": {"error": STATUS}}
router = Dialect(refusal=error_json, errors=ERRORS, below="/v1alpha1/")


class TextEntry(Message):
    """A comment, or what it answers."""

    text: str = ""
    type: TextType = "PLAIN_TEXT"


class Context(Message):
    """What a comment answers; accepted and not read, as in the original."""

    entries: list[TextEntry] | None = None
    articleAndParentComment: dict[str, TextEntry | None] | None = None  # noqa: N815


class AttributeParameters(Message):
    """How an attribute is wanted."""

    scoreType: ScoreType = "PROBABILITY"  # noqa: N815
    scoreThreshold: float | None = None  # noqa: N815


class AnalyzeRequest(Message):
    """The body of ``comments:analyze``; nothing of it is ever stored."""

    comment: TextEntry = TextEntry()
    context: Context | None = None
    requestedAttributes: dict[str, AttributeParameters] = Field({})  # noqa: N815
    languages: list[str] = Field([])
    spanAnnotations: bool = False  # noqa: N815
    doNotStore: bool = False  # noqa: N815
    dropUnsupportedAttributes: bool = False  # noqa: N815
    clientToken: str | None = None  # noqa: N815
    sessionId: str | None = None  # noqa: N815
    communityId: str | None = None  # noqa: N815


class Score(Message):
    """A value and what it means; 0 is what protobuf leaves out."""

    value: float = Field(0, ge=0, le=1)
    type: ScoreType = "PROBABILITY"


class SpanScore(Message):
    """The score of a part of the comment, in UTF-16 code units."""

    begin: int | None = None
    end: int | None = None
    score: Score


class AttributeScores(Message):
    """What is suggested for one attribute."""

    summaryScore: Score | None = None  # noqa: N815
    spanScores: list[SpanScore] = Field([])  # noqa: N815

    @property
    def value(self) -> float | None:
        """For the comment as a whole: as it was said, else that of its worst part."""
        if self.summaryScore is not None:
            return self.summaryScore.value
        return max((span.score.value for span in self.spanScores), default=None)


class SuggestRequest(Message):
    """The body of ``comments:suggestscore``."""

    comment: TextEntry = TextEntry()
    context: Context | None = None
    attributeScores: dict[str, AttributeScores] = Field({})  # noqa: N815
    languages: list[str] = Field([])
    clientToken: str | None = None  # noqa: N815
    sessionId: str | None = None  # noqa: N815
    # Empty as serializers write it that leave no field out.
    communityId: str | None = Field(None, max_length=128, pattern=f"^$|{PRINTED}")  # noqa: N815


ANALYSIS: Final = TypeAdapter(AnalyzeRequest)
SUGGESTION: Final = TypeAdapter(SuggestRequest)


@router.judges(ANALYZE, ANALYSIS)
async def analyze(request: Request) -> JSONResponse:
    """Score a comment on Perspective's scale."""
    moderator = moderator_of(request)
    body = _read(ANALYSIS, await request.body())
    scales = _scales(moderator.loaded().bundle)
    _check_comment(body.comment, body.context)
    wanted = _wanted(body, scales)
    text = body.comment.text
    cuts = sentences(text) if body.spanAnnotations else [(0, len(text))]
    # One sentence is the whole text, and judged once.
    parts = [plain(text[a:b], f"comment.text[{a}:{b}]") for a, b in cuts] if len(cuts) > 1 else []
    policy = moderator.policy(request)
    contents = (plain(text, "comment.text"), *parts)
    # The scale was fitted to this bundle's scores: a second opinion's are others, and so are those
    # of the bundle for other languages, which this contract does not speak.
    judged = await moderator.judge(request, [("", contents)], policy, alone=True)
    whole, *pieces = (scores_of(finding) for finding in judged.findings[0])
    if not whole:
        raise PerspectiveError("Comment must be non-empty.", "COMMENT_EMPTY")
    found: dict[str, Any] = {}
    places = list(utf16(text, cuts))
    for name, asked in wanted.items():
        summary, least = scales[name].value(whole), asked.scoreThreshold or 0.0
        if summary < least:
            continue
        # A part of which nothing was read, like a lone emoji to some tokenizers, has no score.
        values = [scales[name].value(piece) if piece else 0.0 for piece in pieces] or [summary]
        spans = [
            {"begin": begin, "end": end, "score": _score(value)}
            for (begin, end), value in zip(places, values, strict=True)
            if value >= least
        ]
        found[name] = {"spanScores": spans, "summaryScore": _score(summary)}
    answer = {"attributeScores": found, "languages": body.languages or ["en"]}
    return JSONResponse(answer | _token(body.clientToken))


@router.post(SUGGEST, openapi_extra=documented(SUGGESTION))
async def suggest(request: Request) -> JSONResponse:
    """Keep what a person says of a comment as a correction, like ``POST /feedback``."""
    feedback_of(request).check()
    body = _read(SUGGESTION, await request.body())
    _check_comment(body.comment, body.context)
    _check_languages(body.languages, list(body.attributeScores))
    label, categories = _said(body.attributeScores)
    caller = request.state.caller
    correction = Correction(
        content=plain(body.comment.text),
        time=datetime.now(UTC),
        label=label,
        categories=categories,
        reviewer=body.communityId or None,
        key=None if caller is None else caller.name,
    )
    policy = moderator_of(request).policy(request)
    await keep(request, correction, policy, "comment.text")
    return JSONResponse(
        {"requestedLanguages": body.languages or ["en"], **_token(body.clientToken)}
    )


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text are, without the white space around them; at most 100."""
    found, at = [], 0
    for end in (*(match.end() for match in END.finditer(text)), len(text)):
        piece = text[at:end]
        start, stop = at + len(piece) - len(piece.lstrip()), at + len(piece.rstrip())
        if start < stop:
            found.append((start, stop))
        at = end
    size = -(-len(found) // MOST_SPANS) or 1
    groups = [found[n : n + size] for n in range(0, len(found), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def utf16(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Rising spans of characters in UTF-16 code units."""
    at = units = 0
    for start, stop in spans:
        units += _units(text[at:start])
        length = _units(text[start:stop])
        yield units, units + length
        at, units = stop, units + length


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _read(body: TypeAdapter[T], blob: bytes) -> T:
    try:
        return validated(body, blob)
    except ValidationError as error:
        raise PerspectiveError(from_validation(error).message) from None


_fitted = lru_cache(maxsize=8)(perspective.load)


def _scales(bundle: Bundle) -> dict[str, Scale]:
    try:
        return _fitted(bundle.path, bundle.fingerprint)
    except ScaleError:
        raise RequestError(
            f"Perspective's scale was not fitted for the bundle {bundle.name}: "
            "see 'tamis perspective fit'",
            code="scale_not_fitted",
            status=404,
        ) from None


def _check_comment(comment: TextEntry, context: Context | None) -> None:
    if comment.type == "HTML":
        raise PerspectiveError("Currently, only 'PLAIN_TEXT' comments are supported")
    if context and context.entries and context.articleAndParentComment:
        raise PerspectiveError(
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated."
        )
    if not comment.text.strip():
        raise PerspectiveError("Comment must be non-empty.", "COMMENT_EMPTY")


def _wanted(body: AnalyzeRequest, scales: dict[str, Scale]) -> dict[str, AttributeParameters]:
    """The attributes to score.

    Raises:
        PerspectiveError: for one that cannot be, unless such are to be left out.
    """
    if not body.requestedAttributes:
        raise PerspectiveError("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
    wanted = body.requestedAttributes
    if body.dropUnsupportedAttributes:
        # All attributes have the same languages.
        wanted = (
            {} if _foreign(body.languages) else {n: a for n, a in wanted.items() if n in scales}
        )
    for name, asked in wanted.items():
        if name not in scales:
            raise PerspectiveError(f"Unknown requested attribute: {_quoted(name)}")
        if asked.scoreType not in ("PROBABILITY", "SCORE_TYPE_UNSPECIFIED"):
            raise PerspectiveError(
                f"Requested score type {asked.scoreType} is not supported by attribute {name}"
            )
    _check_languages(body.languages, list(wanted))
    return wanted


def _foreign(languages: Sequence[str]) -> list[str]:
    """Those that are not English, of whatever region: it is what the models were taught."""
    return [_quoted(code) for code in languages if re.split("[-_]", code.lower())[0] != "en"]


def _check_languages(languages: Sequence[str], attributes: Sequence[str]) -> None:
    foreign = _foreign(languages)
    if foreign and attributes:
        name = _quoted(attributes[0])
        raise PerspectiveError(
            f"Attribute {name} does not support request languages: {', '.join(foreign)}",
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
            languageNotSupportedByAttributeError={
                "requestedLanguages": foreign,
                "attribute": name,
            },
        )


def _quoted(name: str) -> str:
    """A caller's name for something, as far as it can be one: messages do not repeat texts."""
    return name if re.fullmatch(r"[\w.@-]{1,64}", name) else "…"


def _said(
    suggested: dict[str, AttributeScores],
) -> tuple[Literal["safe", "unsafe"], tuple[str, ...]]:
    """Whether a comment is called toxic, and what it is about where all of that was said.

    Raises:
        PerspectiveError: where nothing was said that could be kept.
    """
    if not suggested:
        raise PerspectiveError("attribute_scores must not be empty")
    for name in suggested:
        if name not in ATTRIBUTES:
            raise PerspectiveError(f"Unknown requested attribute: {_quoted(name)}")
    held = {name: scores.value for name, scores in suggested.items()}
    if empty := [name for name, value in held.items() if value is None]:
        raise PerspectiveError(f"attribute_scores: {empty[0]} has no score")
    yes = {name for name, value in held.items() if value is not None and value >= 0.5}
    toxic = "TOXICITY" in yes if "TOXICITY" in held else bool(yes - {"SEXUALLY_EXPLICIT"})
    if not toxic and "TOXICITY" not in held:
        raise PerspectiveError("attribute_scores: without TOXICITY, there is nothing to keep")
    # Perspective's kinds that are one category of ours: only all of them tell what else it is not.
    kinds = {a: str(r) for a in ATTRIBUTES if (r := _category(a)) is not None}
    if not toxic or not kinds.keys() <= held.keys():
        return ("unsafe" if toxic else "safe"), ()
    return "unsafe", tuple(kinds[name] for name in ATTRIBUTES if name in yes & kinds.keys())


def _category(attribute: str) -> str | None:
    rule = taxonomy().crosswalk["perspective"][attribute]
    names = rule.names if rule is not None else frozenset()
    return next(iter(names)) if len(names) == 1 and names <= set(CATEGORIES) else None


def _score(value: float) -> dict[str, Any]:
    return {"value": round(value, 6), "type": "PROBABILITY"}


def _token(given: str | None) -> dict[str, str]:
    return {} if given is None else {"clientToken": given}
