"""Metrics, access log, traces and audit log: who hears of a request, and when."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from service.errors import frames
from service.observing import logs, tracing
from service.observing.answered import Answered, Observer
from service.observing.audit.audit import open_audit
from service.observing.audit.counters import AuditCounters
from service.observing.metrics import Metrics
from service.observing.spool import Spool
from service.settings import Settings

logger = logging.getLogger("tamis.service")

# Seconds for which requests are collected before they are written about, and how many at most.
COLLECT: Final = 0.02
BACKLOG: Final = 10_000


class Observers:
    """All who observe requests; ``tracing`` also gives them their ids."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Set up what the settings and OpenTelemetry's variables ask for.

        Raises:
            OSError, ValueError: where the audit log cannot be kept as asked for.
        """
        self.tracing = tracing.from_environment()
        self._audit = open_audit(settings, AuditCounters(metrics.registry))
        self._drain = settings.drain_seconds
        self._metrics = metrics
        self._writers: list[Observer] = [logs.observe, self.tracing.end]
        if self._audit is not None:
            self._writers.append(self._audit.observe)
        self._desk = Spool[Answered](
            "observers", _Desk(self._writers), max_bytes=BACKLOG, collect=COLLECT, quiet=True
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Observe until the end of the block, and then until all that was seen is written."""
        logs.guard(asyncio.get_running_loop())
        self._desk.start()
        if self._audit is not None:
            self._audit.start()
        try:
            yield
        finally:
            # One time for both: whoever stops the process waits for so long, and then kills it.
            until = time.monotonic() + self._drain
            await asyncio.to_thread(self._desk.close, self._drain)
            if self._audit is not None:
                left = max(0.0, until - time.monotonic())
                await asyncio.to_thread(self._audit.close, left)
            await asyncio.to_thread(self.tracing.close)
            logs.settle()

    def tell(self, answered: Answered) -> None:
        """Tell everybody, after the answer is out.

        Metrics hear of it in the loop's next turn: uvloop writes answers out between two turns.
        What is written is written by a thread, many at a time: one by one on the loop, access and
        audit log took 15 % of the throughput at saturation, and by the batch 3 to 7 %, since
        between two runs of the model nothing of Python is left in the core's caches.
        """
        asyncio.get_running_loop().call_soon(_tell, (self._metrics.observe,), answered)
        if not self._desk.put(answered, 1):
            _tell(self._writers, answered)


class _Desk:
    """Where requests are written about; a sink that never fails and never waits."""

    def __init__(self, writers: Sequence[Observer]) -> None:
        self._writers = writers

    def write(self, batch: Sequence[Answered]) -> int:
        for answered in batch:
            _tell(self._writers, answered)
        return len(batch)

    def close(self) -> None:
        pass


def _tell(observers: Sequence[Observer], answered: Answered) -> None:
    for observer in observers:
        try:
            observer(answered)
        except Exception as error:
            # Not left to the loop, whose report would quote the arguments.
            where = type(error).__name__, frames(error)
            logger.error("request %s: observer: %s\n%s", answered.request_id, *where)
