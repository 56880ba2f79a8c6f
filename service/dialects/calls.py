"""What users asked in calls whose answers are still to come, and what was said before.

Some gateways send an answer without its request. In memory alone, for minutes, bounded: nothing
here is ever written anywhere.
"""

import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from tamis.content import Asked

SECONDS: Final = 600.0
MAX_CHARACTERS: Final = 16_000_000
# What an entry takes beside its characters, and each of its earlier turns, as measured with
# tracemalloc. By its characters alone one of a letter counted for 8, and took 395 bytes.
ENTRY: Final = 400
TURN: Final = 80
# Of a request no more than this serves as context: the model reads its first and last words.
KEPT: Final = 4_000

Key = tuple[str | None, str]
"""The caller's key, so that callers cannot reach each other's, and the id of a call."""


class Calls:
    """Requests by call, the oldest forgotten first."""

    def __init__(self, seconds: float = SECONDS, max_characters: int = MAX_CHARACTERS) -> None:
        self._seconds, self._max = seconds, max_characters
        self._asked: OrderedDict[Key, tuple[float, Asked]] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._asked)

    def keep(self, call: Key, asked: Asked) -> None:
        """Note what was asked."""
        self._forget(call)
        if len(request := asked.request) > KEPT:
            asked = replace(asked, request=request[: KEPT // 2] + request[-KEPT // 2 :])
        self._asked[call] = time.monotonic(), asked
        self._characters += _characters(call, asked)
        oldest = time.monotonic() - self._seconds
        while self._asked:
            known, (at, _) = next(iter(self._asked.items()))
            if at >= oldest and self._characters <= self._max:
                break
            self._forget(known)

    def asked(self, call: Key) -> Asked:
        """What was asked in a call; nothing where that is not known any more."""
        at, asked = self._asked.get(call, (0.0, Asked()))
        return asked if time.monotonic() - at < self._seconds else Asked()

    def _forget(self, call: Key) -> None:
        if (known := self._asked.pop(call, None)) is not None:
            self._characters -= _characters(call, known[1])


def _characters(call: Key, asked: Asked) -> int:
    said = len(call[1]) + len(asked.request) + sum(map(len, asked.earlier))
    return said + ENTRY + TURN * len(asked.earlier)


def calls_of(request: Request) -> Calls:
    """The application's."""
    found = request.app.state.calls
    assert isinstance(found, Calls)
    return found
