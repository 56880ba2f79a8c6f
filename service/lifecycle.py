"""Leaving in order: not ready, still answering, then gone.

After SIGTERM a balancer goes on sending until it has seen that the process is not ready. So the
process answers on for a while, and asks every client to close its connection; only then uvicorn
stops listening, finishes what is under way, and exits.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("tamis.service")


class Lifecycle:
    """Whether the process is leaving, or why it never came to be ready."""

    def __init__(self, linger: float, on_leave: Callable[[], None]) -> None:
        """``linger``: seconds to answer on; ``on_leave`` is called once, at their beginning."""
        self.leaving = False
        self.failure: str | None = None
        self._linger = linger
        self._on_leave = on_leave

    def attend(self, reload: Callable[[], None]) -> None:
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
        asyncio.get_running_loop().call_later(self._linger, stop)
