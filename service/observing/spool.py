"""A bounded queue and a thread that empties it: who answers requests never waits for a disk.

Used for log lines and audit records. The thread collects for some milliseconds and writes what has
come meanwhile at once: waking it for every record would make it fight for Python's lock with those
who compute.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

from service.errors import frames

logger = logging.getLogger("tamis.service")

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

BATCH: Final = 1_000
FIRST_RETRY: Final = 0.1
LAST_RETRY: Final = 30.0
# Seconds that a write which is under way at the end may take beyond it.
LAST_WRITE: Final = 5.0


class RefusedError(Exception):
    """The sink will never take the first record of the batch; the message is free of text."""


class Sink(Protocol[T_contra]):
    """Where records go; called from the spool's thread alone."""

    def write(self, batch: Sequence[T_contra], /) -> int:
        """Write the first records, at least one; returns how many. What raises wrote nothing.

        Raises:
            RefusedError: where the first one is to be given up.
            Exception: whatever may be better later.
        """

    def close(self) -> None:
        """Let go of files and connections."""


class SpoolEvents:
    """What a spool tells of itself."""

    def written(self, records: int) -> None:
        """They are in the sink."""

    def dropped(self, records: int) -> None:
        """They found the queue full."""

    def failed(self, records: int) -> None:
        """They were given up: refused by the sink, or still not writable when the time was over."""

    def stumbled(self) -> None:
        """Writing failed, and is tried again."""

    def waiting(self, records: int) -> None:
        """So many are not written yet."""


class Spool(Generic[T]):
    """Records on their way to a sink, in the order in which they came.

    Nothing is lost silently: a record is written, or it is told to ``events``.
    """

    def __init__(
        self,
        name: str,
        sink: Sink[T],
        *,
        max_bytes: int,
        collect: float,
        events: SpoolEvents | None = None,
        quiet: bool = False,
    ) -> None:
        """``collect``: seconds to wait for company; ``quiet``: log nothing, being the log."""
        self._name = name
        self._sink = sink
        self._max_bytes = max_bytes
        self._collect = collect
        self._events = events or SpoolEvents()
        self._quiet = quiet
        self._lock = threading.Lock()
        self._records: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._filled = threading.Event()
        self._closing = threading.Event()
        self._deadline = float("inf")
        # Daemonic, since Python would join it before the exit handlers that close it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: T, size: int) -> bool:
        """Queue a record of so many bytes; False where there is no room. Never blocks."""
        with self._lock:
            room = self._bytes + size <= self._max_bytes and not self._closing.is_set()
            if room:
                self._records.append((record, size))
                self._bytes += size
            else:
                self._dropped += 1
        if not room:
            self._events.dropped(1)
        elif not self._filled.is_set():
            self._filled.set()
        return room

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written; False where that took too long."""
        until = time.monotonic() + timeout
        while self._bytes and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.005)
        return not self._bytes

    def close(self, timeout: float) -> bool:
        """Write what is queued, for at most so many seconds; what is left then has failed.

        False where a write hangs even then.
        """
        self._deadline = time.monotonic() + timeout
        with self._lock:  # who is being let in leaves a record for the thread yet
            self._closing.set()
        self._filled.set()
        if self._thread.is_alive():
            # A write that hangs must not hang the shutdown; the thread dies with the process.
            self._thread.join(timeout + LAST_WRITE)
        if hangs := self._thread.is_alive():
            self._error("%d records may be lost: a write hangs", len(self._records))
        return not hangs

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._records):
            self._filled.wait()
            self._closing.wait(self._collect)
            self._filled.clear()
            self._drain()
        self._sink.close()

    def _drain(self) -> None:
        retry = FIRST_RETRY
        while self._records:
            # Read without the lock: others only append.
            batch = [self._records[n][0] for n in range(min(BATCH, len(self._records)))]
            self._events.waiting(len(self._records))
            try:
                written = self._sink.write(batch)
            except RefusedError as error:
                self._error("refused for good: %s", error)
                self._forget(1)
                self._events.failed(1)
            except Exception as error:
                self._events.stumbled()
                self._error("%d records wait: %s", len(self._records), _said(error))
                if self._closing.is_set():
                    if time.monotonic() >= self._deadline:
                        self._give_up()
                        return
                    time.sleep(min(retry, 0.2))
                else:
                    self._closing.wait(retry)
                retry = min(2 * retry, LAST_RETRY)
            else:
                retry = FIRST_RETRY
                self._forget(written)
                self._events.written(written)
            self._confess()
        self._events.waiting(0)

    def _forget(self, records: int) -> None:
        with self._lock:
            self._bytes -= sum(self._records.popleft()[1] for _ in range(records))

    def _give_up(self) -> None:
        left = len(self._records)
        self._error("%d records are lost: not written before the end", left)
        self._forget(left)
        self._events.failed(left)
        self._events.waiting(0)

    def _confess(self) -> None:
        """Say how many were dropped since the last time, at most once a batch."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._error("%d records were dropped: the queue was full", dropped)

    def _error(self, message: str, *args: object) -> None:
        if not self._quiet:
            logger.error(f"{self._name}: {message}", *args)


def _said(error: Exception) -> str:
    """What the system says of files and networks; of other faults, which may quote, the place."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}\n{frames(error)}"
