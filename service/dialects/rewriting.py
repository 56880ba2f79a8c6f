"""What a gateway sends on, rewritten: every text of a request or an answer masked in its place.

Not the judged texts alone: the model is sent the history, too. What tools are asked is not
rewritten: marks in their arguments would ask for something else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from service.dialects.chat import SAID
from service.dialects.halves import mended
from service.errors import RequestError
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content
from tamis.policy import Policy
from tamis.verdict import Evidence, Verdict

# Where requests and answers have texts, and where these have theirs.
TOP: Final = frozenset(
    ("messages", "prompt", "input", "instructions", "system", "choices", "content", "output")
)
# Of a stored prompt; their names are its author's.
VARIABLES: Final = "variables"
# Some half a second's work.
MOST_PLACES: Final = 1_000_000
BELOW: Final = frozenset(
    ("message", "source", "refusal", "audio", "transcript", "outputs", "results", VARIABLES, *SAID)
)


async def rewritten(
    request: Request,
    place: Sequence[str],
    judged: Sequence[Content],
    policy: Policy,
    verdict: Verdict,
) -> Any:
    """The JSON at a place of a request's body with its texts masked; None where nothing changes.

    Args:
        request: whose body was valid.
        place: names down to what is rewritten.
        judged: the contents of the verdict, whose evidence may be masked.
        policy: which says what is masked; one that scores alone masks nothing.
        verdict: what was found in those contents.

    Raises:
        RequestError: as ``shown_evidence``; or as ``Masks``.
    """
    if policy.mask is None or policy.mode == "score":
        return None
    whole = from_json(mended(await request.body()))
    for name in place:
        whole = whole.get(name) if isinstance(whole, dict) else None
    spots = list(_texts(whole, TOP))
    shown = [content.plain(holder[key], f"[{n}]") for n, (holder, key) in enumerate(spots)]
    evidence = list(shown_evidence(verdict, judged, shown))
    moderator = moderator_of(request)
    (masked,) = await moderator.mask(request, [shown], policy.mask, [evidence])
    if not any(one.spans for one in masked):
        return None
    for (holder, key), one in zip(spots, masked, strict=True):
        holder[key] = one.text
    return whole


def response(answer: Mapping[str, Any]) -> Response:
    """An answer that has such a rewrite in it, whatever numbers the caller wrote there."""
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")


def shown_evidence(
    verdict: Verdict, judged: Sequence[Content], shown: Sequence[Content]
) -> Iterator[Evidence]:
    """The evidence of what was judged, where it stands in the texts that are sent on.

    A message is judged as one text; its parts, each a line or more of it, are sent one by one.

    Raises:
        RequestError: where there are too many.
    """
    fields: dict[str, list[str]] = {}
    for one in shown:
        fields.setdefault(one.text, []).append(one.field)
    evidence: dict[str, list[Evidence]] = {}
    for found in verdict.evidence:
        evidence.setdefault(found.field, []).append(found)
    # A text may come many times: it is looked for once, and its places are told once.
    places: dict[tuple[str, int, int, str], Evidence] = {}
    for one in judged:
        within = evidence.get(one.field, ())
        parts = _parts(one.text, fields) if within else []
        if len(parts) * len(within) > MOST_PLACES:
            raise RequestError(
                f"{one.field}: of {len(parts)} parts, which is too many to mask evidence in",
                param=one.field,
                code="too_many_items",
            )
        for found in within:
            for part, at in _over(found, one.text, parts):
                start, end = max(found.start - at, 0), min(found.end - at, len(part))
                places.setdefault((part, start, end, found.category), found)
    for (part, start, end, _), found in places.items():
        for field in fields[part]:
            yield replace(found, start=start, end=end, field=field)


def _parts(whole: str, shown: Iterable[str]) -> list[str]:
    """Those of some texts that may be lines of another."""
    lines = set(whole.split("\n"))
    return [part for part in shown if part and part.partition("\n")[0] in lines]


def _over(found: Evidence, whole: str, parts: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The parts that stand as whole lines in a text over some evidence, and where."""
    for part in parts:
        # Looked for no further than where it would not reach the evidence any more.
        last = min(found.end - 1 + len(part), len(whole))
        at = whole.find(part, max(found.start - len(part) + 1, 0), last)
        while at >= 0:
            end = at + len(part)
            if whole[at - 1 : at] in ("", "\n") and whole[end : end + 1] in ("", "\n"):
                yield part, at
            at = whole.find(part, at + 1, last)


def _texts(node: Any, names: frozenset[str]) -> Iterator[tuple[Any, Any]]:
    """The holders of texts and where they hold them, so that they can be replaced."""
    if isinstance(node, Mapping):
        if node.get("type") == "text":  # as a document's source has its text
            names |= {"data"}
        inner = [(name, one) for name, one in node.items() if name in names]
    elif isinstance(node, list):
        inner = list(enumerate(node))
    else:
        return
    for key, one in inner:
        if isinstance(one, str):
            yield node, key
        elif key == VARIABLES and isinstance(one, Mapping):
            yield from _texts(one, frozenset(one))
        else:
            yield from _texts(one, names if isinstance(node, list) else BELOW)
