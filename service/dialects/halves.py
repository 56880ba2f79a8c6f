r"""JSON in which half of a surrogate pair stands alone: JavaScript writes it, and Go reads it.

A text that was cut within an emoji has one (``"\ud83d"``). It is no character, and JSON's parser
refuses it; but gateways that fail open would let the text through unread. So it is read as U+FFFD,
as Go does: one character for one, and offsets hold.
"""

import re
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from service.dialects.values import check_values

T = TypeVar("T")

# Pairs and whatever else is whole, in one go; or a half. Nothing is tried twice.
PIECE: Final = re.compile(
    rb"((?:[^\\]++"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\(?!u[dD][89a-fA-F][0-9a-fA-F]{2})[\s\S])++)"
    rb"|\\u[0-9a-fA-F]{4}"
)
UNKNOWN: Final = rb"\ufffd"


def mended(body: bytes) -> bytes:
    """A body in which U+FFFD stands for every half."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    return PIECE.sub(lambda found: found[1] or UNKNOWN, body)


def validated(body: TypeAdapter[T], given: bytes) -> T:
    """What a body says.

    Raises:
        RequestError: as ``check_values``.
        ValidationError: naming the field at fault.
    """
    check_values(given)
    try:
        return body.validate_json(given)
    except ValidationError as error:
        # Looked for last: few have any, and most escapes are of whole pairs.
        invalid = error.errors(include_input=False)[0]["type"] == "json_invalid"
        if not invalid or (whole := mended(given)) == given:
            raise
    return body.validate_json(whole)
