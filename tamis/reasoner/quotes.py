"""What a reason quotes, in “…”: words that stand in what was judged, letter for letter."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tamis.content import Content

OPENING: Final = "“"
CLOSING: Final = "”"
# Of 3,400 reasons that were written by hand one quotes more words than ten.
MOST_WORDS: Final = 12
_QUOTE: Final = re.compile(f"{OPENING}([^{OPENING}{CLOSING}]*)({CLOSING}?)")


def quotes(reason: str) -> list[str]:
    """Whatever stands between “ and ”."""
    return [said for said, closed in _QUOTE.findall(reason) if closed]


def unquoted(reason: str) -> str:
    """A reason without its quotes: its own words."""
    return _QUOTE.sub(" ", reason)


def begun(grown: str) -> str | None:
    """What a reason that is still being written has of a quote; None where it is within none."""
    before, _, said = grown.rpartition(OPENING)
    return None if CLOSING in said or len(before) == len(grown) - len(said) else said


@dataclass(frozen=True, slots=True)
class Source:
    """What may be quoted: a text and what it answers, each on one line."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, content: Content) -> "Source":
        """The source that a content is."""
        said = (content.text, content.context or "")
        return cls(tuple(" ".join(text.split()) for text in said))

    def bears(self, reason: str) -> bool:
        """Whether all that a reason quotes stands here; a quote that does not end never does."""
        return all(closed and self._whole(said) for said, closed in _QUOTE.findall(reason))

    def lets(self, grown: str) -> bool:
        """Whether a reason that is still being written quotes nothing else, nor too much."""
        for found in _QUOTE.finditer(grown):
            said, closed = found.groups()
            if not closed and found.end() < len(grown):
                return False  # a quote within a quote
            stands = self._whole(said) if closed else next(self._ends(said), None) is not None
            if not stands or len(said.split()) > MOST_WORDS:
                return False
        return True

    def after(self, said: str, characters: int, most: int) -> list[str]:
        """How the text goes on where a quote began so, in up to ``most`` places."""
        ways = (text[end : end + characters] for text, end in self._ends(said))
        return [way for way in islice(ways, most) if way]

    def _whole(self, said: str) -> bool:
        return said.strip() == said != "" and any(
            _is_edge(text, end) for text, end in self._ends(said)
        )

    def _ends(self, said: str) -> Iterator[tuple[str, int]]:
        """Where words that begin so end: the text, and the place behind them."""
        for text in self.texts:
            at = text.find(said)
            while 0 <= at < len(text):
                if _is_edge(text, at) and text[at] != " ":
                    yield text, at + len(said)
                at = text.find(said, at + 1)


def _is_edge(text: str, at: int) -> bool:
    """Whether no word goes on across a place."""
    return at in (0, len(text)) or not (text[at - 1].isalnum() and text[at].isalnum())
