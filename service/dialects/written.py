"""Policies that are written out in a body, in which every name stands once, as in files.

A parser keeps the last of several, unasked: of one category with two pairs of thresholds the laxer
could win. Only a body that has such a policy is parsed again to see.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from service.dialects.halves import mended
from service.errors import RequestError


class _Repeated(dict[str, Any]):
    """An object in which some names stand more than once."""

    twice: frozenset[str]


def check_written(body: bytes, asked: str | Mapping[str, Any] | None, *holder: str) -> None:
    """Refuse names that stand twice in the policy of a body; ``holder`` leads to its field.

    Raises:
        RequestError: naming the first of them.
    """
    if not isinstance(asked, Mapping):
        return
    # Numbers are not looked at, and some are too long for Python.
    there = json.loads(
        mended(body), object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str
    )
    for name in holder:
        there = there[name]
    if isinstance(there, _Repeated) and "policy" in there.twice:
        raise _refusal("policy")
    left = [there["policy"]]
    while left:
        match left.pop():
            case _Repeated(twice=twice):
                raise _refusal(min(twice))
            case dict() as found:
                left += found.values()
            case list() as found:
                left += found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    counts = Counter(name for name, _ in pairs)
    repeated.twice = frozenset(name for name, count in counts.items() if count > 1)
    return repeated


def _refusal(name: str) -> RequestError:
    return RequestError(f"policy: {name!r} stands twice", param="policy", code="invalid_policy")
