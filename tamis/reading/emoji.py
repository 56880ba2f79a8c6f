"""Emoji in the place of a word that stand for things that harm, and texts of nothing but emoji."""

import re
import unicodedata
from typing import Final

from tamis.reading.text import Edit

MEANT: Final = {
    "💣": "bomb",
    "🧨": "explosive",
    "🔫": "gun",
    "🔪": "knife",
    "🗡": "dagger",
    "💉": "syringe",
    "💊": "pills",
    "🪓": "axe",
    "⚰": "coffin",
    "☠": "poison",
    "🩸": "blood",
    "🧪": "chemical",
    "🪖": "soldier",
    "🚬": "cigarette",
    "🏹": "bow",
    "⚗": "chemistry",
}
# Of Unicode's names: filled or outlined, and no colour of anything.
FILLED: Final = frozenset(("black", "white", "heavy"))
# What Unicode calls otherwise than people do.
CALLED: Final = {"🖕": "middle finger", "💩": "poop", "🙉": "monkey", "🙊": "monkey"}
# Skin, variants, joints, keys, a flag's region: they change a picture, and are none.
CHANGING: Final = re.compile(
    "[\U000e0020-\U000e007f\U0001f3fb-\U0001f3ff\ufe0e\ufe0f\u200d\u20e3]+"
)
KEY: Final = "\u20e3"
# Flags, and what neither ASCII nor Latin-1 has.
PICTURE: Final = re.compile("(?:[\U0001f1e6-\U0001f1ff]{2})+|[^\x00-\xff]")
EMOJI: Final = re.compile(f"(?:[{''.join(MEANT)}]\ufe0f?)+")


def emoji(text: str) -> list[Edit]:
    """``build a 💣`` → ``build a bomb``; within a sentence alone: behind it, it is a mood."""
    found = []
    for m in EMOJI.finditer(text):
        before = text[max(m.start() - 24, 0) : m.start()].split()
        if before and before[-1].lower() in ARTICLES:
            said = " ".join(MEANT[char] for char in dict.fromkeys(m[0]) if char in MEANT)
            found.append(Edit(*m.span(), f" {said} "))
    return found


def pictures(text: str) -> list[Edit]:
    """``🎉🍕`` → ``party popper slice of pizza``, as a screen reader says it; each once.

    In a text without a letter alone: a body that has no piece for any of it takes all such texts
    for the same unknown token, which was flagged as rude, hearts and thumbs that are up alike.
    """
    if text.isascii() or any(map(str.isalpha, text)):
        return []
    found: list[Edit] = []
    seen = set[str]()
    for m in PICTURE.finditer(text):
        if len(m[0]) > 1:
            found.append(Edit(*m.span(), " flag "))
        elif unicodedata.category(m[0]) in ("So", "Sm"):
            found.append(Edit(*m.span(), " " if m[0] in seen else f" {_name(m[0])} "))
            seen.add(m[0])
    if not found and KEY not in text:
        return []
    return sorted([*found, *(Edit(*m.span(), "") for m in CHANGING.finditer(text))])


def _name(char: str) -> str:
    called = unicodedata.name(char, "symbol").lower().split()
    return CALLED.get(char) or " ".join(word for word in called if word not in FILLED)


ARTICLES: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "my",
        "your",
        "his",
        "her",
        "their",
        "some",
        "any",
        "with",
        "by",
        "of",
        "for",
        "to",
        "and",
        "or",
        "make",
        "build",
        "buy",
        "sell",
        "use",
        "pipe",
        "homemade",
        "fake",
        "deadly",
    ]
)
