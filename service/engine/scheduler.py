"""Tasks wait here for a worker: short work first, long work on what it leaves of the cores."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Generic, Literal, TypeVar

from service.engine.queue import (
    STEP,
    DeadlineError,
    Entry,
    OverloadedError,
    Queue,
    Refusal,
    Request,
    Task,
    work,
)
from service.engine.settling import settle

__all__ = ["DeadlineError", "Events", "Loss", "OverloadedError", "Refusal", "Scheduler", "Task"]

# A run on all cores costs the machine more than it saves its caller, unless nobody else comes: so
# only where of the last 20 runs or so hardly any had company.
COMPANY_MEMORY: Final = 0.95
SOLITUDE: Final = 0.1
# Seconds that patient work stands back for at most where there are no priorities: a window of 17 ms
# every quarter of a second is about the share that a priority leaves it.
SPARED: Final = 0.25

Loss = Literal["deadline", "disconnect"]
T = TypeVar("T", bound=Task)


class Events:
    """What a scheduler tells of itself; called from the workers' threads."""

    def queued(self, tokens: int) -> None:
        """Tokens waiting or running."""

    def lost(self, reason: Loss) -> None:
        """A request was given up before it was done."""

    def ran(self, tasks: int, tokens: int, padded: int) -> None:
        """A run ended; ``padded`` is its size in tokens with padding."""


class _Lane(Generic[T]):
    """A queue, the lock on it, and its threads once they are started."""

    def __init__(self, waiting: Queue[T], patient: bool) -> None:
        self.queue = waiting
        self.patient = patient
        self.ready = threading.Condition()
        self.threads: list[threading.Thread] = []


