"""JSON in which is still seen what stands there twice: parsers keep the last of two, unasked."""

import json
from collections import Counter
from typing import Any

from service.dialects.halves import mended


class Repeated(dict[str, Any]):
    """An object in which some names stand more than once."""

    twice: frozenset[str]


def parsed(body: bytes) -> Any:
    """Valid JSON; its numbers are texts, since some are too long for Python."""
    return json.loads(
        mended(body), object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = Repeated(found)
    counts = Counter(name for name, _ in pairs)
    repeated.twice = frozenset(name for name, count in counts.items() if count > 1)
    return repeated
