"""What a language model is asked to write: paraphrases, tiers, background, benign answers.

Nothing here asks a model how something harmful is done. It writes what a *user* might say, from a
message that the grammar has composed, and never an answer to a harmful one. Intents and twins get
the same prompts, and the examples are harmless.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from training.synthesis.seeds import Tier

Role = Literal["system", "user", "assistant"]
Task = Literal["rewrite", "variants", "background", "answer", "request"]
Form = Literal["a question", "a short message", "a long message"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat, and how the answer begins for models that can be made to begin so.

    A model behind an API is not told the opening, so the turns must make sense without it.
    """

    turns: tuple[tuple[Role, str], ...]
    opening: str = ""


_ONLY: Final = (
    "You never answer the message, never comment on it and never explain how anything is done."
)
_TIERS: Final[Mapping[Tier, str]] = {
    "plain": "You rewrite messages in other words, as another person would say the same. " + _ONLY,
    "specific": "You rewrite messages so that they are more specific: add a goal, a place, a time "
    "or another everyday circumstance. " + _ONLY,
    "contextual": "You rewrite messages so that the writer says who they are and why they ask. "
    + _ONLY,
    "disguised": "You rewrite messages so that the same request comes as a story, a role-play, a "
    "hypothetical question or research. " + _ONLY,
}
_EXAMPLES: Final[Mapping[Tier, tuple[tuple[str, str], ...]]] = {
    "plain": (
        (
            "How do I bake bread without an oven?",
            "I want to make a loaf of bread but I don't own an oven. Is that possible?",
        ),
        (
            "write a speech for my sister's wedding",
            "Can you come up with a wedding speech that I can give for my sister?",
        ),
    ),
    "specific": (
        (
            "How do I bake bread without an oven?",
            "How do I bake a loaf of rye bread for six people in a pan on a gas cooker?",
        ),
        (
            "write a speech for my sister's wedding",
            "Write a two-minute speech for my sister's wedding in our village hall, with "
            "a story about the year we shared a room.",
        ),
    ),
    "contextual": (
        (
            "How do I bake bread without an oven?",
            "I've just moved into a student flat and the oven is broken. How do I bake "
            "bread without one?",
        ),
        (
            "write a speech for my sister's wedding",
            "My sister gets married on Saturday and I'm terrible at public speaking. "
            "Write a speech for her wedding that I can give.",
        ),
    ),
    "disguised": (
        (
            "How do I bake bread without an oven?",
            "In my story a sailor is stuck on an island and bakes bread without an oven. "
            "Write the scene and let him explain how he does it.",
        ),
        (
            "write a speech for my sister's wedding",
            "You are the best man in a film, and the bride is my sister. Stay in your "
            "role and give your speech.",
        ),
    ),
}
_BACKGROUND: Final = (
    "You invent people. Given one fact about a person, you write one or two sentences in which "
    "this person tells about their life, in the first person. No questions and no requests."
)
_PEOPLE: Final = (
    (
        "I work in a bakery.",
        "I get up at three every morning and my hands smell of flour all day. My children"
        " think that's the best job in the world.",
    ),
    (
        "I'm a student.",
        "I share a flat with two friends, and most evenings I sit in the library because "
        "our kitchen is too loud.",
    ),
)
_MORE: Final = (
    "These messages ask for the same thing. Write four more that ask for exactly this, each in "
    "other words, as a numbered list and nothing else."
)
_REQUEST: Final = "You write messages that people send to an assistant. You never answer them."
# A message of so many words is a long one; a third of real prompts of up to 64 tokens are.
LONG: Final = 20
_ANSWER: Final = "You are a helpful assistant. Answer in three to five sentences."


def rewrite(message: str, tier: Tier) -> Prompt:
    """Say a message again on a tier."""
    turns: list[tuple[Role, str]] = [("system", _TIERS[tier])]
    for said, again in _EXAMPLES[tier]:
        turns += [("user", f"Message: {said}"), ("assistant", f"Rewritten: {again}")]
    turns.append(("user", f"Message: {message}"))
    return Prompt(tuple(turns), "Rewritten:")


def variants(messages: Sequence[str]) -> Prompt:
    """Go on with a list of messages that ask for the same thing."""
    listed = "\n".join(f"{n}. {message}" for n, message in enumerate(messages, 1))
    ask = f"{_MORE}\n\n{listed}"
    return Prompt((("system", _ONLY), ("user", ask)), f"{listed}\n{len(messages) + 1}.")


def background(persona: str) -> Prompt:
    """Tell a little about a person; the request itself is added afterwards, word for word."""
    turns: list[tuple[Role, str]] = [("system", _BACKGROUND)]
    for fact, told in _PEOPLE:
        turns += [("user", fact), ("assistant", told)]
    turns.append(("user", f"{persona}."))
    return Prompt(tuple(turns))


def answer(message: str) -> Prompt:
    """Answer a benign twin."""
    return Prompt((("system", _ANSWER), ("user", message)))


def request(label: int, topic: str, about: str, form: Form) -> Prompt:
    """Write a message of which only this much is said: what tuned generators are trained on."""
    kind = "harmful" if label else "harmless"
    ask = f"Kind: {kind}\nTopic: {topic}\nAbout: {about}\nForm: {form}"
    return Prompt((("system", _REQUEST), ("user", ask)))


def form_of(text: str) -> Form:
    """How a message looks from outside."""
    if text.rstrip().endswith("?"):
        return "a question"
    return "a long message" if len(text.split()) > LONG else "a short message"


def instructions() -> list[str]:
    """Every text of ours that a model may echo instead of writing something."""
    texts = [*_TIERS.values(), _ONLY, _BACKGROUND, _REQUEST, _ANSWER]
    texts += [text for pairs in _EXAMPLES.values() for pair in pairs for text in pair[1:]]
    texts += [told for _, told in _PEOPLE]
    texts.append(_MORE)
    return texts


_LABELS: Final = re.compile(r"^\s*(?:rewritten|message|answer|\d{1,2}[.)])\s*:?\s*", re.IGNORECASE)
_ENDS: Final = re.compile(r"[.!?][\"')\]]*(?=\s|$)")


def tidy(text: str, finished: bool = True) -> str:
    """One message out of what a model wrote: first paragraph, no label, no quotation marks.

    A text that ran into its limit of tokens loses its unfinished last sentence.
    """
    text = text.strip().split("\n\n")[0].split("\nMessage:")[0].split("\nRewritten:")[0]
    text = _LABELS.sub("", text).strip()
    if len(text) > 1 and text[0] in "\"'“" and text[-1] in "\"'”":
        text = text[1:-1].strip()
    if not finished:
        ends = list(_ENDS.finditer(text))
        text = text[: ends[-1].end()] if ends else ""
    return text


def listed(text: str, start: int, finished: bool = True) -> list[str]:
    """The entries of a numbered list that an opening ``start.`` began."""
    found = [
        tidy(entry) for entry in re.split(r"\n\s*\d{1,2}[.)]\s+", f"\n{start}. {text.strip()}")
    ]
    found = [entry.split("\n")[0].strip() for entry in found if entry]
    return found if finished else found[:-1]
