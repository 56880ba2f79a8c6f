"""What waits, and who is next: fair between requests, bounded, and without threads or a clock."""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

# Admission aims at this share of the time there is, because queues at the brim of an overload run
# late by as much as the estimate is off.
MARGIN: Final = 0.8
# Weight of the past in the measured speed: some 50 runs.
MEMORY: Final = 0.98
# A run counts as so many times slower than measured at most: on a machine that was paused for ten
# seconds every deadline would else be too short, and nothing would be let in to measure it anew.
SLOWEST: Final = 10
# How far one task can overshoot its request's fair share: a full window.
STEP: Final = 256

Refusal = Literal["capacity", "deadline", "reasoner"]
Settle = Callable[[Exception | None], None]


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

    def within(self, deadline: float | None, before: float = 0.0) -> "DeadlineError":
        """The same for a caller who had so much time, and whose work ``before`` took some of it.

        What is long enough but for the wait is late, and not too short.
        """
        if self.needed is None or deadline is None:
            return self
        needed = before + self.needed
        return DeadlineError(needed if needed > MARGIN * deadline else None)


class Task(Protocol):
    """A piece of work. ``cost`` is in tokens, ``weight`` what one of these costs in ordinary ones.

    ``open`` may correct both.
    """

    cost: int
    weight: int


T = TypeVar("T", bound=Task)


@dataclass(slots=True, eq=False)
class Request:
    """The tasks of one caller, and how to tell them. ``left`` is tokens waiting or running.

    ``step`` is how far one of its tasks can overshoot its share; ``extra``: the caller was let in
    already, and can do without.
    """

    settle: Settle
    missing: int
    left: int
    deadline: float
    step: int = STEP
    extra: bool = False
    turn: float = 0.0
    started: float | None = None
    gone: bool = False


class Entry(NamedTuple, Generic[T]):
    """A task in a heap; ``order`` is unique, so comparison ends there."""

    turn: float
    order: int
    task: T
    request: Request


