"""Windows wait here for a worker: bounded, fair between requests, dispatched at once when idle."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class OverloadedError(RuntimeError):
    """The queue is full; ``retry_after`` is the estimated time in seconds until it has room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


@dataclass(slots=True)
class _Request(Generic[Result]):
    """The windows of one request, and who waits for them."""

    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[list[Result]]"
    results: list[Result | None]
    missing: int
    started: float | None = None
    cancelled: bool = False


@dataclass(order=True, slots=True)
class _Entry:
    turn: float
    order: int
    index: int = field(compare=False)
    cost: int = field(compare=False)
    job: object = field(compare=False)
    request: "_Request[object]" = field(compare=False)


class Scheduler(Generic[Job, Result]):
    """Worker threads over one queue.

    Fairness is start-time fair queueing: a request's windows take turns of growing number, each
    further by its tokens, so a request of 200 windows lets a single one pass after the window
    that is running. Costs are in tokens.
    """

    def __init__(
        self, work: Callable[[Job], Result], workers: int = 1, max_tokens: int = 200_000
    ) -> None:
        self._work = work
        self._max_tokens = max_tokens
        self._heap: list[_Entry] = []
        self._order = itertools.count()
        self._turn = 0.0
        self._queued = 0
        self._speed = 5_000.0  # tokens per second; replaced by what is measured
        self._ready = threading.Condition()
        self._open = True
        self._threads = [
            threading.Thread(target=self._serve, name=f"tamis-infer-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens waiting or running."""
        return self._queued

    async def submit(self, jobs: Sequence[tuple[Job, int]]) -> tuple[list[Result], float]:
        """Run all jobs (each with its cost) and return their results in order, and seconds queued.

        Cancelling the caller drops what has not started.

        Raises:
            OverloadedError: where the queue has no room for the request. One request is always
                let in while the queue is empty, however long it is.
        """
        if not jobs:
            return [], 0.0
        loop = asyncio.get_running_loop()
        request: _Request[Result] = _Request(
            loop, loop.create_future(), [None] * len(jobs), len(jobs)
        )
        total = sum(cost for _, cost in jobs)
        arrived = time.perf_counter()
        with self._ready:
            if self._queued and self._queued + total > self._max_tokens:
                raise OverloadedError((self._queued + total - self._max_tokens) / self._speed)
            self._queued += total
            turn = self._turn
            for index, (job, cost) in enumerate(jobs):
                entry = _Entry(turn, next(self._order), index, cost, job, request)  # type: ignore[arg-type]
                heapq.heappush(self._heap, entry)
                turn += cost
            self._ready.notify(len(jobs))
        try:
            results = await request.done
        finally:
            request.cancelled = True
        return results, (request.started or arrived) - arrived

    def close(self) -> None:
        """Let the workers finish what is queued, then stop them."""
        with self._ready:
            self._open = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (entry := self._next()) is not None:
            request, began, error = entry.request, time.perf_counter(), None
            if ran := not request.cancelled:
                request.started = request.started or began
                try:
                    request.results[entry.index] = self._work(entry.job)  # type: ignore[arg-type]
                except Exception as raised:  # told to the caller; the worker lives on
                    error = raised
            with self._ready:
                self._queued -= entry.cost
                request.missing -= 1
                if ran:
                    speed = entry.cost / max(time.perf_counter() - began, 1e-6)
                    self._speed += 0.05 * (speed * len(self._threads) - self._speed)
            if error is not None or not request.missing:
                self._finish(request, error)

    def _next(self) -> _Entry | None:
        with self._ready:
            while not self._heap:
                if not self._open:
                    return None
                self._ready.wait()
            entry = heapq.heappop(self._heap)
            self._turn = max(self._turn, entry.turn)
            return entry

    @staticmethod
    def _finish(request: "_Request[object]", error: Exception | None) -> None:
        def settle() -> None:
            if request.done.done():
                return
            if error is not None:
                request.done.set_exception(error)
            else:
                request.done.set_result(list(request.results))

        request.cancelled = request.cancelled or error is not None
        # A loop that has closed has nobody left to tell.
        if not request.loop.is_closed():
            request.loop.call_soon_threadsafe(settle)
