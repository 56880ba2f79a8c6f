"""``/ext-authz/…``: Envoy's external authorisation over HTTP, for Envoy, Istio and Contour.

Envoy sends a request here before it sends it on: 200 lets it through, any other status is what the
client gets, and 5xx is a failure of ours (``failure_mode_allow``). Only requests pass here, so only
what users ask and tools said is judged.
"""

import codecs
from typing import Any, Final

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from service.dialects.chat import TAGS, ChatRequest
from service.dialects.dialect import Dialect
from service.dialects.halves import mended, validated
from service.dialects.hook import blocks, refusal_of, verdict_of
from service.dialects.names import check_names
from service.dialects.repeated import parsed
from service.dialects.values import check_values
from service.errors import RequestError, from_validation
from service.moderation.moderator import moderator_of

router = Dialect(hook=True)

PARTIAL: Final = "x-envoy-auth-partial-body"
BODY: Final = TypeAdapter(ChatRequest)
PATH: Final = "/ext-authz/{path:path}"
# Envoy asks by the method of the request that it holds.
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router.judging.add(PATH)


@router.api_route(PATH, methods=METHODS, include_in_schema=False)
async def check(request: Request) -> Response:
    """Judge the request that the client makes; one without a body asks nothing."""
    body = await request.body()
    if not body:
        return Response()
    cut = request.headers.get(PARTIAL) == "true"
    if cut and moderator_of(request).settings.partial_bodies == "refuse":
        raise RequestError(
            "the body is longer than what Envoy sends to be judged (max_request_bytes)",
            code="body_too_large",
            status=413,
        )
    given = _read(body, cut)
    if given.messages is None and given.prompt is None and given.input is None:
        raise RequestError("the body has no messages, prompt or input to judge")
    verdict = await verdict_of(request, given.asked)
    headers = {"x-tamis-action": verdict.action.value}
    if not blocks(verdict):
        return Response(headers=headers)
    blocked = RequestError(refusal_of(verdict), code="content_blocked", status=403, headers=headers)
    request.state.code = blocked.code
    return blocked.response()


def _read(body: bytes, cut: bool) -> ChatRequest:
    """A request; of a cut one what is there, to the last letter."""
    try:
        if not cut:
            given = validated(BODY, body)
            check_names(parsed(body))
            return given
        check_values(body)
        text = codecs.getincrementaldecoder("utf-8")().decode(mended(body))
        there: Any = from_json(text, allow_partial="trailing-strings")
        check_names(there)
        return BODY.validate_python(there)
    except ValidationError as error:
        raise from_validation(error, TAGS) from None
    except ValueError:  # of the decoder, or the parser
        raise RequestError("the body is not valid JSON", code="invalid_json") from None
