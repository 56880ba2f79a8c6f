"""Work that is done one at a time: who waits for a turn, how many may, and for how long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.engine.scheduler import DeadlineError, OverloadedError


class Turns:
    """Turns in the order in which they were asked for."""

    def __init__(self, patience: float, most: int) -> None:
        """``patience`` in seconds is for whoever has no deadline; ``most`` may wait."""
        self._patience, self._most = patience, most
        self._one = asyncio.Semaphore(1)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, until: float | None) -> AsyncIterator[None]:
        """The caller's turn; ``until`` is its deadline by ``time.perf_counter``.

        Raises:
            OverloadedError: where too many wait, or the wait was too long.
            DeadlineError: where the deadline passed before.
        """
        if self._waiting >= self._most:
            raise OverloadedError("capacity", self._patience)
        self._waiting += 1
        try:
            left = self._patience if until is None else until - time.perf_counter()
            async with asyncio.timeout(left):
                await self._one.acquire()
        except TimeoutError:
            if until is None:
                raise OverloadedError("capacity", self._patience) from None
            raise DeadlineError from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._one.release()
