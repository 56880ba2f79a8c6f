"""Prompt work and work that can wait, under a clock of our own and with threads."""

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence

import pytest

from service.engine.scheduler import DeadlineError, OverloadedError, Scheduler
from tests.service.simulation import Job, Machine, percentile

SECONDS = 40.0
SHORT = (8, 12, 16, 20, 28, 36, 48, 64, 96, 128)


def shorts(rate: float, seed: int = 0) -> Iterator[tuple[float, str, list[Job]]]:
    """Texts of one window, at random."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < SECONDS:
        yield at, "short", [Job(chance.choice(SHORT))]


def long(at: float, windows: int, weight: int = 1) -> tuple[float, str, list[Job]]:
    return at, "long", [Job(256, weight) for _ in range(windows)]


def seconds(rate: float, weight: int, seed: int = 1) -> Iterator[tuple[float, str, list[Job]]]:
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < SECONDS:
        yield at, "second", [Job(chance.choice(SHORT), weight)]


def p99(machine: Machine, kind: str = "short") -> float:
    return percentile(machine.took[kind], 99)


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_a_burst_of_long_texts_hardly_moves_short_ones(load: float):
    rate = load * 2 * 15_000 / (sum(SHORT) / len(SHORT))
    calm, burst, before = Machine(), Machine(), Machine(lanes=False)
    # Twenty texts of 8,000 tokens at once, every ten seconds.
    bursts = [long(at, 31) for at in range(5, 40, 10) for _ in range(20)]
    calm.play(shorts(rate))
    burst.play([*shorts(rate), *bursts])
    before.play([*shorts(rate), *bursts])
    assert len(burst.took["long"]) == len(bursts)
    assert p99(burst) <= 1.3 * p99(calm)
    assert p99(before) > 1.3 * p99(calm)


def test_second_opinions_of_eight_times_the_weight_hardly_move_first_ones():
    rate = 0.4 * 2 * 15_000 / (sum(SHORT) / len(SHORT))
    calm, cascade, before = Machine(), Machine(), Machine(lanes=False)
    calm.play(shorts(rate))
    asked = list(seconds(0.1 * rate, 8))
    cascade.play([*shorts(rate), *asked])
    before.play([*shorts(rate), *asked])
    assert len(cascade.took["second"]) == len(asked)
    assert p99(cascade) <= 1.3 * p99(calm) < p99(before)


def test_nobody_starves_behind_prompt_work():
    # More than the machine can do, for ever: what can wait still gets its twentieth of the cores.
    rate = 1.5 * 2 * 15_000 / (sum(SHORT) / len(SHORT))
    machine = Machine()
    machine.play([*shorts(rate), long(1.0, 31)])
    assert percentile(machine.took["long"], 50) < SECONDS / 4


def test_a_long_text_alone_has_all_cores():
    one, two = Machine(cores=1), Machine(cores=2)
    for machine in (one, two):
        machine.play([long(0.0, 30)])
    assert one.took["long"][0] == pytest.approx(30 * 256 / 15_000)
    assert two.took["long"][0] == pytest.approx(15 * 256 / 15_000)


def test_second_opinions_pass_between_the_windows_of_a_long_text():
    machine = Machine(cores=1)
    machine.play([long(0.0, 100), (0.5, "second", [Job(20, 8)])])
    # The window that runs, one more turn, and its own.
    assert machine.took["second"][0] < 3 * 256 / 15_000


class Kinds:
    """Who runs what, and no run ends before it may."""

    def __init__(self) -> None:
        self.let: dict[int, threading.Event] = {}
        self.ran: list[tuple[str, int]] = []
        self.begun: list[tuple[int, bool]] = []

    def begin(self, number: int, patient: bool) -> None:
        self.begun.append((number, patient))

    def run(self, jobs: Sequence[Job], _: bool) -> None:
        self.ran += [(threading.current_thread().name, job.cost) for job in jobs]
        for job in jobs:
            self.let.setdefault(job.cost, threading.Event()).wait(5)


@pytest.fixture
def kinds() -> Kinds:
    return Kinds()


@pytest.fixture
def scheduler(kinds: Kinds) -> Iterator[Scheduler[Job]]:
    made: Scheduler[Job] = Scheduler(
        lambda _: (), kinds.run, prompt=100, begin=kinds.begin, speed=1_000, max_wait=1.0
    )
    yield made
    for event in kinds.let.values():
        event.set()
    made.close()


async def settle() -> None:
    await asyncio.sleep(0.05)


async def test_what_is_long_or_second_waits_elsewhere(kinds: Kinds, scheduler: Scheduler[Job]):
    kinds.let[50] = threading.Event()
    kinds.let[50].set()
    long_one = asyncio.create_task(scheduler.submit([Job(101)]))
    await settle()
    await scheduler.submit([Job(50)])
    assert not long_one.done()
    extra = asyncio.create_task(scheduler.submit([Job(60)], extra=True))
    await settle()
    assert scheduler.queued_tokens == 161
    # Prompt work is let in by what is before it alone.
    scheduler.check(deadline=0.05)
    kinds.let[60] = threading.Event()
    kinds.let[60].set()
    kinds.let[101].set()
    await asyncio.gather(long_one, extra)
    assert kinds.ran == [
        ("tamis-patient-0", 101),
        ("tamis-infer-0", 50),
        ("tamis-patient-0", 60),
    ]
    assert sorted(kinds.begun) == [(0, False), (0, True)]
    assert scheduler.queued_tokens == 0


async def test_where_cores_are_time_what_can_wait_starts_when_one_is_free(
    kinds: Kinds, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("service.engine.scheduler.SPARED", 30.0)
    scheduler: Scheduler[Job] = Scheduler(
        lambda _: (), kinds.run, prompt=100, quota=True, workers=2, speed=1_000
    )
    short = [asyncio.create_task(scheduler.submit([Job(cost)])) for cost in (10, 20)]
    await settle()
    extra = asyncio.create_task(scheduler.submit([Job(30)], extra=True))
    await settle()
    assert [cost for _, cost in kinds.ran] == [10, 20]
    kinds.let[10].set()
    await settle()
    assert [cost for _, cost in kinds.ran] == [10, 20, 30]
    # Prompt work waits for nobody, even where that is one too many.
    more = asyncio.create_task(scheduler.submit([Job(40)]))
    await settle()
    assert [cost for _, cost in kinds.ran] == [10, 20, 30, 40]
    # And nobody waits for ever.
    monkeypatch.setattr("service.engine.scheduler.SPARED", 0.05)
    last = asyncio.create_task(scheduler.submit([Job(50)], extra=True))
    await settle()
    await settle()
    assert [cost for _, cost in kinds.ran] == [10, 20, 30, 40, 50]
    for event in kinds.let.values():
        event.set()
    await asyncio.gather(*short, extra, more, last)
    scheduler.close()


async def test_who_will_want_a_second_opinion_is_let_in_where_there_is_room_for_one(
    scheduler: Scheduler[Job],
):
    scheduler.check_patience(10_000)
    waiting = [asyncio.create_task(scheduler.submit([Job(400)], extra=True)) for _ in range(6)]
    await settle()
    # 2.4 s are queued; behind it all one would wait for longer than the second that may be.
    with pytest.raises(OverloadedError) as refused:
        scheduler.check_patience(400)
    assert refused.value.retry_after == pytest.approx(1.4, abs=0.01)
    scheduler.check()
    with pytest.raises((DeadlineError, OverloadedError)):
        await scheduler.submit([Job(100)], 0.2, extra=True)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    scheduler.check_patience(400)