class Queue(Generic[T]):
    """Tasks that wait for one of so many workers, by requests.

    Fairness is start-time fair queueing (Goyal et al. 1996): a request's tasks take turns of
    growing number, each further by its tokens, so a request of 200 windows lets a single one pass
    after the window that is running. Who comes later begins at the turn that everybody has reached
    by then, an equal share of the work done: a turn's number that stood still while newcomers are
    served (every request is one) would have them pass for ever.

    Where ``batch_tokens`` allows more than one task a run, the task whose turn it is takes along
    those of about its length and of its own model that queued meanwhile: little padding, and nobody
    starves, since every task's turn comes.

    Whoever uses it holds a lock, and says what time it is; ``admit`` may be asked without one.
    """

    def __init__(
        self, *, workers: int, max_tokens: int, max_wait: float, batch_tokens: int, speed: float
    ) -> None:
        """An empty queue; see ``Scheduler``. ``speed`` is that of all workers together."""
        self.workers = workers
        self._max_tokens = max_tokens
        self._max_wait = max_wait
        self._batch_tokens = batch_tokens
        # Lengths of companions differ by less than a factor of two: a heap per power of two.
        self._heaps: dict[tuple[int, int], list[Entry[T]]] = {}
        self._order = itertools.count()
        self._turn = 0.0
        self._requests: set[Request] = set()
        self.tokens = 0
        """Tokens waiting or running."""
        self.busy = 0
        """Workers that run something."""
        self._tokens, self._seconds = speed / workers, 1.0

    @property
    def speed(self) -> float:
        """Measured tokens per second when all workers are busy."""
        return self.workers * self._tokens / self._seconds

    @property
    def waits(self) -> bool:
        """Whether anything waits for a worker."""
        return any(self._heaps.values())

    def admit(
        self, total: int, until_last: int, deadline: float | None, extra: bool = False
    ) -> None:
        """Refuse what has no room, or whose wait is estimated too long for its deadline.

        Args:
            total: its work, in ordinary tokens.
            until_last: its work that comes before its last task.
            deadline: seconds from now.
            extra: as for a request.

        Raises:
            OverloadedError, DeadlineError: as ``Scheduler.submit``.
        """
        speed = self.speed
        wait = math.inf if extra else self._max_wait
        if deadline is not None:
            wait = MARGIN * deadline - total / speed
            if wait < 0:
                raise DeadlineError(needed=total / speed)
        if not self.tokens:
            return
        if self.tokens + total > self._max_tokens and not extra:
            raise OverloadedError("capacity", (self.tokens + total - self._max_tokens) / speed)
        self._bear(until_last, wait)

    def bear(self, tokens: int) -> None:
        """Refuse what will ask for so many tokens here, where it would wait for too long.

        Raises:
            OverloadedError: with the time until it would not.
        """
        self._bear(tokens, self._max_wait)

    def add(self, request: Request, tasks: Sequence[T]) -> None:
        """Take in a request, whose turn is that of whoever runs now."""
        request.turn = self._turn
        self._requests.add(request)
        self.tokens += request.left
        self._push(tasks, request, self._turn)

    def take(self, now: float) -> list[Entry[T]]:
        """The task whose turn it is, and those of its heap that fit into the same run.

        A worker is busy with them until they are ``done``. None where nothing waits.
        """
        batch: list[Entry[T]] = []
        longest = 0
        heap = min(filter(None, self._heaps.values()), default=[])
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
                heap = min(filter(None, self._heaps.values()), default=[])
        self.busy += bool(batch)
        return batch

    def opened(self, entry: Entry[T], before: int, more: Sequence[T]) -> None:
        """A task was opened: it was estimated at ``before``, and ``more`` follow from it."""
        grown = work(entry.task) + sum(map(work, more)) - before
        request = entry.request
        if request.gone:
            return
        request.left += grown
        request.missing += len(more)
        self.tokens += grown
        self._push(more, request, entry.turn + work(entry.task))

    def done(self, batch: Sequence[Entry[T]], seconds: float, failed: bool) -> list[Request]:
        """A worker has run tasks, or failed to; the requests that have ended with it."""
        tokens = sum(work(entry.task) for entry in batch)
        # A worker without company has the machine to itself: not what a queue drains at. What held
        # no token (a blank text) says nothing of tokens.
        if tokens and not failed and self.busy == self.workers:
            seconds = min(seconds, SLOWEST * tokens * self._seconds / self._tokens)
            self._tokens = MEMORY * self._tokens + tokens
            self._seconds = MEMORY * self._seconds + seconds
        self.busy -= 1
        self._turn += tokens / max(1, len(self._requests))
        ended = []
        for entry in batch:
            request = entry.request
            if request.gone:
                continue
            request.left -= work(entry.task)
            self.tokens -= work(entry.task)
            request.missing -= 1
            if failed or not request.missing:
                self.forget(request)
                ended.append(request)
        return ended

    def forget(self, request: Request) -> None:
        """Take a request out of the books; its entries are skipped when their turn comes."""
        if not request.gone:
            request.gone = True
            self.tokens -= request.left
            self._requests.discard(request)

    def _bear(self, further: int, wait: float) -> None:
        """Refuse what would wait longer for a turn so many tokens from here."""
        speed = self.speed
        # Nobody waits for more than everything; the exact share is worth its sum only beyond that.
        if self.tokens > wait * speed:
            turn = self._turn + further
            # Of each request no more than its share.
            # Taken at once, since who only asks holds no lock.
            waiting = tuple(self._requests)
            tokens = sum(min(r.left, max(turn - r.turn, 0.0) + r.step) for r in waiting)
            if tokens > wait * speed:
                raise OverloadedError("deadline", tokens / speed - wait)

    def _push(self, tasks: Sequence[T], request: Request, turn: float) -> None:
        for task in tasks:
            kind = (task.weight, task.cost.bit_length()) if self._batch_tokens else (0, 0)
            heap = self._heaps.setdefault(kind, [])
            heapq.heappush(heap, Entry(turn, next(self._order), task, request))
            turn += work(task)


def work(task: Task) -> int:
    """What a task takes, in tokens of an ordinary one."""
    return task.weight * task.cost
