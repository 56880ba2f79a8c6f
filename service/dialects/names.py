"""Names of a chat request that another parser may read otherwise than we do.

Go's encoding/json reads them without regard to case, and of two that are alike others take the
first. What we passed over might be what the model is given, so such a body is refused.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from service.dialects.chat import Call, ChatRequest, Function, Message, Part, Stored
from service.dialects.repeated import Repeated
from service.errors import RequestError

NAMES: Final = frozenset(
    name
    for model in (ChatRequest, Stored, Message, Part, Call, Function)
    for name in model.model_fields
)
TOP: Final = ("messages", "prompt", "input")
# Not what tools are asked: names in there are their own.
BELOW: Final = ("content", "tool_calls", "function", "custom", "function_call")


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


def _odd(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node, Repeated):
        yield from NAMES.intersection(node.twice)
    # "ſ" is an "s" to Go as well, and the sign for kelvin a "k".
    yield from (folded for name in node if (folded := name.casefold()) in NAMES and folded != name)
