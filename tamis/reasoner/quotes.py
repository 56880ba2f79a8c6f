"""What a reason quotes, in “…”: words that stand in what was judged, letter for letter."""

import re
from dataclasses import dataclass
from typing import Final

from tamis.content import Content

# Of 3,400 reasons that were written by hand one quotes more words than ten.
MOST_WORDS: Final = 12
_QUOTE: Final = re.compile("“([^“”]*)(”?)")


def quotes(reason: str) -> list[str]:
    """Whatever stands between “ and ”."""
    return [said for said, closed in _QUOTE.findall(reason) if closed]


def unquoted(reason: str) -> str:
    """A reason without its quotes: its own words."""
    return _QUOTE.sub(" ", reason)


@dataclass(frozen=True, slots=True)
class Source:
    """What may be quoted: a text and what it answers, each on one line."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, content: Content) -> "Source":
        """The source that a content is."""
        said = (content.text, content.context or "")
        return cls(tuple(" ".join(text.split()) for text in said))

    def holds(self, said: str, whole: bool = True) -> bool:
        """Whether whole words of it are quoted; or, not yet ``whole``, the beginning of some."""
        if not said:
            return not whole
        return any(self._holds(text, said, whole) for text in self.texts)

    @staticmethod
    def _holds(text: str, said: str, whole: bool) -> bool:
        at = text.find(said)
        while at >= 0:
            end = at + len(said)
            starts = at == 0 or not (text[at - 1].isalnum() and said[0].isalnum())
            ends = end == len(text) or not (text[end].isalnum() and said[-1].isalnum())
            if starts and (ends or not whole):
                return True
            at = text.find(said, at + 1)
        return False

    def bears(self, reason: str) -> bool:
        """Whether all that a reason quotes stands here."""
        return all(self.holds(said) for said in quotes(reason))

    def lets(self, grown: str) -> bool:
        """Whether a reason that is still being written quotes nothing else, nor too much."""
        for found in _QUOTE.finditer(grown):
            said, closed = found.groups()
            if not closed and found.end() < len(grown):
                return False  # a quote within a quote
            if not self.holds(said, bool(closed)) or len(said.split()) > MOST_WORDS:
                return False
        return True


def is_open(grown: str) -> bool:
    """Whether a reason that is still being written is within a quote."""
    return grown.rfind("“") > grown.rfind("”")
