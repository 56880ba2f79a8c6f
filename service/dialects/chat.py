"""Conversations as chat APIs write them, and what of them is judged on the way in and out.

Messages of OpenAI's chat completions and responses, of Anthropic's and of Mistral's API. What is no
text (images, sound without a transcript) is not read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_core import PydanticCustomError

from service.dialects.dialect import Loose
from tamis.content import (
    OPERATORS,
    TOOLS,
    Asked,
    Content,
    call_field,
    conversation,
    last_asked,
    of_sides,
    prompt,
)
from tamis.content import Message as Turn

# What documents are called, and what is said of them.
BESIDE: Final = ("title", "context")
# Where a tool's own form of answer has its words. Images and files are elsewhere (``data``, …).
SAID: Final = (*BESIDE, "text", "content", "output", "stdout", "stderr", "logs")
# Where the responses API has what tools are asked, each kind of tool in a place of its own.
ASKS: Final = ("arguments", "input", "action", "operation", "code", "queries")
# Parts that are words and nothing else.
TEXTS: Final = frozenset({"text", "input_text", "output_text"})
# Who may say nothing: answers and calls have their words elsewhere, and operators are not judged.
SILENT: Final = OPERATORS | {"assistant"}


class Part(Loose):
    """A part of a content; ``content`` is what a tool said (Anthropic's ``tool_result``).

    Also a document that a user hands in (``source``), or one that was found (``content``); what
    these are called, and what is said of them, a model is given as well.
    """

    type: str | None = "text"
    text: str | None = None
    refusal: Any = None
    thinking: Any = None
    input: Any = None
    content: Any = None
    source: Any = None
    title: Any = None
    context: Any = None

    def model_post_init(self, _: Any, /) -> None:
        """Words in a place that we do not know are not to pass as none.

        No validator, which would give the model another name in the path of an error.
        """
        if self.text is None and self.type in TEXTS and "type" in self.model_fields_set:
            raise PydanticCustomError("wordless", "has no text to judge")


Words = str | list[Part] | None


class Function(Loose):
    """What is asked of a tool: JSON in a text, or (Mistral) as it is; of a custom one ``input``."""

    arguments: Any = None
    input: Any = None

    @property
    def asked(self) -> str:
        """All of it, as text."""
        return said(self.input if self.arguments is None else self.arguments)


class Call(Loose):
    """A call of a tool."""

    function: Function | None = None
    custom: Function | None = None

    @property
    def asked(self) -> str:
        """What is asked of the tool."""
        called = self.custom if self.function is None else self.function
        return "" if called is None else called.asked


class Message(Loose):
    """A turn; of the responses API also a call (``ASKS``) and what came back (``output``, …)."""

    role: str | None = None
    type: str | None = "message"
    content: Words = None
    refusal: Any = None
    audio: Any = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    arguments: Any = None
    input: Any = None
    action: Any = None
    operation: Any = None
    code: Any = None
    queries: Any = None
    output: Any = None
    outputs: Any = None
    results: Any = None
    result: Any = None

    def model_post_init(self, _: Any, /) -> None:
        """As of parts; null is a content that a tool may have."""
        if self.kind == "message" and self.role not in SILENT:
            there = "content" in self.model_fields_set if self.role in TOOLS else self.content
            said = self.refusal, self.audio, self.tool_calls, self.function_call
            if there in (None, False) and not any(said):
                raise PydanticCustomError("wordless", "has no content to judge")

    @property
    def kind(self) -> str:
        """Which item of the responses API it is; one with a role is none, and hides no content."""
        return "message" if self.role is not None or not self.type else self.type

    @property
    def turn(self) -> Turn:
        """The turn as it is judged."""
        kind = self.kind
        if kind.endswith("_output"):
            return Turn("tool", words_of([self.output, self.result]))
        if kind != "message":
            # A call; what a model thought, and references, have none of these. What a server has
            # run itself (MCP, code, searches) has its answer beside it; images have theirs there.
            asks = (one for name in ASKS if (one := getattr(self, name)) is not None)
            asked = "arguments", said(next(asks, None))
            answered = "output", words_of([self.output, self.outputs, self.results])
            return Turn("assistant", "", (asked, answered))
        # A model may have declined, or spoken, in place of a content.
        spoken = self.audio.get("transcript") if isinstance(self.audio, dict) else None
        text, tools = words_of([self.content, self.refusal, spoken]), list(_tools(self.content))
        if self.role != "assistant" and isinstance(self.content, list):
            # vLLM gives a model whatever part has words, whose thoughts they may be.
            text = words_of([text, *(part.thinking for part in self.content)])
        tools += ((call_field(n), call.asked) for n, call in enumerate(self.tool_calls or ()))
        if self.function_call is not None:
            tools.append(("function_call.arguments", self.function_call.asked))
        # Anthropic's user hands on what tools said; that alone is no request of theirs.
        role = "tool" if tools and not text and self.role == "user" else self.role or "user"
        return Turn(role, text, tuple(tools))


def words_of(given: Any) -> str:
    """The text of a content, or of what a tool answered in its own form."""
    match given:
        case str():
            return given
        case Part():
            return words_of([given.text, given.refusal])
        case list():
            return "\n".join(filter(None, map(words_of, given)))
        case dict():
            held = [*(given.get(name) for name in SAID), _held(given.get("source"))]
            return "\n".join(filter(None, map(words_of, held)))
    return ""


def _held(source: Any) -> Any:
    """What a document holds: its words, or contents of its own. Files and addresses are no text."""
    if not isinstance(source, dict):
        return None
    return source.get("data") if source.get("type") == "text" else source.get("content")


def said(given: Any) -> str:
    """Arguments as text."""
    if given is None or isinstance(given, str):
        return given or ""
    return json.dumps(given, ensure_ascii=False)


def _tools(given: Words) -> Iterable[tuple[str, str]]:
    """What a content's parts ask of tools, or hand on from them and from documents."""
    for n, part in enumerate(given if isinstance(given, list) else ()):
        kind, place = part.type or "", f"content[{n}]"
        # Also "mcp_tool_use", "web_search_tool_result" and their like.
        if kind.endswith(("tool_result", "search_result")):
            yield f"{place}.content", words_of(part.content)
        if kind.endswith("tool_use"):
            yield f"{place}.input", said(part.input)
        if kind == "document":
            yield f"{place}.source", words_of(_held(part.source))
        if kind in ("document", "search_result"):
            for name in BESIDE:
                yield f"{place}.{name}", words_of(getattr(part, name))


class Stored(Loose):
    """A prompt that the server keeps, of which a request of the responses API fills the blanks."""

    variables: dict[str, Any] | None = None

    @property
    def filled(self) -> Iterator[tuple[str, str]]:
        """The blanks that a model is given words in, by name."""
        for name, value in (self.variables or {}).items():
            if words := words_of(value):
                yield f"variables.{name}", words


class ChatRequest(Loose):
    """A request to a model: its messages, or (completions, responses, embeddings) its texts."""

    messages: list[Message] | None = None
    prompt: str | list[str] | Stored | None = None
    input: str | list[str] | list[Message] | None = None

    @property
    def turns(self) -> list[Turn]:
        """All that it says, as turns."""
        if self.messages is not None:
            return [message.turn for message in self.messages]
        given = self.prompt if self.input is None else self.input
        if isinstance(given, Stored):
            return [Turn("user", text) for _, text in given.filled]
        texts = [given] if isinstance(given, str) else given or []
        return [Turn("user", t) if isinstance(t, str) else t.turn for t in texts]

    @property
    def asked(self) -> tuple[Content, ...]:
        """What an input hook judges: what the user says, and what tools were asked and said.

        Texts that are no conversation are all asked. Answers were judged on their way out. Which of
        the three a model is given is its server's to say, so whatever is there is judged: else a
        kind one would be shown to us, and another to the model.
        """
        given = (("messages", self.messages), ("prompt", self.prompt), ("input", self.input))
        return tuple(content for name, one in given for content in _asked(name, one))

    @property
    def request(self) -> Asked:
        """What the user asked last, and what was said before: in its light an answer is judged."""
        return last_asked(self.turns)


# What pydantic calls the branches of these, which no caller knows.
TAGS: Final = frozenset({"str", "list[Part]", "list[str]", "list[Message]", "Message", "Stored"})


def _asked(name: str, given: str | list[str] | list[Message] | Stored | None) -> Iterator[Content]:
    """What is asked of one field of a request."""
    if isinstance(given, str):
        yield prompt(given, name)
        return
    if isinstance(given, Stored):
        yield from (prompt(text, f"{name}.{blank}") for blank, text in given.filled)
        return
    turns = []
    several: Sequence[str | Message] = given or ()
    for n, one in enumerate(several):
        if isinstance(one, str):
            yield prompt(one, f"{name}[{n}]")
        else:
            turns.append(one.turn)
    for content in of_sides(conversation(turns), ("prompt", "document")):
        yield replace(content, field=name + content.field.removeprefix("messages"))


class Choice(Loose):
    """One of a model's answers."""

    message: Message | None = None
    text: str | None = None


class ChatResponse(Loose):
    """A model's answers; ``output`` as the responses API has them, ``content`` as Anthropic's."""

    choices: list[Choice] | None = None
    output: list[Message] | None = None
    content: Words = None

    def answered(self, request: Asked) -> tuple[Content, ...]:
        """What an output hook judges: the answers and what they ask of tools, never the request."""
        there = list(self._messages())
        turns = [_said_by_assistant(message) for _, _, message in there]
        # The request is the first.
        found = conversation([Turn("user", request.request), *turns], request.earlier)
        places = {f"messages[{n}]": one[:2] for n, one in enumerate(there, 1)}
        return tuple(
            replace(one, field=_placed(one.field, places))
            for one in of_sides(found, ("response", "document"))
        )

    def _messages(self) -> Iterator[tuple[str, str, Message]]:
        """Where each answer stands, what has its words there, and the answer."""
        for n, item in enumerate(self.output or ()):
            yield f"output[{n}].", "content", item
        for n, choice in enumerate(self.choices or ()):
            if choice.message is not None:
                yield f"choices[{n}].message.", "content", choice.message
            else:
                yield f"choices[{n}].", "text", Message(role="assistant", content=choice.text)
        if self.content is not None:
            yield "", "content", Message(role="assistant", content=self.content)


def _placed(field: str, places: Mapping[str, tuple[str, str]]) -> str:
    """A field of a conversation where it stands in an answer."""
    turn, _, rest = field.partition(".")
    place, words = places[turn]
    return place + (words if rest == "content" else rest)


def _said_by_assistant(message: Message) -> Turn:
    """A message of an answer: whoever it names, it is the model's."""
    whose = {} if message.type != "message" else {"role": "assistant"}
    return message.model_copy(update=whose).turn
