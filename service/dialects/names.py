"""Names of a chat request that another parser may read otherwise than we do.

Go's encoding/json reads them without regard to case, and of two that are alike others take the
first. What we passed over might be what the model is given, so such a body is refused.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from service.dialects.chat import Call, ChatRequest, Function, Message, Part, Stored
from service.errors import RequestError

NAMES: Final = frozenset(
    name
    for model in (ChatRequest, Stored, Message, Part, Call, Function)
    for name in model.model_fields
)
TOP: Final = ("messages", "prompt", "input")
# Not what tools are asked: names in there are their own.
BELOW: Final = ("content", "tool_calls", "function", "custom", "function_call")


class _Twice(dict[str, Any]):
    """An object in which names stand more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, many in Counter(name for name, _ in pairs).items() if many > 1]


def parsed(body: str) -> Any:
    """Valid JSON, in which ``check_names`` sees what stands there twice."""
    return json.loads(body, object_pairs_hook=_object)


def check_names(node: Any, where: str = "", below: Iterable[str] = TOP) -> None:
    """Refuse a request in which a name that we read stands in another form, or twice.

    Raises:
        RequestError: naming it.
    """
    if isinstance(node, list):
        for n, one in enumerate(node):
            check_names(one, f"{where}[{n}]", BELOW)
    elif isinstance(node, dict):
        under = f"{where}." if where else ""
        for name in _odd(node):
            raise RequestError(
                f"{under}{name}: must stand there once, and in small letters",
                param=f"{under}{name}",
            )
        for name in below:
            if isinstance(inner := node.get(name), dict | list):
                check_names(inner, f"{under}{name}", BELOW)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(pairs)


def _odd(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node, _Twice):
        yield from NAMES.intersection(node.names)
    # "ſ" is an "s" to Go as well, and the sign for kelvin a "k".
    yield from (folded for name in node if (folded := name.casefold()) in NAMES and folded != name)
