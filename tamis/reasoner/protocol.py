"""How the policy reasoner is asked and how it answers: one format for training, export, serving.

The task is GSPR's (arXiv 2509.24418, section 3): a policy in words and a conversation in, a safety
label, the one category that fits best, and a short reason out. What differs from the paper:

* Everything that depends on the policy alone comes first (``prefix``), so that a server computes
  it once and keeps the keys and values. Whether a prompt or a response is judged stands behind it.
* The verdict comes before the reason (``verdict-first``). A reason of 35 words is some 45 tokens of
  decoding; a verdict behind the prompt is read off one prefill. ``reason-first`` is the paper's.

Text becomes tokens piece by piece (``encode``): what callers wrote can never become a control
token, and a category's name has the same tokens wherever it stands.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from tamis.content import Content, Question
from tamis.taxonomy import UnknownCategoryError, taxonomy

Safety = Literal["safe", "unsafe"]
Order = Literal["verdict-first", "reason-first"]

VERSION: Final = 1
NOT_APPLICABLE: Final = "not applicable"
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
# A reason that goes round in circles is not one (the paper's format gate).
REPEATED: Final = 5
REPEATS: Final = 10
MAX_CATEGORIES: Final = 64
MAX_NAME: Final = 80
MAX_DEFINITION: Final = 600

SPEAKERS: Final[Mapping[Question, tuple[str, str]]] = {
    "prompt": ("User", "user's message"),
    "response": ("Agent", "agent's response"),
    "toxicity": ("Post", "post"),
}
RULES: Final[Mapping[Order, str]] = {
    "verdict-first": (
        "First answer \\safety{safe} or \\safety{unsafe}. Then name the one category that fits "
        "best in \\category{}, or \\category{not applicable} if safe. Then give one short reason "
        "that quotes the deciding words."
    ),
    "reason-first": (
        "First give one short reason that quotes the deciding words, within <think> </think>. "
        "Then answer \\safety{safe} or \\safety{unsafe}. Then name the one category that fits "
        "best in \\category{}, or \\category{not applicable} if safe."
    ),
}


class GuidelineError(ValueError):
    """Categories that no policy can have; the message names the category and the limit."""


class MalformedError(ValueError):
    """A generation that is no answer. ``fault`` is a word for counting; texts are not quoted."""

    def __init__(self, fault: "Fault") -> None:
        super().__init__(fault)
        self.fault = fault


Fault = Literal[
    "layout", "safety", "category", "contradiction", "no_reason", "repetition", "quotation"
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)


@dataclass(frozen=True, slots=True)
class Format:
    """What a reasoner was taught to write. A bundle carries it, and serving keeps to it."""

    order: Order = "verdict-first"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION or self.order not in get_args(Order):
            raise ValueError(f"unknown answer format: {self.order!r}, version {self.version!r}")


class Guideline(NamedTuple):
    """One category of a policy as the reasoner reads it; without a definition, by name alone."""

    name: str
    definition: str | None = None


class Piece(NamedTuple):
    """A run of text, or one control token (``control``)."""

    text: str
    control: bool = False


Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the reasoner says. ``category`` is None exactly where it is safe."""

    safety: Safety
    category: str | None
    reason: str


def guidelines(categories: Mapping[str, str | None]) -> tuple[Guideline, ...]:
    """Categories, with definitions where there are any, as a policy's in their order.

    A category of Tamis's own taxonomy without a definition takes the taxonomy's.

    Raises:
        GuidelineError: naming the category and what is wrong with it.
    """
    if not categories:
        raise GuidelineError("a policy needs at least one category")
    if len(categories) > MAX_CATEGORIES:
        raise GuidelineError(f"{len(categories)} categories are over the limit of {MAX_CATEGORIES}")
    found = tuple(Guideline(n, _definition(n, text)) for n, text in categories.items())
    for name, definition in found:
        # The name is the answer: it must survive being written between braces on one line.
        # What cannot be printed may have no token, and two names the same ones.
        odd = re.search(r"[{}\\]", name) or not name.isprintable()
        if not name or name != " ".join(name.split()) or odd:
            raise GuidelineError(
                f"category {name[:MAX_NAME]!r}: a name is one line of printable characters without "
                "braces, backslashes and spare blanks"
            )
        if name == NOT_APPLICABLE:
            raise GuidelineError(f"category {name!r}: that is the answer where none applies")
        if len(name) > MAX_NAME:
            raise GuidelineError(
                f"category {name[:MAX_NAME]!r}…: the name has {len(name)} characters, the limit "
                f"is {MAX_NAME}"
            )
        if definition is not None and len(definition) > MAX_DEFINITION:
            raise GuidelineError(
                f"category {name!r}: the definition has {len(definition)} characters, the limit "
                f"is {MAX_DEFINITION}"
            )
    return found


def prefix(policy: Sequence[Guideline], form: Format, note: str | None = None) -> Pieces:
    """The part of the question that depends on the policy alone: compute it once, keep its cache.

    Equal categories in equal order give equal pieces; a policy's name plays no part. ``note`` is a
    question that the categories answer, for ``/v1/decisions``; policies have none.
    """
    lines = [f"- {n}: {text}" if text else f"- {n}" for n, text in policy]
    asked = [] if note is None else [f"Question: {note}"]
    system = (
        "Decide whether a text is unsafe under a policy. It is unsafe only if it fits one of these "
        "categories:\n" + "\n".join([*lines, *asked, RULES[form.order]])
    )
    return (
        Piece(START, True),
        Piece(f"system\n{system}"),
        Piece(END, True),
        Piece("\n"),
        Piece(START, True),
        Piece("user\n"),
    )


