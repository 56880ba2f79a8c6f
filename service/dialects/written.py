"""Policies that are written out in a body, in which every name stands once, as in files.

A parser keeps the last of several, unasked: of one category with two pairs of thresholds the laxer
could win. Only a body that has such a policy is parsed again to see.
"""

from collections.abc import Mapping
from typing import Any

from service.dialects.repeated import Repeated, parsed
from service.errors import RequestError


def check_written(body: bytes, asked: str | Mapping[str, Any] | None, *holder: str) -> None:
    """Refuse names that stand twice in the policy of a body; ``holder`` leads to its field.

    Raises:
        RequestError: naming the first of them.
    """
    if not isinstance(asked, Mapping):
        return
    there = parsed(body)
    for name in holder:
        there = there[name]
    if isinstance(there, Repeated) and "policy" in there.twice:
        raise _refusal("policy")
    left = [there["policy"]]
    while left:
        match left.pop():
            case Repeated(twice=twice):
                raise _refusal(min(twice))
            case dict() as found:
                left += found.values()
            case list() as found:
                left += found


def _refusal(name: str) -> RequestError:
    return RequestError(f"policy: {name!r} stands twice", param="policy", code="invalid_policy")
