"""How people write: rewritings of a message that leave what it asks for as it is."""

import re
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

Register = Callable[[str, np.random.Generator], str]

_SLANG: Final = {
    "you": "u",
    "your": "ur",
    "are": "r",
    "please": "pls",
    "because": "cuz",
    "people": "ppl",
    "want to": "wanna",
    "going to": "gonna",
    "somebody": "someone",
    "without": "w/o",
    "tonight": "2nite",
    "before": "b4",
    "i'm": "im",
    "i'd": "id",
    "i've": "ive",
    "don't": "dont",
    "can't": "cant",
}
_SLANG_WORDS: Final = re.compile(r"\b(" + "|".join(map(re.escape, _SLANG)) + r")\b")
_ARTICLES: Final = re.compile(r"\b(a|an|the) (?=[a-z])", re.IGNORECASE)


def plain(text: str, _rng: np.random.Generator) -> str:
    """As it stands."""
    return text


def slang(text: str, rng: np.random.Generator) -> str:
    """Lower case, chat spellings."""
    opening = _one(("", "", "yo ", "ok so ", "hey ", "bro "), rng)
    text = _SLANG_WORDS.sub(lambda match: _SLANG[match[0]], text.lower())
    return opening + _one((text, text.rstrip(".?!"), text.rstrip(".?!") + " lol"), rng)


def formal(text: str, rng: np.random.Generator) -> str:
    """With the courtesies of a letter."""
    opening = _one(("Good morning. ", "Dear assistant, I have a request. ", "Good evening. "), rng)
    closing = _one(
        ("", " Thank you in advance.", " Kind regards.", " I appreciate your help."), rng
    )
    return opening + text + closing


def worried(text: str, rng: np.random.Generator) -> str:
    """With the writer's unease."""
    opening = _one(
        (
            "I'm a bit nervous about asking. ",
            "I don't know who else to ask. ",
            "Sorry, this is awkward. ",
            "I haven't slept because of this. ",
            "Please don't judge me. ",
        ),
        rng,
    )
    return opening + text


def terse(text: str, _rng: np.random.Generator) -> str:
    """Like a search query: no capital, no full stop, no courtesies."""
    text = re.sub(r"^(please|can you|could you|tell me|i want to know) ", "", text.lower())
    return text.rstrip(".?! ")


def chatty(text: str, rng: np.random.Generator) -> str:
    """Like a chat among friends."""
    opening = _one(("Hey there! ", "Hiya, me again. ", "Hello hello! ", "Hope you're well. "), rng)
    return opening + text + _one(("", " Thanks a lot!", " Cheers!", " You're the best."), rng)


def hasty(text: str, rng: np.random.Generator) -> str:
    """With one to three slips of the keyboard."""
    letters = list(text)
    inside = [
        n
        for n in range(1, len(letters) - 2)
        if all(c.isascii() and c.isalpha() for c in letters[n - 1 : n + 3])
    ]
    for n in rng.choice(inside, size=min(3, len(inside)), replace=False) if inside else ():
        if rng.random() < 0.5:
            letters[n], letters[n + 1] = letters[n + 1], letters[n]
        elif rng.random() < 0.5:
            letters[n] = ""
        else:
            letters[n] *= 2
    return "".join(letters)


def learner(text: str, _rng: np.random.Generator) -> str:
    """Without articles, as learners of English write."""
    return _ARTICLES.sub("", text)


def loud(text: str, rng: np.random.Generator) -> str:
    """In capitals."""
    return text.upper().rstrip(".") + _one(("", "!", "!!"), rng)


def _one(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


# Each with how often it is drawn, of 20.
REGISTERS: Final[Mapping[str, tuple[Register, int]]] = {
    "plain": (plain, 8),
    "slang": (slang, 3),
    "terse": (terse, 2),
    "formal": (formal, 1),
    "worried": (worried, 1),
    "chatty": (chatty, 1),
    "hasty": (hasty, 2),
    "learner": (learner, 1),
    "loud": (loud, 1),
}
