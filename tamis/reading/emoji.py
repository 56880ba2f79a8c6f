"""Emoji in the place of a word: the few that stand for things that harm."""

import re
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
