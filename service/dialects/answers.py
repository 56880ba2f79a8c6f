"""What answers look like, as JSON schemas: for the OpenAPI document, and who checks against it."""

from typing import Any, Final

Schema = dict[str, Any]


def shape(optional: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """An object with these fields and, unless the contract grows, no others."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "required": required, "properties": fields}


def listed(item: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": item}


def named(item: Schema) -> Schema:
    """A mapping by name."""
    return {"type": "object", "additionalProperties": item}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SCORE: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}
ACTION: Final[Schema] = {"enum": ["allow", "flag", "block"]}
SEVERITY: Final[Schema] = {"enum": ["safe", "borderline", "unsafe"]}

_SCORED: Final = shape(score=SCORE, flagged=FLAG, threshold=or_null(SCORE))
_DECIDED: Final = {
    "flagged": FLAG,
    "action": ACTION,
    "score": SCORE,
    "threshold": or_null(SCORE),
    "severity": SEVERITY,
}
_REFUSAL: Final = or_null(shape(score=SCORE, flagged=FLAG))
_FIELD: Final = shape(
    ("refusal", "withheld", "transforms", "model"),
    **_DECIDED,
    refusal=_REFUSAL,
    withheld=ACTION,
    transforms=listed(TEXT),
    model=TEXT,
)
_EVIDENCE: Final = shape(start=COUNT, end=COUNT, text=TEXT, category=TEXT, score=SCORE, field=TEXT)
_MASKED: Final = shape(text=TEXT, spans=listed(shape(start=COUNT, end=COUNT, mark=TEXT)))
_TIMINGS: Final = named({"type": "number", "minimum": 0})
VERDICT: Final = shape(
    ("id", "withheld", "second_opinion", "policy_encoder", "masked", "explanation", "timings"),
    id=or_null(TEXT),
    **_DECIDED,
    fields=named(_FIELD),
    categories=named(_SCORED),
    attack=or_null(_SCORED),
    evidence=listed(_EVIDENCE),
    transforms=listed(TEXT),
    windows=COUNT,
    tokens=COUNT,
    model=TEXT,
    policy=TEXT,
    withheld=ACTION,
    second_opinion=TEXT,
    policy_encoder=TEXT,
    masked=named(_MASKED),
    explanation={"type": "object"},
    timings=_TIMINGS,
)
VERDICTS: Final = {
    "oneOf": [VERDICT, shape(id=TEXT, results=listed(VERDICT), timings=_TIMINGS)],
}
FOLLOWED: Final = {
    "allOf": [
        VERDICT,
        shape(
            final=FLAG,
            decided_chars=COUNT,
            stream_holdback_chars=COUNT,
            run=shape(windows=COUNT, tokens=COUNT),
        ),
    ]
}
MODERATIONS: Final = shape(
    id=TEXT,
    model=TEXT,
    results=listed(
        shape(
            ("flagged",),
            flagged=FLAG,
            categories=named(FLAG),
            category_scores=named(SCORE),
        )
    ),
)
GUARDRAIL: Final = shape(
    ("blocked_reason", "texts", "stream_holdback_chars"),
    action={"enum": ["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]},
    blocked_reason=TEXT,
    texts=listed(TEXT),
    stream_holdback_chars=listed(COUNT),
)
_SENT_ON: Final = shape(json={})
WEBHOOK: Final = shape(
    ("transformedData",),
    verdict=FLAG,
    data=shape(
        action=ACTION,
        flagged=FLAG,
        severity=SEVERITY,
        score=SCORE,
        reason=or_null(TEXT),
        fields=named(ACTION),
        policy=TEXT,
        model=TEXT,
    ),
    transformedData=shape(("request", "response"), request=_SENT_ON, response=_SENT_ON),
)
GUARD: Final = shape(
    action=shape(
        ("body", "status_code"),
        reason=TEXT,
        body={"type": ["string", "object"]},
        status_code={"type": "integer"},
    )
)
DETECTION: Final = shape(
    ("start", "end", "text", "evidences"),
    start=COUNT,
    end=COUNT,
    text=TEXT,
    detection=TEXT,
    detection_type={"enum": ["risk", "prompt_injection"]},
    score=SCORE,
    metadata={"type": "object"},
    evidences=listed({}),
)
_LEVEL: Final = {"type": "integer", "minimum": 0, "maximum": 7}
_MATCH: Final = shape(blocklistName=TEXT, blocklistItemId=TEXT, blocklistItemText=TEXT)
ANALYSIS: Final = shape(
    blocklistsMatch=listed(_MATCH),
    categoriesAnalysis=listed(
        shape(category={"enum": ["Hate", "SelfHarm", "Sexual", "Violence"]}, severity=_LEVEL)
    ),
)
EVENT: Final = shape(("event",), event=TEXT, data=TEXT)
"""An event of a stream."""
