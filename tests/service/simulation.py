"""The scheduler's queues on a machine of paper: cores, priorities and a clock of one's own.

What runs is a fluid: at each moment every core is shared out among those who run, by their weights
under Linux (a nice level of 13 is 56 to 1024), and nobody gets more than a core.
"""

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from service.engine.queue import STEP, Entry, Queue, Request, work

WEIGHTS = {False: 1024.0, True: 56.0}


@dataclass(eq=False)
class Job:
    """A run of so many tokens."""

    cost: int
    weight: int = 1


@dataclass(eq=False)
class Run:
    """Something that runs; ``left`` in tokens."""

    patient: bool
    batch: list[Entry[Job]]
    began: float
    left: float


@dataclass
class Machine:
    """So many cores of so many tokens a second; ``lanes`` False has one queue for everything."""

    cores: int = 2
    speed: float = 15_000.0
    lanes: bool = True
    now: float = 0.0
    took: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from arrival to end, by kind."""

    def __post_init__(self) -> None:
        def queue() -> Queue[Job]:
            return Queue(
                workers=self.cores,
                max_tokens=10**9,
                max_wait=1e9,
                batch_tokens=0,
                speed=self.cores * self.speed,
            )

        self._queues = {patient: queue() for patient in (False, True)}
        self._runs: list[Run] = []
        self._begun: dict[int, tuple[str, float]] = {}

    def play(self, arrivals: Iterable[tuple[float, str, list[Job]]], limit: int = 512) -> None:
        """Have requests come in, and everything done."""
        order = itertools.count()
        coming = [(at, next(order), kind, jobs) for at, kind, jobs in arrivals]
        heapq.heapify(coming)
        while coming or self._runs:
            rates = self._rates()
            ends = [run.left / rates[run.patient] for run in self._runs]
            until = self.now + min(ends, default=float("inf"))
            step = min(until, coming[0][0]) if coming else until
            for run in self._runs:
                run.left -= rates[run.patient] * (step - self.now)
            self.now = step
            while coming and coming[0][0] <= self.now:
                _, _, kind, jobs = heapq.heappop(coming)
                self._arrive(kind, jobs, limit)
            for run in [run for run in self._runs if run.left <= 1e-9]:
                self._runs.remove(run)
                queue = self._queues[run.patient]
                for request in queue.done(run.batch, self.now - run.began, failed=False):
                    request.settle(None)
            self._start()

    def _arrive(self, kind: str, jobs: list[Job], limit: int) -> None:
        total, came = sum(map(work, jobs)), self.now

        def settle(_: Exception | None) -> None:
            self.took.setdefault(kind, []).append(self.now - came)

        step = STEP * max(job.weight for job in jobs)
        request = Request(settle, len(jobs), total, float("inf"), step)
        second = any(job.weight > 1 for job in jobs)
        patient = self.lanes and (second or total > limit)
        self._queues[patient].add(request, jobs)

    def _start(self) -> None:
        for patient, queue in self._queues.items():
            while queue.busy < queue.workers and (batch := queue.take(self.now)):
                left = sum(work(entry.task) for entry in batch)
                self._runs.append(Run(patient, batch, self.now, left))

    def _rates(self) -> dict[bool, float]:
        """Tokens per second of each of those who run: nobody gets more than a core."""
        running = {p: sum(run.patient == p for run in self._runs) for p in (False, True)}
        if sum(running.values()) <= self.cores:
            return dict.fromkeys(running, self.speed)
        shares = {p: WEIGHTS[p] for p in running}
        whole = sum(shares[p] * n for p, n in running.items())
        rates = {p: self.cores * shares[p] / whole for p in running}
        if rates[False] > 1 and running[True]:
            rest = (self.cores - running[False]) / running[True]
            rates = {False: 1.0, True: rest}
        return {p: min(rate, 1.0) * self.speed for p, rate in rates.items()}


def percentile(values: list[float], percent: float) -> float:
    """A percentile, the next value up."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
