"""Tasks wait here for a worker: bounded, fair between requests, dropped when nobody wants them."""

import asyncio
import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

# Admission aims at this share of the time there is, because queues at the brim of an overload run
# late by as much as the estimate is off.
MARGIN: Final = 0.8
# Weight of the past in the measured speed: some 50 runs.
MEMORY: Final = 0.98
# A run on all cores costs the machine more than it saves its caller, unless nobody else comes: so
# only where of the last 20 runs or so hardly any had company.
COMPANY_MEMORY: Final = 0.95
SOLITUDE: Final = 0.1
# How far one task can overshoot its request's fair share: a full window.
STEP: Final = 256
# Lengths of companions differ by less than a factor of two: one queue per power of two.
BUCKETS: Final = 24

Refusal = Literal["capacity", "deadline"]
Loss = Literal["deadline", "disconnect"]


class OverloadedError(RuntimeError):
    """Refused on arrival; ``retry_after`` is the estimated time in seconds until there is room."""

    def __init__(self, reason: Refusal, retry_after: float) -> None:
        super().__init__(f"no room: {reason}")
        self.reason = reason
        self.retry_after = retry_after


class DeadlineError(RuntimeError):
    """The deadline passed before the work was done, or is shorter than the work itself.

    ``needed`` is the estimated time of the work in seconds where it was refused on arrival.
    """

    def __init__(self, needed: float | None = None) -> None:
        super().__init__("deadline")
        self.needed = needed


class Task(Protocol):
    """A piece of work. ``cost`` is in tokens, ``weight`` what one of these costs in ordinary ones.

    ``open`` may correct both.
    """

    cost: int
    weight: int


T = TypeVar("T", bound=Task)


class Events:
    """What a scheduler tells of itself; called from the workers' threads."""

    def queued(self, tokens: int) -> None:
        """Tokens waiting or running."""

    def lost(self, reason: Loss) -> None:
        """A request was given up before it was done."""

    def ran(self, tasks: int, tokens: int, padded: int) -> None:
        """A run ended; ``padded`` is its size in tokens with padding."""


@dataclass(slots=True, eq=False)
class _Request:
    """The tasks of one caller, and who waits for them. ``left`` is tokens waiting or running.

    ``extra``: the caller can do without.
    """

    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[None]"
    missing: int
    left: int
    deadline: float
    extra: bool
    turn: float = 0.0
    started: float | None = None
    gone: bool = False


class _Entry(NamedTuple, Generic[T]):
    """A task in a heap; ``order`` is unique, so comparison ends there."""

    turn: float
    order: int
    task: T
    request: _Request


