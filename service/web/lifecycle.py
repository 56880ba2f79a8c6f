"""Leaving in order: not ready, still answering, then gone.

After SIGTERM a balancer goes on sending until it has seen that the process is not ready. So the
process answers on for a while, and until nobody has asked for a moment, and asks every client to
close its connection; only then uvicorn stops listening, finishes what is under way, and exits.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger("tamis.service")


# A balancer on an overloaded machine was 5 s late; what it sent into the closing socket was lost.
QUIET: Final = 1.0


class Lifecycle:
    """Whether the process is leaving, or why it never came to be ready."""

    def __init__(self, linger: float, patience: float, on_leave: Callable[[], None]) -> None:
        """Be there.

        Args:
            linger: seconds to answer on; with 0 it leaves at once.
            patience: seconds more at most, where requests go on coming.
            on_leave: called once, when the process begins to leave.
        """
        self.leaving = False
        self.failure: str | None = None
        self._linger = linger
        self._patience = patience
        self._on_leave = on_leave
        self._asked = 0.0
        self._going: asyncio.Task[None] | None = None

    def asked(self) -> None:
        """A caller has sent a request."""
        self._asked = time.monotonic()

    def attend(self, reload: Callable[[], object]) -> None:
        """Take SIGTERM before uvicorn does, and reload on SIGHUP; in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):  # not served by uvicorn
            return
        loop = asyncio.get_running_loop()

        def terminate(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, stop)  # a second signal does not wait
            loop.call_soon_threadsafe(self._leave, lambda: stop(number, frame))

        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(reload))

    def _leave(self, stop: Callable[[], object]) -> None:
        self.leaving = True
        self._on_leave()
        logger.info("leaving: not ready, answering on for %g s", self._linger)
        self._going = asyncio.create_task(self._linger_on(stop))

    async def _linger_on(self, stop: Callable[[], object]) -> None:
        end = time.monotonic() + self._linger
        quiet = min(QUIET, self._linger)
        await asyncio.sleep(self._linger)
        while time.monotonic() < min(self._asked + quiet, end + self._patience):
            await asyncio.sleep(quiet / 10)
        stop()
