"""Conversations as chat APIs write them, and what of them is judged on the way in and out.

Messages of OpenAI's chat completions and responses, of Anthropic's and of Mistral's API. What is no
text (images, sound) is not read.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from service.dialects.dialect import Loose
from tamis.content import Asked, Content, call_field, conversation, last_asked, of_sides, prompt
from tamis.content import Message as Turn


class Part(Loose):
    """A part of a content; ``content`` is what a tool said (Anthropic's ``tool_result``)."""

    type: str = "text"
    text: str | None = None
    input: Any = None
    content: "str | list[Part] | None" = None


Words = str | list[Part] | None


class Function(Loose):
    """What is asked of a tool: JSON in a text, or (Mistral) as it is."""

    arguments: Any = None


class Call(Loose):
    """A call of a tool."""

    function: Function | None = None


class Message(Loose):
    """A turn; of the responses API also a call (``arguments``) and what came back (``output``)."""

    role: str | None = None
    type: str = "message"
    content: Words = None
    tool_calls: list[Call] | None = None
    arguments: Any = None
    output: Words = None

    @property
    def turn(self) -> Turn:
        """The turn as it is judged."""
        if self.type.endswith("call_output"):
            return Turn("tool", words_of(self.output))
        if self.type.endswith("_call"):
            return Turn("assistant", "", (("arguments", said(self.arguments)),))
        text, tools = words_of(self.content), list(_tools(self.content))
        for n, call in enumerate(self.tool_calls or ()):
            if call.function is not None:
                tools.append((call_field(n), said(call.function.arguments)))
        # Anthropic's user hands on what tools said; that alone is no request of theirs.
        role = "tool" if tools and not text and self.role == "user" else self.role or ""
        return Turn(role, text, tuple(tools))


def words_of(given: Words) -> str:
    """The text of a content."""
    if given is None or isinstance(given, str):
        return given or ""
    return "\n".join(part.text for part in given if part.text)


def said(given: Any) -> str:
    """Arguments as text."""
    if given is None or isinstance(given, str):
        return given or ""
    return json.dumps(given, ensure_ascii=False)


def _tools(given: Words) -> Iterable[tuple[str, str]]:
    """What a content's parts ask of tools, or hand on from them."""
    for n, part in enumerate(given if isinstance(given, list) else ()):
        if part.type == "tool_result":
            yield f"content[{n}].content", words_of(part.content)
        if part.type == "tool_use":
            yield f"content[{n}].input", said(part.input)


class ChatRequest(Loose):
    """A request to a model: its messages, or (completions, responses, embeddings) its texts."""

    messages: list[Message] | None = None
    prompt: str | list[str] | None = None
    input: str | list[str | Message] | None = None

    @property
    def turns(self) -> list[Turn]:
        """All that it says, as turns."""
        if self.messages is not None:
            return [message.turn for message in self.messages]
        given = self.prompt if self.input is None else self.input
        texts = [given] if isinstance(given, str) else given or []
        return [Turn("user", t) if isinstance(t, str) else t.turn for t in texts]

    @property
    def asked(self) -> tuple[Content, ...]:
        """What an input hook judges: what the user says, and what tools were asked and said.

        Texts that are no conversation are all asked. Answers were judged on their way out.
        """
        if self.messages is None:
            given, name = (self.prompt, "prompt") if self.input is None else (self.input, "input")
            if isinstance(given, str):
                return (prompt(given, name),)
            texts = [text for text in given or () if isinstance(text, str)]
            if texts:
                return tuple(prompt(t, f"{name}[{n}]") for n, t in enumerate(texts))
        return of_sides(conversation(self.turns), ("prompt", "document"))

    @property
    def request(self) -> Asked:
        """What the user asked last, and what was said before: in its light an answer is judged."""
        return last_asked(self.turns)


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
        turns = [message.turn for message in self.output or ()]
        if self.content is not None:
            turns.append(Message(role="assistant", content=self.content).turn)
        for choice in self.choices or ():
            message = choice.message or Message(content=choice.text)
            turns.append(message.model_copy(update={"role": "assistant"}).turn)
        return answers(turns, request)


def answers(turns: Sequence[Turn], asked: Asked) -> tuple[Content, ...]:
    """What assistants said and asked of tools, in the light of a request."""
    found = conversation([Turn("user", asked.request), *turns], asked.earlier)
    return of_sides(found, ("response", "document"))
