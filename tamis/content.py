"""What is judged: a prompt, a response to a prompt, a plain text, or a conversation."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Question = Literal["prompt", "response", "toxicity"]
Side = Literal["prompt", "response"]
"""A side of an exchange, as ``judge`` names it."""


class NotThereError(ValueError):
    """A side of an exchange that is to be judged, and that an item does not have."""

    def __init__(self, side: Side) -> None:
        super().__init__(f"has no {side} to judge")
        self.side = side


@dataclass(frozen=True, slots=True)
class Content:
    """One text and the question asked of it.

    ``question`` names the head that answers "is it unsafe?": does a prompt ask for harm, does a
    response give it (read behind the prompt it answers), is a plain text toxic. ``field`` is where
    the text stood in the request, so that evidence can point back to it.
    """

    question: Question
    text: str
    context: str | None = None
    field: str = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; roles other than user and assistant are never judged."""

    role: str
    content: str


def prompt(text: str, field: str = "prompt") -> Content:
    """A user's request to a model."""
    return Content("prompt", text, field=field)


def response(text: str, to: str, field: str = "response") -> Content:
    """A model's answer, judged in the light of the prompt it answers."""
    return Content("response", text, context=to, field=field)


def plain(text: str, field: str = "text") -> Content:
    """A post or comment, addressed to people rather than to a model."""
    return Content("toxicity", text, field=field)


def exchange(request: str, answer: str) -> tuple[Content, ...]:
    """A prompt and its response: both are judged, the response in context."""
    return prompt(request), response(answer, request)


def conversation(messages: Sequence[Message]) -> tuple[Content, ...]:
    """The latest exchange of a conversation: its last user message and what came back.

    Earlier turns were judged when they were the latest; judging them again would block a
    conversation for ever on one old turn.
    """
    at = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    asked = () if at is None else (prompt(messages[at].content, _field(at)),)
    request = messages[at].content if at is not None else ""
    answers = _assistant_turns(messages, after=-1 if at is None else at)
    return (*asked, *(response(m.content, request, _field(i)) for i, m in answers))


def judged(contents: Sequence[Content], sides: Collection[Side] | None) -> tuple[Content, ...]:
    """Of an item's contents those of the sides that are to be judged; None judges all.

    What is left out is context only: a response is still read behind its prompt.

    Raises:
        NotThereError: where the item lacks one of the sides. To pass it unjudged would look like a
            verdict of "safe".
    """
    if sides is None:
        return tuple(contents)
    there = {content.question for content in contents}
    for side in sides:
        if side not in there:
            raise NotThereError(side)
    return tuple(content for content in contents if content.question in sides)


def _assistant_turns(messages: Sequence[Message], after: int) -> Iterable[tuple[int, Message]]:
    return (
        (i, m) for i, m in enumerate(messages) if i > after and m.role == "assistant" and m.content
    )


def _field(index: int) -> str:
    return f"messages[{index}].content"
