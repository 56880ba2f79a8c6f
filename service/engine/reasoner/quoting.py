"""Greedy decoding that quotes what is there: within “…” only words of the text can be written."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from service.engine.reasoner.decoder import Floats
from tamis.reasoner.quotes import Source, is_open

# How many of the likeliest tokens are looked at for one that fits.
TRIED: Final = 512
UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"


class Quoting:
    """Chooses the tokens of one reason.

    A small model copies with slips, and a quote with a slip in it says what nobody said. Refused,
    the reason would be lost; written anew, twice the time: so a slip is not written at all.
    """

    def __init__(self, source: Source, decode: Callable[[Sequence[int]], str], end: int) -> None:
        """``decode`` makes text of the reason's ids; ``end`` is the token that ends it."""
        self._source, self._decode, self._end = source, decode, end
        self.text = ""
        """The reason so far; a character of several tokens is there when it is whole."""

    def choose(self, logits: Floats, ids: Sequence[int]) -> int:
        """The likeliest token behind ``ids`` that quotes nothing else; else the likeliest."""
        first = int(logits.argmax())
        if (text := self._after(ids, first)) is not None:
            self.text = text
            return first
        likeliest = np.argpartition(logits, -min(TRIED, len(logits)))[-TRIED:]
        for token in likeliest[np.argsort(-logits[likeliest])].tolist():
            if (text := self._after(ids, token)) is not None:
                self.text = text
                return int(token)
        if first != self._end:
            self.text = self._read([*ids, first])
        return first

    def _after(self, ids: Sequence[int], token: int) -> str | None:
        """The reason with one more token, None where that quotes what is not there."""
        if token == self._end:
            return None if is_open(self.text) else self.text
        text = self._read([*ids, token])
        return text if self._source.lets(text) else None

    def _read(self, ids: Sequence[int]) -> str:
        return self._decode(ids).rstrip(UNFINISHED)
