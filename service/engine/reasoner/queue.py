"""Reasoning beside the classifier: a thread of low priority, a short queue, an end to patience."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from service.engine.priority import LAST, stand_back
from service.engine.reasoner.reasoner import GivenUpError, LateError, Pause, Reasoner
from service.engine.scheduler import DeadlineError, OverloadedError, told
from service.engine.settling import settle

T = TypeVar("T")

# While the classifier has work, reasoning waits so long at most between two runs: it is put off,
# not put out.
YIELD: Final = 0.05
# Long enough that a thread of low priority does not take Python's lock a thousand times a second.
PEEK: Final = 0.005
# Who has run out of time may say so by themselves, with what they have so far.
GRACE: Final = 0.25
# Weight of the past in the time that a request takes.
MEMORY: Final = 0.8
FIRST_GUESS: Final = 0.5


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Reasoner, Pause], Any]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Any]"
    deadline: float
    gone: bool = False
    started: float | None = None
    counted: bool = True


class ExplainerEvents:
    """What an explainer tells of itself; called from its thread and from the loop."""

    def waiting(self, jobs: int) -> None:
        """Requests that wait or run."""


class Explainer:
    """A reasoner and the thread that it lives on.

    The thread, and with it the threads that onnxruntime starts for it, runs at a low priority.
    Between two runs of the model (64 tokens read, or one written) it waits while the classifier
    has work, notices that a caller has left, and ends what has used up its time.
    """

    def __init__(
        self,
        load: Callable[[], Reasoner],
        *,
        max_waiting: int,
        seconds: float,
        busy: Callable[[], bool] = lambda: False,
        events: ExplainerEvents | None = None,
    ) -> None:
        """Load the reasoner on its thread, and wait until it is there.

        Args:
            load: makes the reasoner.
            max_waiting: over this many waiting, requests are refused.
            seconds: what a request may take, its wait included.
            busy: whether the classifier has work.
            events: hears of the queue.

        Raises:
            Exception: what ``load`` raises.
        """
        self._max_waiting, self._seconds, self._busy = max_waiting, seconds, busy
        self._events = events or ExplainerEvents()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._usual = FIRST_GUESS
        loaded: queue.SimpleQueue[Reasoner | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._serve, args=(load, loaded), name="tamis-reason", daemon=True
        )
        self._thread.start()
        found = loaded.get()
        if isinstance(found, BaseException):
            raise found
        self.bundle = found.bundle

    @property
    def waiting(self) -> int:
        """Requests that wait or run."""
        return self._waiting

    async def run(
        self,
        work: Callable[[Reasoner, Pause], T],
        seconds: float | None = None,
        admitted: bool = False,
    ) -> tuple[T, float]:
        """Do work on the reasoner's thread; returns what it gives and the seconds it waited.

        Cancelling the caller ends the work at its next pause. ``admitted`` work goes on for a
        request that was let in before, and is not refused however many wait.

        Raises:
            OverloadedError: at once, where too many wait.
            DeadlineError: where the time (``seconds``, or less by the explainer's own limit) was
                over without a result.
        """
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        patience = self._seconds if seconds is None else min(seconds, self._seconds)
        if patience <= 0:
            raise DeadlineError
        job = _Job(work, loop, loop.create_future(), arrived + patience)
        with self._lock:
            if self._waiting > self._max_waiting and not admitted:
                raise OverloadedError("reasoner", self._usual * self._waiting)
            self._waiting += 1
        self._events.waiting(self._waiting)
        self._jobs.put(job)
        try:
            async with asyncio.timeout(patience + GRACE):
                result: T = await job.done
        except asyncio.CancelledError:
            self._leave(job)
            raise
        except TimeoutError:
            self._leave(job)
            raise DeadlineError from None
        return result, (job.started or arrived) - arrived

    def close(self) -> None:
        """Finish what runs and what waits, each by its deadline at the latest; stop the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _leave(self, job: _Job) -> None:
        """Nobody waits for a job any more; one that has not begun makes room at once."""
        job.gone = True
        if job.started is None:
            self._uncount(job)

    def _uncount(self, job: _Job) -> None:
        with self._lock:
            if not job.counted:
                return
            job.counted = False
            self._waiting -= 1
        self._events.waiting(self._waiting)

    def _serve(
        self,
        load: Callable[[], Reasoner],
        loaded: "queue.SimpleQueue[Reasoner | BaseException]",
    ) -> None:
        try:
            stand_back(LAST)
            reasoner = load()
        except BaseException as error:  # told to the caller, who waits for it
            loaded.put(error)
            return
        loaded.put(reasoner)
        while (job := self._jobs.get()) is not None:
            self._do(reasoner, job)
            self._uncount(job)
            del job  # and with it the text, while the next one is awaited

    def _do(self, reasoner: Reasoner, job: _Job) -> None:
        result: Any = None
        error: Exception | None = None
        job.started = time.perf_counter()

        def pause() -> None:
            self._pause(job)

        try:
            pause()
            result = job.work(reasoner, pause)
            spent = time.perf_counter() - job.started
            self._usual = MEMORY * self._usual + (1 - MEMORY) * spent
        except GivenUpError:
            return
        except LateError:
            error = DeadlineError()
        except BaseException as raised:  # told to the caller; the thread lives on
            error = told(raised)
        settle(job.loop, job.done, result, error)

    def _pause(self, job: _Job) -> None:
        """Let the classifier pass.

        Raises:
            GivenUpError: where nobody waits for the work any more.
            LateError: where its time is over.
        """
        until = time.perf_counter() + YIELD
        while True:
            now = time.perf_counter()
            if job.gone:
                raise GivenUpError
            if now >= job.deadline:
                raise LateError
            if now >= until or not self._busy():
                return
            time.sleep(PEEK)
