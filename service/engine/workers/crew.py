"""The front's side: workers for the scheduler's threads, replaced where they end."""

import logging
import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from service.engine.judging import Hands, Reading, WindowTask, take_place
from service.engine.warmup import Pace
from service.engine.workers.calls import (
    PROTOCOL,
    Arrays,
    Call,
    Failed,
    Judge,
    Judged,
    Key,
    Opened,
    Pool,
    Score,
    Slot,
    key_of,
)
from service.engine.workers.processes import LostError, Template, Worker, how_ended
from service.engine.workers.template import Fork, Load
from tamis.bundle import Bundle
from tamis.windows import Window

logger = logging.getLogger("tamis.service")

# One that ends before it has answered anything will do so again: then each is given more time.
PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class WorkerLostError(RuntimeError):
    """A text's worker ended, and the one that it was given to again."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A classifier that the workers hold."""

    bundle: Bundle
    batch_tokens: int = 0


class CrewEvents:
    """What a crew tells of itself."""

    def manned(self, workers: int) -> None:
        """So many workers are alive."""

    def replaced(self) -> None:
        """A worker that had ended was replaced."""


@dataclass(slots=True, eq=False)
class Seat:
    """A place for a worker: that of one of the scheduler's threads."""

    fork: Fork
    worker: Worker | None = None
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, eq=False)
class _Opened:
    """A reading whose windows are scored one by one."""

    judge: Judge
    held: bytes
    missing: int
    scored: list[tuple[int, int, Arrays]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    opened: _Opened
    part: int
    index: int
    model: Key
    window: Window


class Crew(Hands):
    """So many workers for prompt work, and as many for what can wait.

    A call whose worker ends is given to the next one, which is there within milliseconds; once. So
    nothing is lost with a worker, and a text that ends whoever reads it does so no more than twice.
    """

    def __init__(
        self, workers: int, cores: Sequence[int] = (), events: CrewEvents | None = None
    ) -> None:
        """Start the template.

        Args:
            workers: of each of the two kinds.
            cores: one for each prompt worker, to stay on; none: the kernel places them.
            events: hears of workers.
        """
        self.workers = workers
        self._events = events or CrewEvents()
        self._seats = {
            (patient, n): Seat(Fork(patient, cores[n] if cores and not patient else None))
            for patient in (False, True)
            for n in range(workers)
        }
        self._mine = threading.local()
        self._lock = threading.Lock()  # of what is opened
        self._leading = threading.Lock()  # of the template
        self._closing = threading.Event()
        self._loaded: dict[tuple[Slot, str], Load] = {}
        self._loads = 0
        self._template = Template()

    @property
    def alive(self) -> int:
        """Workers that have not ended."""
        return sum(seat.worker is not None for seat in self._seats.values())

    @property
    def wanted(self) -> int:
        """Workers that there should be."""
        return len(self._seats)

    @property
    def pids(self) -> list[int]:
        """Of the workers there are."""
        return [seat.worker.pid for seat in self._seats.values() if seat.worker is not None]

    def load(self, slot: Slot, bundle: Bundle) -> tuple[Elsewhere, Pace]:
        """Have all workers serve a bundle; they change over one by one, between two calls.

        Raises:
            BundleError, ProviderError: where it is not usable.
            LostError: where loading it ends the process that does, or it does not answer.
        """
        with self._leading:
            asked = Load(slot, bundle)
            pace = self._led().load(asked)
            self._loaded = {key: load for key, load in self._loaded.items() if key[0] != slot}
            self._loaded[slot, bundle.fingerprint] = asked
            self._loads += 1
        return Elsewhere(bundle), pace

    def tend(self) -> None:
        """See that every seat has a worker that lives.

        Raises:
            OSError, LostError: where one could not be made.
        """
        for seat in self._seats.values():
            # One whose lock is held is being used, and seen to.
            if seat.lock.acquire(blocking=False):
                try:
                    if seat.worker is not None and seat.worker.gone:
                        self._bury(seat)
                    self._seated(seat)
                finally:
                    seat.lock.release()

    def begin(self, number: int, patient: bool) -> None:
        """See ``Hands``."""
        self._mine.seat = self._seats[patient, number]

    def open(self, task: WindowTask) -> tuple[Sequence[WindowTask], int]:
        """See ``Hands``."""
        reading = task.reading
        models = [m for m in (reading.model, reading.other) if m is not None]
        asked = tuple(key_of(m) for m in models)
        judge = Judge(asked, reading.content, reading.evidence, reading.memory)
        answer: Judged | Opened = self._ask(judge)
        reading.tokenize = answer.tokenize
        weights = {key_of(m): m.weight for m in models}
        if isinstance(answer, Judged):
            _settle(reading, answer)
            task.cost, task.weight, task.place = answer.cost, weights[answer.by], answer
            return (), answer.tokens
        opened = _Opened(judge, answer.held, len(answer.windows))
        tasks = [
            WindowTask(reading, len(window.ids), weights[key], _Place(opened, at, n, key, window))
            for at, n, key, window in answer.windows
        ]
        take_place(task, tasks[0])
        return tasks[1:], answer.tokens

    def run(self, tasks: Sequence[WindowTask], alone: bool) -> None:  # noqa: ARG002
        """See ``Hands``."""
        for task in tasks:
            if not isinstance(place := task.place, _Place):
                continue  # judged when it was opened
            opened = place.opened
            arrays = self._ask(Score(place.model, place.window, opened.judge.evidence))
            with self._lock:
                opened.scored.append((place.part, place.index, arrays))
                opened.missing -= 1
                last = not opened.missing
            if last:
                _settle(task.reading, self._ask(Pool(opened.judge, opened.held, opened.scored)))

    def halt(self) -> None:
        """Make and load nothing more; who waits for a load need not wait for its end."""
        self._closing.set()
        if self._leading.locked():
            self._template.kill()

    def close(self) -> None:
        """See ``Hands``."""
        self.halt()
        for seat in self._seats.values():
            with seat.lock:
                if seat.worker is not None:
                    seat.worker.way.close()
                    seat.worker = None
        with self._leading:
            self._template.close()
        self._events.manned(0)

    def _ask(self, call: Call) -> Any:
        """The answer of this thread's worker, or of the one after it.

        Raises:
            WorkerLostError: where there are none.
            Exception: what the call raised.
        """
        seat: Seat = self._mine.seat
        asked = pickle.dumps(call, PROTOCOL)
        with seat.lock:
            for _ in range(2):
                try:
                    answer = self._seated(seat).ask(asked)
                except (LostError, OSError):
                    self._bury(seat)
                    continue
                seat.failures = 0
                if isinstance(answer, Failed):
                    logger.error("in an inference worker:\n%s", answer.where)
                    raise answer.error
                return answer
        raise WorkerLostError("the worker that was asked has ended, and the next one, too")

    def _seated(self, seat: Seat) -> Worker:
        """The worker of a seat, a new one where there is none, or one of before the latest load.

        Raises:
            OSError, LostError: where none could be made.
        """
        worker = seat.worker
        lost = worker is None and seat.failures > 0
        if worker is not None:
            if worker.models == self._loads:
                return worker
            worker.way.close()  # which ends it
            seat.worker = None
        elif seat.failures > 1:
            self._closing.wait(min(PAUSE * 2 ** (seat.failures - 2), LONGEST_PAUSE))
        with self._leading:
            try:
                forked, way = self._led().fork(seat.fork)
            except LostError:  # it has just ended
                forked, way = self._led().fork(seat.fork)
            worker = seat.worker = Worker(forked.pid, way, self._loads)
        for pid, status in forked.ended.items():
            if status:
                logger.warning(
                    "an inference worker, process %d, ended (%s)", pid, how_ended(status)
                )
        if lost:
            self._events.replaced()
        self._events.manned(self.alive)
        return worker

    def _bury(self, seat: Seat) -> None:
        """A seat's worker has ended."""
        if seat.worker is not None:
            seat.worker.way.close()
            seat.worker = None
        seat.failures += 1
        self._events.manned(self.alive)

    def _led(self) -> Template:
        """The template, a new one where it has ended.

        Raises:
            LostError: where what was loaded cannot be loaded again, or all is to end.
        """
        if self._closing.is_set():
            raise LostError("closed")
        if not self._template.alive:
            logger.warning("the process that holds the models is lost; it is started anew")
            self._template.close()
            self._template = Template()
            for load in self._loaded.values():
                try:
                    self._template.load(load)
                except Exception as error:
                    self._template.close()
                    raise LostError(f"what was served cannot be loaded again: {error}") from None
        return self._template


def _settle(reading: Reading, judged: Judged) -> None:
    model, rest = reading.model, reading.other
    if rest is not None and key_of(rest) == judged.by:
        model, rest = rest, model
    read, finding = judged.read, replace(judged.read.finding, second=model.who)
    if rest is not None and finding.other is not None:
        finding = replace(finding, other=replace(finding.other, second=rest.who))
    reading.settle(replace(read, finding=finding), judged.pool)
