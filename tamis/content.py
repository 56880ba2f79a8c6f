"""What is judged: a prompt, a response to it, a document from outside, a plain text."""

import re
from collections import deque
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
# Roles of messages that tools wrote, and of those whose word is the operator's.
TOOLS: Final = frozenset({"tool", "function"})
OPERATORS: Final = frozenset({"system", "developer"})
# Whoever is none of these is a user: a role that is misspelt, or made up, is no way past.
OTHERS: Final = TOOLS | OPERATORS | {"assistant"}
# Characters that are read of earlier turns, and of these together with the request. Measured in
# docs/robustness.md: of more words harmful last turns get lost, and old topics taint calm ones.
EARLIER: Final = 200
LIGHT: Final = 400
# How a call without arguments is written. Signs alone look like an attack to a model.
NOTHING: Final = frozenset({"", "{}", "[]", "null"})
# What a cut left of a word.
TORN: Final = re.compile(r"\A\S{0,20}(?:\s+|\Z)")


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
    attack the model that reads it (behind what its user asked). ``context`` is what the text is
    read behind, made by ``behind``. ``field`` is where the text stood in the request, so that
    evidence can point back to it.
    """

    question: Question
    text: str
    context: str | None = None
    field: str = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; what system and developer say is not judged.

    ``tools`` is what it says to tools, or hands on from them beside its content: the field within
    the message, and the text.
    """

    role: str
    content: str
    tools: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer answers: a request, and the newest words of the turns before it."""

    request: str = ""
    earlier: tuple[str, ...] = ()


def newest(turns: Sequence[str], room: int = EARLIER) -> tuple[str, ...]:
    """The last words of turns, whole words and ``room`` characters at most, whatever they hold."""
    found: list[str] = []
    for turn in reversed(turns):
        if room <= 0:
            break
        # Blanks have no words, and take no room: 200 at a turn's end would hide it.
        if not (turn := turn.strip()):
            continue
        if len(turn) > room:
            turn = TORN.sub("", turn[-room:])
        if turn:
            found.append(turn)
        room -= len(turn) + 1
    return tuple(reversed(found))


def behind(earlier: Sequence[str], request: str | None = None, room: int = EARLIER) -> str | None:
    """What a text is read behind: the newest words of earlier turns, and the request it answers.

    Training and serving both ask here, so that a model is served what it was taught on. Earlier
    turns get ``room`` characters before the request, and leave it its own: a long one says itself
    what it is about. None where there is nothing, which is no empty request.
    """
    if not earlier:
        return request
    if request is None:
        return "\n".join(newest(earlier, room)) or None
    return "\n".join([*newest(earlier, min(room, LIGHT - len(request))), request])


def prompt(text: str, field: str = "prompt", earlier: Sequence[str] = ()) -> Content:
    """A user's request to a model, judged in the light of what was said before."""
    return Content("prompt", text, context=behind(earlier), field=field)


def response(text: str, to: str, field: str = "response", earlier: Sequence[str] = ()) -> Content:
    """A model's answer, judged in the light of the prompt it answers and of what was before it."""
    return Content("response", text, context=behind(earlier, to), field=field)


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


def conversation(messages: Sequence[Message], earlier: Sequence[str] = ()) -> tuple[Content, ...]:
    """The latest exchange of a conversation, in the light of the turns before it.

    That is its last user message, those that stand directly before it, and what came back: answers,
    and as documents, in the light of the last user message alone, what tools were asked and what
    they said. Earlier turns were judged when they were the latest; judging them again would block
    a conversation for ever on one old turn. What was not answered has not been.

    Args:
        messages: turns, in order.
        earlier: what was said before them.
    """
    at = _last_asked(messages)
    asked = Asked() if at is None else _asked(messages, at, earlier)
    first = 0 if at is None else _unanswered(messages, at)
    latest = (i for i in range(first, len(messages)) if i >= (at or 0) or _is_user(messages[i]))
    found = [content for i in latest for content in _came_back(i, messages[i], asked)]
    if at is None:
        return tuple(found)
    prompts = []
    # As many as ``newest`` looks at: with all of them, 110,000 turns of one user took ten minutes.
    before = deque(filter(str.strip, [*earlier, *said(messages[:first])]), EARLIER)
    for i in range(first, at + 1):
        text = messages[i].content
        if i == at or (_is_user(messages[i]) and text.strip()):
            prompts.append(prompt(text, _field(i), newest(before)))
        if text.strip() and _speaks(messages[i]):
            before.append(text)
    return (*prompts, *found)


def said(messages: Sequence[Message]) -> list[str]:
    """What user and assistant said: a light that neither operator nor tools can colour."""
    return [m.content for m in messages if _speaks(m)]


def last_asked(messages: Sequence[Message]) -> Asked:
    """What the next answer answers."""
    at = _last_asked(messages)
    return Asked() if at is None else _asked(messages, at)


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


def _is_user(message: Message) -> bool:
    return message.role not in OTHERS


def _speaks(message: Message) -> bool:
    return _is_user(message) or message.role == "assistant"


def _last_asked(messages: Sequence[Message]) -> int | None:
    """The last message of a user; a blank one asks nothing, unless there is no other."""
    asked = [i for i, message in enumerate(messages) if _is_user(message)]
    return max((i for i in asked if messages[i].content.strip()), default=max(asked, default=None))


def _unanswered(messages: Sequence[Message], at: int) -> int:
    """Where the messages begin that nobody has answered before the last one of a user."""
    while at and not _answers(messages[at - 1]):
        at -= 1
    return at


def _answers(message: Message) -> bool:
    """Whether the model said or asked something, or a tool that it asked did."""
    if _is_user(message) or message.role in OPERATORS:
        return False
    return bool(message.content.strip() or message.tools)


def _asked(messages: Sequence[Message], at: int, earlier: Sequence[str] = ()) -> Asked:
    return Asked(messages[at].content, newest([*earlier, *said(messages[:at])]))


def _came_back(index: int, message: Message, asked: Asked) -> Iterator[Content]:
    if message.content and message.role == "assistant":
        yield response(message.content, asked.request, _field(index), asked.earlier)
    if message.content and message.role in TOOLS:
        yield document(message.content, asked.request, _field(index))
    for field, text in message.tools:
        if says_something(text):
            yield document(text, asked.request, f"messages[{index}].{field}")


def says_something(asked: str) -> bool:
    """Whether what is asked of a tool has anything in it."""
    return asked.strip() not in NOTHING


def _field(index: int) -> str:
    return f"messages[{index}].content"