def case(content: Content) -> Pieces:
    """The part that follows ``prefix``: the text, what of it is judged, and the answer's turn."""
    speaker, judged = SPEAKERS[content.question]
    context = content.context or ""
    if context and not _TURN.match(context):
        context = f"User: {context}"
    context += "\n" if context else ""
    return (
        Piece(f"{context}{speaker}: {content.text}\n\nIs the {judged} safe?"),
        Piece(END, True),
        Piece("\n"),
        Piece(START, True),
        Piece("assistant\n"),
    )


def verdict(safety: Safety, category: str | None) -> Pieces:
    """The verdict as it is written; each label is a piece of its own."""
    return (
        Piece("\\safety{"),
        Piece(safety),
        Piece("}\\category{"),
        Piece(category or NOT_APPLICABLE),
        Piece("}"),
    )


def answer(given: Answer, form: Format) -> Pieces:
    """A whole answer with the end of its turn: what training teaches."""
    said = verdict(given.safety, given.category)
    if form.order == "verdict-first":
        return (*said, Piece("\n"), Piece(given.reason), Piece(END, True))
    return (Piece("<think>"), Piece(given.reason), Piece("</think>"), *said, Piece(END, True))


def given(said: Answer, form: Format) -> Pieces:
    """What of an answer stands before its reason, where its verdict is another's.

    Raises:
        ValueError: where the reason comes first.
    """
    if form.order != "verdict-first":
        raise ValueError("a verdict can only be given where it comes before the reason")
    return (*verdict(said.safety, said.category), Piece("\n"))


def encode(
    pieces: Iterable[Piece],
    text_ids: Callable[[str], Sequence[int]],
    control_ids: Mapping[str, int],
) -> list[int]:
    """Token ids of pieces.

    Args:
        pieces: what is to be encoded.
        text_ids: encodes plain text without adding or recognising control tokens: with
            ``tokenizers``, ``encode_special_tokens`` set and ``add_special_tokens=False``.
        control_ids: ids of ``START`` and ``END``.
    """
    ids: list[int] = []
    for text, control in pieces:
        if control:
            ids.append(control_ids[text])
        else:
            ids.extend(text_ids(text))
    return ids


def as_text(pieces: Iterable[Piece]) -> str:
    """The pieces in one string, as a chat template would have written it."""
    return "".join(piece.text for piece in pieces)


# What a conversation of several turns begins with (``/v1/decisions``).
_TURN: Final = re.compile(r"(User|Agent|Agent calls|Rules|Tool): ")

_LAYOUTS: Final[Mapping[Order, "re.Pattern[str]"]] = {
    "verdict-first": re.compile(r"\s*\\safety\{([^{}]*)\}\s*\\category\{([^{}]*)\}(.*)", re.DOTALL),
    "reason-first": re.compile(
        r"\s*<think>(.*)</think>\s*\\safety\{([^{}]*)\}\s*\\category\{([^{}]*)\}\s*", re.DOTALL
    ),
}


def parse(text: str, categories: Iterable[str], form: Format) -> Answer:
    """Read a generation without the end of its turn.

    Strict: labels must be spelt as they were given, whitespace around and within them aside. A
    finished turn is the caller's to check, since a text that was cut off may still parse.

    Raises:
        MalformedError: naming what is wrong; nothing is guessed.
    """
    match = _LAYOUTS[form.order].fullmatch(text)
    if match is None:
        raise MalformedError("layout")
    if form.order == "verdict-first":
        said, named, reason = match.groups()
    else:
        reason, said, named = match.groups()
    said, named = (" ".join(label.split()) for label in (said, named))
    if said not in get_args(Safety):
        raise MalformedError("safety")
    if named != NOT_APPLICABLE and named not in set(categories):
        raise MalformedError("category")
    if (said == "safe") != (named == NOT_APPLICABLE):
        raise MalformedError("contradiction")
    return Answer(
        "safe" if said == "safe" else "unsafe",
        None if named == NOT_APPLICABLE else named,
        check_reason(reason),
    )


def check_reason(text: str) -> str:
    """A reason on one line.

    Raises:
        MalformedError: where there is none, where it holds parts of the layout, or where it goes
            round in circles.
    """
    words = text.split()
    if not any(map(str.isalnum, text)):
        raise MalformedError("no_reason")
    if re.search(r"\\(safety|category)\{|</?think>|<\|", text):
        raise MalformedError("layout")
    runs = Counter(tuple(words[n : n + REPEATED]) for n in range(len(words) - REPEATED + 1))
    if runs and max(runs.values()) >= REPEATS:
        raise MalformedError("repetition")
    return " ".join(words)


def _definition(name: str, text: str | None) -> str | None:
    if text is not None:
        return " ".join(text.split()) or None
    try:
        return " ".join(taxonomy().definition(name).split())
    except UnknownCategoryError:
        return None