class Scheduler(Generic[T]):
    """Worker threads over one queue.

    A task is opened (tokenised, which may yield further tasks: the windows of a long text) and
    run. Both happen on a worker, off the event loop, and refusing a request costs neither.

    Fairness is start-time fair queueing (Goyal et al. 1996): a request's tasks take turns of
    growing number, each further by its tokens, so a request of 200 windows lets a single one pass
    after the window that is running.

    An idle worker starts what arrives at once. Where ``batch_tokens`` allows more than one task a
    run, the task whose turn it is takes along those of about its length that queued meanwhile:
    little padding, and nobody starves, since every task's turn comes.
    """

    def __init__(
        self,
        open_: Callable[[T], Sequence[T]],
        run: Callable[[Sequence[T], bool], None],
        *,
        workers: int = 1,
        max_tokens: int = 200_000,
        max_wait: float = math.inf,
        batch_tokens: int = 0,
        speed: float = 5_000.0,
        events: Events | None = None,
    ) -> None:
        """Start the workers.

        Args:
            open_: prepares a task, corrects its cost and returns the tasks that follow from it.
            run: does the tasks; told whether nothing else runs or waits, nor did lately.
            workers: how many run at the same time.
            max_tokens: over this many waiting, requests are refused.
            max_wait: seconds that a request without a deadline may wait before it starts.
            batch_tokens: tokens of one run, padding included; 0 is one task a run.
            speed: a first guess of the tokens per second of all workers.
            events: hears of queue, runs and losses.
        """
        self._open_task = open_
        self._run = run
        self._max_tokens = max_tokens
        self._max_wait = max_wait
        self._batch_tokens = batch_tokens
        self._events = events or Events()
        self._heaps: list[list[_Entry[T]]] = [[] for _ in range(BUCKETS if batch_tokens else 1)]
        self._order = itertools.count()
        self._turn = 0.0
        self._requests: set[_Request] = set()
        self._queued = 0
        self._busy = 0
        self._company = 0.0
        self._tokens, self._seconds = speed / workers, 1.0
        self._ready = threading.Condition()
        self._accepting = True
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

    @property
    def speed(self) -> float:
        """Measured tokens per second when all workers are busy."""
        return len(self._threads) * self._tokens / self._seconds

    async def submit(
        self,
        tasks: Sequence[T],
        deadline: float | None = None,
        *,
        extra: bool = False,
    ) -> float:
        """Do all tasks; returns the seconds until the first one started.

        Args:
            tasks: done in any order, each by one worker.
            deadline: seconds from now. Without one, the scheduler's ``max_wait`` holds.
            extra: of a caller who was let in already, and can do without: only a deadline refuses
                it, and passing that one is no loss.

        Cancelling the caller drops what has not started.

        Raises:
            OverloadedError: at once, where there is no room or the deadline would be missed. One
                request is always let in while the queue is empty, however long it is.
            DeadlineError: at once where the work takes longer than that, else when it has passed.
        """
        if not tasks:
            return 0.0
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        total = sum(map(_work, tasks))
        request = _Request(
            loop,
            loop.create_future(),
            missing=len(tasks),
            left=total,
            deadline=math.inf if deadline is None else arrived + deadline,
            extra=extra,
        )
        with self._ready:
            self._admit(total, total - _work(tasks[-1]), deadline, extra)
            request.turn = self._turn
            self._requests.add(request)
            self._queued += total
            self._push(tasks, request, self._turn)
        self._events.queued(self._queued)
        timer = None if deadline is None else loop.call_later(deadline, self._expire, request)
        try:
            await request.done
        except asyncio.CancelledError:
            self._abandon(request, "disconnect")
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return (request.started or arrived) - arrived

    def check(self, deadline: float | None = None) -> None:
        """Refuse now what would be refused later, however short it turns out to be.

        Raises:
            OverloadedError, DeadlineError: as ``submit``, for a single token.
        """
        with self._ready:
            self._admit(1, 0, deadline)

    def close(self) -> None:
        """Let the workers finish what is queued, then stop them."""
        with self._ready:
            self._accepting = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _admit(
        self, total: int, until_last: int, deadline: float | None, extra: bool = False
    ) -> None:
        """Refuse what has no room, or whose wait is estimated too long for its deadline."""
        speed = self.speed
        wait = math.inf if extra else self._max_wait
        if deadline is not None:
            wait = MARGIN * deadline - total / speed
            if wait < 0:
                raise DeadlineError(needed=total / speed)
        if not self._queued:
            return
        if self._queued + total > self._max_tokens and not extra:
            raise OverloadedError("capacity", (self._queued + total - self._max_tokens) / speed)
        # Nobody waits for more than everything; the exact share is worth its sum only beyond that.
        if self._queued > wait * speed:
            ahead = self._ahead(self._turn + until_last) / speed
            if ahead > wait:
                raise OverloadedError("deadline", ahead - wait)

    def _ahead(self, turn: float) -> float:
        """Tokens that run before a task of that turn: of each request no more than its share."""
        return sum(min(r.left, max(turn - r.turn, 0.0) + STEP) for r in self._requests)

    def _push(self, tasks: Sequence[T], request: _Request, turn: float) -> None:
        for task in tasks:
            bucket = min(task.cost.bit_length(), BUCKETS - 1) if self._batch_tokens else 0
            heapq.heappush(self._heaps[bucket], _Entry(turn, next(self._order), task, request))
            turn += _work(task)
        self._ready.notify(len(tasks))

    def _serve(self) -> None:
        while batch := self._take():
            began = time.perf_counter()
            error: Exception | None = None
            try:
                for entry in batch:
                    self._open(entry)
                self._run([entry.task for entry in batch], self._alone())
            except Exception as raised:  # told to the caller; the worker lives on
                error = raised
            self._finish(batch, time.perf_counter() - began, error)

    def _alone(self) -> bool:
        """Whether a run has the machine to itself, and is likely to keep it."""
        company = self._busy > 1 or any(self._heaps)
        self._company = COMPANY_MEMORY * self._company + (1 - COMPANY_MEMORY) * company
        return not company and self._company < SOLITUDE

    def _take(self) -> list[_Entry[T]]:
        """The next tasks to run; none when the scheduler has closed."""
        with self._ready:
            while not (batch := self._pop(time.perf_counter())):
                if not self._accepting:
                    return []
                self._ready.wait()
            self._busy += 1
            return batch

    def _pop(self, now: float) -> list[_Entry[T]]:
        """The task whose turn it is, and those of its bucket that fit into the same run."""
        batch: list[_Entry[T]] = []
        longest = 0
        heap = min(filter(None, self._heaps), default=[])
        while heap:
            entry = heap[0]
            longest = max(longest, entry.task.cost)
            if batch and (len(batch) + 1) * longest > self._batch_tokens:
                break
            heapq.heappop(heap)
            request = entry.request
            if not request.gone and now < request.deadline:
                self._turn = max(self._turn, entry.turn)
                request.turn = entry.turn
                request.started = request.started or now
                batch.append(entry)
            elif not batch:
                heap = min(filter(None, self._heaps), default=[])
        return batch

    def _open(self, entry: _Entry[T]) -> None:
        """Open a task; the estimate of an unopened text covered all that follows from it."""
        before = _work(entry.task)
        more = self._open_task(entry.task)
        grown = _work(entry.task) + sum(map(_work, more)) - before
        if not more and not grown:
            return
        with self._ready:
            request = entry.request
            if not request.gone:
                request.left += grown
                request.missing += len(more)
                self._queued += grown
                self._push(more, request, entry.turn + _work(entry.task))

    def _finish(self, batch: list[_Entry[T]], seconds: float, error: Exception | None) -> None:
        costs = [entry.task.cost for entry in batch]
        ended = []
        with self._ready:
            if error is None and self._busy == len(self._threads):
                # A worker without company has the machine to itself: not what a queue drains at.
                done = sum(_work(entry.task) for entry in batch)
                self._tokens = MEMORY * self._tokens + done
                self._seconds = MEMORY * self._seconds + seconds
            self._busy -= 1
            for entry in batch:
                request = entry.request
                if request.gone:
                    continue
                request.left -= _work(entry.task)
                self._queued -= _work(entry.task)
                request.missing -= 1
                if error is not None or not request.missing:
                    self._forget(request)
                    ended.append(request)
        for request in ended:
            # A loop that has closed has nobody left to tell.
            if not request.loop.is_closed():
                request.loop.call_soon_threadsafe(_settle, request.done, error)
        self._events.ran(len(batch), sum(costs), len(batch) * max(costs))
        self._events.queued(self._queued)

    def _expire(self, request: _Request) -> None:
        if not request.done.done():
            self._abandon(request, None if request.extra else "deadline")
            request.done.set_exception(DeadlineError())

    def _abandon(self, request: _Request, reason: Loss | None) -> None:
        with self._ready:
            if request.gone:
                return
            self._forget(request)
        if reason is not None:
            self._events.lost(reason)
        self._events.queued(self._queued)

    def _forget(self, request: _Request) -> None:
        """Take a request out of the books; its entries are skipped when their turn comes."""
        request.gone = True
        self._queued -= request.left
        self._requests.discard(request)


def _work(task: Task) -> int:
    """What a task takes, in tokens of an ordinary one."""
    return task.weight * task.cost


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(None)
