"""A text that was edited, and where each of its characters came from."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple


class Edit(NamedTuple):
    """``parent[start:end]`` reads ``text``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Text:
    """What an original says after some steps of reading; each step is a list of edits.

    ``edits`` lead from ``parent`` to ``text``, in order and without overlap. What was not edited is
    mapped character by character, what was edited as a whole: of a decoded word nobody can say
    which character of the code a letter came from.
    """

    text: str
    parent: "Text | None" = None
    edits: Sequence[Edit] = ()

    def edit(self, edits: Sequence[Edit]) -> "Text":
        """The text with edits made."""
        parts, at = [], 0
        for start, end, said in edits:
            parts += [self.text[at:start], said]
            at = end
        parts.append(self.text[at:])
        return Text("".join(parts), self, edits)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that ``text[start:end]`` came from; ``start < end``."""
        if self.parent is None:
            return start, end
        first, last = self._before(start)[0], self._before(end - 1)[1]
        # An edit that only took away leaves no character behind, so there always is one.
        return self.parent.origin(first, max(last, first + 1))

    @cached_property
    def _starts(self) -> list[int]:
        """Where each edit's text begins in ``text``."""
        grown = accumulate(len(e.text) - (e.end - e.start) for e in self.edits)
        return [e.start + shift for e, shift in zip(self.edits, (0, *grown), strict=False)]

    def _before(self, at: int) -> tuple[int, int]:
        """The span of the parent that one character came from."""
        n = bisect_right(self._starts, at) - 1
        # An edit to nothing begins where its successor does: the last one has the character.
        if n < 0:
            return at, at + 1
        edit, into = self.edits[n], at - self._starts[n]
        if into < len(edit.text):
            return edit.start, edit.end
        at = edit.end + into - len(edit.text)
        return at, at + 1


def cased(like: str, said: str) -> str:
    """A word in the capitals of what stood in its place."""
    if like.isupper() and len(like) > 1:
        return said.upper()
    return said.capitalize() if like[0].isupper() else said
