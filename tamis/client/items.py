"""What can be judged, as ``POST /moderate`` takes it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, TypeGuard


class Exchange(TypedDict):
    """A user's request to a model, and where there is one the response to it."""

    prompt: str
    response: NotRequired[str]


class Document(TypedDict):
    """What a tool, page, mail or file said, and what the user had asked: judged for attacks."""

    document: str
    prompt: NotRequired[str]


class Plain(TypedDict):
    """A post or comment, addressed to people."""

    text: str


class Conversation(TypedDict):
    """Messages as chat APIs have them, contents being texts; the latest exchange is judged."""

    messages: Sequence[Mapping[str, Any]]


Item = str | Exchange | Document | Plain | Conversation
"""A text alone is a prompt."""
Explain = Literal["evidence", "reason"]


def is_item(given: object) -> TypeGuard[Item]:
    """Whether it is one item; what is wrong within is the service's to say."""
    return isinstance(given, str | Mapping)
