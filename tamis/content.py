"""What is judged: a prompt, a response to it, a document from outside, a plain text."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Question = Literal["prompt", "response", "toxicity", "attack"]
Side = Literal["prompt", "response", "document"]
"""A side of an exchange, as ``judge`` names it; documents are all that came from outside."""
SIDE_OF: Final[Mapping[Question, Side]] = {
    "prompt": "prompt",
    "response": "response",
    "attack": "document",
}
# Roles of messages that tools wrote.
TOOLS: Final = frozenset({"tool", "function"})


class NotThereError(ValueError):
    """A side of an exchange that is to be judged, and that an item does not have."""

    def __init__(self, side: Side) -> None:
        super().__init__(f"has no {side} to judge")
        self.side = side


@dataclass(frozen=True, slots=True)
class Content:
    """One text and the question asked of it.

    ``question`` names the head that answers "is it unsafe?": does a prompt ask for harm, does a
    response give it (read behind the prompt it answers), is a plain text toxic, does a document
    attack the model that reads it (behind what its user asked). ``field`` is where the text stood
    in the request, so that evidence can point back to it.
    """

    question: Question
    text: str
    context: str | None = None
    field: str = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; of roles other than user, assistant and tool nothing is judged.

    ``tools`` is what it says to tools, or hands on from them beside its content: the field within
    the message, and the text.
    """

    role: str
    content: str
    tools: tuple[tuple[str, str], ...] = ()


def prompt(text: str, field: str = "prompt") -> Content:
    """A user's request to a model."""
    return Content("prompt", text, field=field)


def response(text: str, to: str, field: str = "response") -> Content:
    """A model's answer, judged in the light of the prompt it answers."""
    return Content("response", text, context=to, field=field)


def plain(text: str, field: str = "text") -> Content:
    """A post or comment, addressed to people rather than to a model."""
    return Content("toxicity", text, field=field)


def document(text: str, to: str | None = None, field: str = "document") -> Content:
    """What a tool, page, mail or file said, ``to`` what the user had asked (None: not known).

    It is nobody's request: only whether it tries to steer the model is asked, and whatever else it
    speaks of is allowed.
    """
    return Content("attack", text, context=to or None, field=field)


def exchange(request: str, answer: str) -> tuple[Content, ...]:
    """A prompt and its response: both are judged, the response in context."""
    return prompt(request), response(answer, request)


def conversation(messages: Sequence[Message]) -> tuple[Content, ...]:
    """The latest exchange of a conversation: its last user message and what came back.

    That is, in the light of the user's message: answers, and as documents what tools were asked and
    what they said. Earlier turns were judged when they were the latest; judging them again would
    block a conversation for ever on one old turn.
    """
    at = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    asked = () if at is None else (prompt(messages[at].content, _field(at)),)
    request = messages[at].content if at is not None else ""
    latest = range(at or 0, len(messages))
    return (*asked, *(content for i in latest for content in _came_back(i, messages[i], request)))


def call_field(number: int) -> str:
    """Where a message says what it asks of a tool."""
    return f"tool_calls[{number}].function.arguments"


def judged(contents: Sequence[Content], sides: Collection[Side] | None) -> tuple[Content, ...]:
    """Of an item's contents those of the sides that are to be judged; None judges all.

    What is left out is context only: a response is still read behind its prompt.

    Raises:
        NotThereError: where the item lacks one of the sides. To pass it unjudged would look like a
            verdict of "safe".
    """
    if sides is None:
        return tuple(contents)
    found = of_sides(contents, sides)
    there = {SIDE_OF[content.question] for content in found}
    for side in sides:
        if side not in there:
            raise NotThereError(side)
    return found


def of_sides(contents: Sequence[Content], sides: Collection[Side]) -> tuple[Content, ...]:
    """Of an item's contents those of some sides, which may be none."""
    return tuple(content for content in contents if SIDE_OF.get(content.question) in sides)


def _came_back(index: int, message: Message, request: str) -> Iterator[Content]:
    if message.content and message.role == "assistant":
        yield response(message.content, request, _field(index))
    if message.content and message.role in TOOLS:
        yield document(message.content, request, _field(index))
    for field, text in message.tools:
        if text:
            yield document(text, request, f"messages[{index}].{field}")


def _field(index: int) -> str:
    return f"messages[{index}].content"
