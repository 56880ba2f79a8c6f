"""Keeping corrections: the store behind the route, and what happens where it fails."""

import asyncio
import logging
from typing import Final, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.errors import RequestError
from service.observing.metrics import Metrics
from tamis.corrections.record import Correction
from tamis.corrections.store import Store, StoreError, open_store

logger = logging.getLogger("tamis.service")

# Corrections that are stored at the same time.
AT_ONCE: Final = 4
# Seconds that one waits for those before it: as long as a store that does not answer takes one.
PATIENCE: Final = 10.0


class Feedback:
    """The application's store of corrections; opened when the first one comes."""

    def __init__(self, location: str, metrics: Metrics) -> None:
        """``location`` is a path or a Postgres URL; empty where nothing is to be kept.

        Raises:
            ValueError: where it can be no store.
        """
        try:
            if location:
                open_store(location)
        except StoreError as error:
            raise ValueError(f"TAMIS_FEEDBACK: {error}") from None
        self._location = location
        self._metrics = metrics
        self._fault: str | None = None
        # A database that does not answer must not take the threads that others need.
        self._few = asyncio.Semaphore(AT_ONCE)

    def check(self) -> None:
        """Refuse corrections where they are not wanted.

        Raises:
            RequestError: 404.
        """
        if not self._location:
            raise RequestError(
                "feedback is turned off on this server", code="feedback_off", status=404
            )

    async def keep(self, correction: Correction) -> None:
        """Store and count a correction; once this returns, it is on disk.

        Raises:
            RequestError: 503 where the store cannot be used, or those before it take too long; the
                reason is logged, once.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._few.acquire()
        except TimeoutError:
            self._failed(f"those before it take longer than {PATIENCE:g} s")
        try:
            await run_in_threadpool(lambda: self._store().save(correction))
        except StoreError as error:
            self._failed(str(error))
        finally:
            self._few.release()
        self._fault = None
        agrees = str(bool(correction.agrees)).lower()
        self._metrics.feedback.labels(correction.label or "none", agrees).inc()

    def _failed(self, reason: str) -> NoReturn:
        if reason != self._fault:
            self._fault = reason
            logger.error("feedback cannot be stored: %s", reason)
        raise RequestError(
            "feedback cannot be stored at present; the server's log says why",
            code="feedback_unavailable",
            status=503,
        ) from None

    def _store(self) -> Store:
        return open_store(self._location)


def feedback_of(request: Request) -> Feedback:
    """The application's store of corrections."""
    found = request.app.state.feedback
    assert isinstance(found, Feedback)
    return found
