"""Greedy decoding that quotes what is there: within “…” only words of the text can be written."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from service.engine.reasoner.decoder import Floats
from tamis.reasoner.quotes import CLOSING, OPENING, Source, begun

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
# Characters of which the next token is made; hardly a token is longer.
AHEAD: Final = 24
# Where a quote may begin: at so many words of a text.
MOST_PLACES: Final = 256


class Quoting:
    """Chooses the tokens of one reason.

    A small model copies with slips, and a quote with a slip in it says what nobody said. Refused,
    the reason would be lost; written anew, it would take twice the time: so a slip is not written
    at all. In its place comes whatever the model likes best of how the text goes on, and of the
    quote's end.
    """

    def __init__(
        self,
        source: Source,
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        end: int,
    ) -> None:
        """``encode`` and ``decode`` are a tokenizer's; ``end`` is the token that ends a reason."""
        self._source, self._encode, self._decode, self._end = source, encode, decode, end
        self._rest: list[int] = []  # of a character that takes several tokens
        self.text = ""
        """The reason so far; a character of several tokens is there when it is whole."""

    def choose(self, logits: Floats, ids: Sequence[int]) -> int:
        """The likeliest token behind ``ids`` of those that may follow."""
        if self._rest:
            token = self._rest.pop(0)
        elif not self._fits(ids, token := int(logits.argmax())):
            ways = list(self._ways())
            token, *self._rest = max(ways, key=lambda way: float(logits[way[0]]), default=[token])
        if token != self._end:
            self.text = self._decode([*ids, token]).rstrip(UNFINISHED)
        return token

    def _fits(self, ids: Sequence[int], token: int) -> bool:
        within = begun(self.text) is not None
        if token == self._end:
            return not within
        text = self._decode([*ids, token])
        if within and text.endswith(UNFINISHED):
            return False  # it may come to be any character
        return self._source.lets(text.rstrip(UNFINISHED))

    def _ways(self) -> Iterator[list[int]]:
        """How the reason may go on in place of a slip: tokens of a whole character or more."""
        said = begun(self.text)
        if said is None:
            pieces = [OPENING, f" {OPENING}"]
        else:
            pieces = [CLOSING, *self._source.after(said, AHEAD, MOST_PLACES)]
        for piece in pieces:
            way, tokens = "", list(self._encode(piece))
            for count in range(1, len(tokens) + 1):
                way = self._decode(tokens[:count])
                if not way.endswith(UNFINISHED):
                    break
            if self._source.lets(self.text + way):
                yield tokens[:count]