class Scheduler(Generic[T]):
    """Worker threads over one queue, or over two: one of prompt work, one of work that can wait.

    A task is opened (tokenised, which may yield further tasks: the windows of a long text) and
    run. Both happen on a worker, off the event loop, and refusing a request costs neither. An idle
    worker starts what arrives at once; who comes next is fair between requests (see ``Queue``).

    No run can be cut short, and one of a long window, or of a heavier model, takes many times a
    short one's. So what is longer than ``prompt`` tokens in all, and second opinions, have workers
    of their own, as many, which ``begin`` makes stand back: the kernel takes a core from them the
    moment that prompt work wants it, and leaves them a share, so that neither waits for the other.
    On idle cores nothing is slower for it. Where cores are a ``quota`` on time, whoever runs uses
    it up, whatever its priority: there they start only while fewer run than there are cores.
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
        prompt: int | None = None,
        quota: bool = False,
        begin: Callable[[int, bool], None] = lambda _worker, _patient: None,
        events: Events | None = None,
    ) -> None:
        """Start the workers.

        Args:
            open_: prepares a task, corrects its cost and returns the tasks that follow from it.
            run: does the tasks; told whether nothing else runs or waits, nor did lately.
            workers: how many run at the same time; of patient ones as many again.
            max_tokens: over this many waiting in a queue, its requests are refused.
            max_wait: seconds that a request without a deadline may wait before it starts.
            batch_tokens: tokens of one run, padding included; 0 is one task a run.
            speed: a first guess of the tokens per second of all workers.
            prompt: ordinary tokens of a request up to which it is prompt work; None: all is.
            quota: whether cores are time, rather than cores.
            begin: called on each worker's thread first: its number, and whether it is patient.
            events: hears of queue, runs and losses.
        """
        self._open_task = open_
        self._run = run
        self._begin = begin
        self._events = events or Events()
        self._company = 0.0
        self._accepting = True
        self._workers, self._running = workers, 0
        self._cores = threading.Condition() if quota else None
        self._limit = math.inf if prompt is None else prompt

        def lane(patient: bool) -> _Lane[T]:
            waiting: Queue[T] = Queue(
                workers=workers,
                max_tokens=max_tokens,
                max_wait=max_wait,
                batch_tokens=batch_tokens,
                speed=speed,
            )
            return _Lane(waiting, patient)

        self._prompt = lane(patient=False)
        self._patient = self._prompt if prompt is None else lane(patient=True)
        self._lanes = [self._prompt] if prompt is None else [self._prompt, self._patient]
        for each in self._lanes:
            kind = "patient" if each.patient else "infer"
            each.threads = [
                threading.Thread(
                    target=self._serve, args=(each, n), name=f"tamis-{kind}-{n}", daemon=True
                )
                for n in range(workers)
            ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens waiting or running."""
        return sum(lane.queue.tokens for lane in self._lanes)

    @property
    def speed(self) -> float:
        """Measured tokens per second of prompt work when all its workers are busy."""
        return self._prompt.queue.speed

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
            extra: of a caller who was let in already, and can do without: it is patient work, only
                a deadline refuses it, and passing that one is no loss.

        Cancelling the caller drops what has not started.

        Raises:
            OverloadedError: at once, where there is no room or the deadline would be missed. One
                request is always let in while the queue is empty, however long it is.
            DeadlineError: at once where the work takes longer than that, else when it has passed.
        """
        if not tasks:
            return 0.0
        loop = asyncio.get_running_loop()
        # Whether in time. A future that kept an exception would be in a circle with this frame, and
        # all of the request in it until the collector comes, which holds up everybody.
        done: asyncio.Future[bool] = loop.create_future()
        arrived = time.perf_counter()
        total = sum(map(work, tasks))
        request = Request(
            lambda error: settle(loop, done, True, error),
            missing=len(tasks),
            left=total,
            deadline=math.inf if deadline is None else arrived + deadline,
            step=STEP * max(task.weight for task in tasks),
            extra=extra,
        )
        lane = self._patient if extra or total > self._limit else self._prompt
        with lane.ready:
            lane.queue.admit(total, total - work(tasks[-1]), deadline, extra)
            lane.queue.add(request, tasks)
            lane.ready.notify(len(tasks))
        self._events.queued(self.queued_tokens)

        def expire() -> None:
            if not done.done():
                self._abandon(lane, request, None if extra else "deadline")
                done.set_result(False)

        timer = None if deadline is None else loop.call_later(deadline, expire)
        try:
            if not await done:
                raise DeadlineError
        except asyncio.CancelledError:
            self._abandon(lane, request, "disconnect")
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
        # Without the lock: a worker that has it may wait for a core, or for Python's own lock, and
        # so would everybody whose answer is a refusal. It is an estimate, whoever moves meanwhile.
        self._prompt.queue.admit(1, 0, deadline)

    def check_patience(self, tokens: int) -> None:
        """Refuse what may ask for so many tokens of patient work, where too many wait for theirs.

        Without it, what is let in at the speed of prompt work would pile up behind it.

        Raises:
            OverloadedError: with the time until there is room.
        """
        if self._patient is not self._prompt:
            with self._patient.ready:
                self._patient.queue.bear(tokens)

    def close(self) -> None:
        """Let the workers finish what is queued, then stop them."""
        self._accepting = False
        for lane in self._lanes:
            with lane.ready:
                lane.ready.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def _threads(self) -> list[threading.Thread]:
        return [thread for lane in self._lanes for thread in lane.threads]

    def _serve(self, lane: _Lane[T], number: int) -> None:
        self._begin(number, lane.patient)
        while self._work(lane):
            pass  # nothing of a run, and of its texts, is held while the next one is awaited

    def _work(self, lane: _Lane[T]) -> bool:
        """Do what comes next; False when the scheduler has closed."""
        if not (batch := self._take(lane)):
            return False
        began = time.perf_counter()
        error: Exception | None = None
        with self._core(lane):
            opened = [entry for entry in batch if self._open(lane, entry)]
            try:
                if opened:
                    self._run([entry.task for entry in opened], self._alone())
            except BaseException as raised:
                error = told(raised)
        failed = error is not None or not opened
        self._finish(lane, batch, time.perf_counter() - began, failed, error)
        return True

    @contextmanager
    def _core(self, lane: _Lane[T]) -> Iterator[None]:
        """A run's time; one that can wait does so until fewer run than there are cores."""
        if self._cores is None:
            yield
            return
        with self._cores:
            if lane.patient:
                self._cores.wait_for(lambda: self._running < self._workers, SPARED)
            self._running += 1
        try:
            yield
        finally:
            with self._cores:
                self._running -= 1
                self._cores.notify()

    def _alone(self) -> bool:
        """Whether a run has the machine to itself, and is likely to keep it."""
        queues = [lane.queue for lane in self._lanes]
        company = sum(q.busy for q in queues) > 1 or any(q.waits for q in queues)
        self._company = COMPANY_MEMORY * self._company + (1 - COMPANY_MEMORY) * company
        return not company and self._company < SOLITUDE

    def _take(self, lane: _Lane[T]) -> list[Entry[T]]:
        """The next tasks to run; none when the scheduler has closed."""
        with lane.ready:
            while not (batch := lane.queue.take(time.perf_counter())):
                if not self._accepting:
                    return []
                lane.ready.wait()
            return batch

    def _open(self, lane: _Lane[T], entry: Entry[T]) -> bool:
        """Open a task; the estimate of an unopened text covered all that follows from it.

        Returns whether there is something to be run. Where it cannot be opened, its request alone
        has failed, and nobody else whose task is in the same run.
        """
        before = work(entry.task)
        try:
            more = self._open_task(entry.task)
        except BaseException as raised:
            self._abandon(lane, entry.request, None)
            entry.request.settle(told(raised))
            return False
        if more or work(entry.task) != before:
            with lane.ready:
                lane.queue.opened(entry, before, more)
                lane.ready.notify(len(more))
        return True

    def _finish(
        self,
        lane: _Lane[T],
        batch: list[Entry[T]],
        seconds: float,
        failed: bool,
        error: Exception | None,
    ) -> None:
        costs = [entry.task.cost for entry in batch]
        with lane.ready:
            ended = lane.queue.done(batch, seconds, failed)
        for request in ended:
            request.settle(error)
        self._events.ran(len(batch), sum(costs), len(batch) * max(costs))
        self._events.queued(self.queued_tokens)

    def _abandon(self, lane: _Lane[T], request: Request, reason: Loss | None) -> None:
        with lane.ready:
            if request.gone:
                return
            lane.queue.forget(request)
        if reason is not None:
            self._events.lost(reason)
        self._events.queued(self.queued_tokens)


def told(raised: BaseException) -> Exception:
    """What is told to the caller, whatever was raised: the worker lives on.

    A library that is written in Rust panics with what is no ``Exception``, and may quote a text.
    """
    return raised if isinstance(raised, Exception) else RuntimeError(type(raised).__name__)
