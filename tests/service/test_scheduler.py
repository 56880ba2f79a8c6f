import asyncio
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from service.engine.queue import Queue, Request
from service.engine.scheduler import DeadlineError, Events, OverloadedError, Scheduler


@dataclass(eq=False)
class Job:
    name: str
    cost: int = 1
    parts: Sequence["Job"] = ()
    weight: int = 1


class Gate:
    """Work that waits until it is let through, and notes the order."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.order: list[str] = []
        self.runs: list[list[str]] = []
        self.alone: list[bool] = []

    def unpack(self, job: Job) -> Sequence[Job]:
        if job.name == "unreadable":
            raise ValueError("unreadable job")
        if job.parts:
            job.cost -= sum(part.cost for part in job.parts)
        return job.parts

    def run(self, jobs: Sequence[Job], alone: bool) -> None:
        self.open.wait(5)
        if any(job.name == "bad" for job in jobs):
            raise ValueError("bad job")
        self.order += [job.name for job in jobs]
        self.runs.append([job.name for job in jobs])
        self.alone.append(alone)


class Heard(Events):
    def __init__(self) -> None:
        self.losses: list[str] = []
        self.padding = 0

    def lost(self, reason: str) -> None:
        self.losses.append(reason)

    def ran(self, _: int, tokens: int, padded: int) -> None:
        self.padding += padded - tokens


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def heard() -> Heard:
    return Heard()


Make = Callable[..., Scheduler[Job]]


@pytest.fixture
def make(gate: Gate, heard: Heard) -> Iterator[Make]:
    made: list[Scheduler[Job]] = []

    def build(**options: float) -> Scheduler[Job]:
        made.append(Scheduler(gate.unpack, gate.run, events=heard, **options))
        return made[-1]

    yield build
    gate.open.set()
    for scheduler in made:
        scheduler.close()


def jobs(*names: str, cost: int = 1) -> list[Job]:
    return [Job(name, cost) for name in names]


async def settle() -> None:
    await asyncio.sleep(0.02)


async def test_everything_is_done_and_the_books_are_closed(make, gate):
    scheduler = make()
    gate.open.set()
    assert await scheduler.submit(jobs("a", "b", "c")) >= 0
    assert gate.order == ["a", "b", "c"]
    assert await scheduler.submit([]) == 0
    assert scheduler.queued_tokens == 0


async def test_a_single_window_passes_a_long_batch(make, gate):
    scheduler = make()
    batch = asyncio.create_task(scheduler.submit(jobs(*"0123456789", cost=8)))
    await settle()
    single = asyncio.create_task(scheduler.submit([Job("single", 8)]))
    await settle()
    gate.open.set()
    await asyncio.gather(batch, single)
    assert gate.order.index("single") <= 2


async def test_what_a_text_turns_out_to_hold_waits_its_turn_too(make, gate):
    scheduler = make()
    text = Job("text", 80, parts=jobs(*(f"window{n}" for n in range(1, 10)), cost=8))
    long = asyncio.create_task(scheduler.submit([text]))
    await settle()
    single = asyncio.create_task(scheduler.submit([Job("single", 8)]))
    await settle()
    assert scheduler.queued_tokens == 88
    gate.open.set()
    await asyncio.gather(long, single)
    assert gate.order.index("single") <= 2
    assert gate.order[-1] == "window9"
    assert scheduler.queued_tokens == 0


async def test_a_worker_knows_when_it_is_alone(make, gate):
    scheduler = make(workers=2)
    gate.open.set()
    await scheduler.submit([Job("a")])
    assert gate.alone == [True]
    gate.open.clear()
    waiting = asyncio.create_task(scheduler.submit(jobs("b", "c", "d", "e", "f")))
    await settle()
    gate.open.set()
    await waiting
    assert gate.alone[1] is False
    # Where others came lately, others will come again.
    await scheduler.submit([Job("g")])
    assert gate.alone[-1] is False
    for _ in range(50):
        await scheduler.submit([Job("h")])
    assert gate.alone[-1] is True


async def test_a_full_queue_refuses_with_a_time_to_come_back(make, gate):
    scheduler = make(max_tokens=100)
    first = asyncio.create_task(scheduler.submit([Job("a", 90)]))
    await settle()
    with pytest.raises(OverloadedError) as refused:
        await scheduler.submit([Job("b", 20)])
    assert refused.value.reason == "capacity"
    assert refused.value.retry_after > 0
    gate.open.set()
    await first
    # One request alone is let in, however long it is.
    await scheduler.submit([Job("huge", 500)])
    assert gate.order == ["a", "huge"]


async def test_a_wait_that_would_miss_the_deadline_is_refused_at_once(make, gate):
    scheduler = make(speed=100)
    first = asyncio.create_task(scheduler.submit([Job("a", 100)]))
    await settle()
    with pytest.raises(OverloadedError) as refused:
        await scheduler.submit([Job("b", 10)], deadline=0.5)
    assert refused.value.reason == "deadline"
    # 1 s of work is ahead; 80 % of 0.5 s, less 0.1 s of own work, would have been in time.
    assert refused.value.retry_after == pytest.approx(0.7, abs=0.01)
    in_time = asyncio.create_task(scheduler.submit([Job("c", 10)], deadline=5))
    await settle()
    gate.open.set()
    await asyncio.gather(first, in_time)
    assert gate.order == ["a", "c"]


async def test_what_no_text_is_short_enough_for_can_be_known_beforehand(make, gate):
    scheduler = make(speed=100)
    scheduler.check(deadline=0.5)
    first = asyncio.create_task(scheduler.submit([Job("a", 100)]))
    await settle()
    with pytest.raises(OverloadedError):
        scheduler.check(deadline=0.5)
    scheduler.check(deadline=5)
    assert scheduler.queued_tokens == 100
    gate.open.set()
    await first


async def test_who_is_refused_waits_for_no_worker_that_holds_the_lock(make, gate):
    scheduler = make(speed=100)
    first = asyncio.create_task(scheduler.submit([Job("a", 100)]))
    await settle()
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with scheduler._prompt.ready:
            held.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    asked = asyncio.get_running_loop().run_in_executor(None, scheduler.check, 0.5)
    done, _ = await asyncio.wait([asked], timeout=5)
    leave.set()
    holder.join()
    assert done == {asked}
    assert isinstance(asked.exception(), OverloadedError)
    gate.open.set()
    await first


async def test_without_a_deadline_the_longest_wait_holds(make, gate):
    scheduler = make(speed=100, max_wait=0.5)
    first = asyncio.create_task(scheduler.submit([Job("a", 100)]))
    await settle()
    with pytest.raises(OverloadedError):
        await scheduler.submit([Job("b", 10)])
    gate.open.set()
    await first
    # The wait is bounded, not the work.
    await scheduler.submit([Job("long", 1_000)])


async def test_a_long_batch_ahead_counts_by_its_share(make, gate):
    scheduler = make(speed=1_000, max_wait=1.0)
    batch = asyncio.create_task(scheduler.submit(jobs(*"0123456789", cost=500)))
    await settle()
    # 5 s are queued, of which a single window waits for less than one.
    single = asyncio.create_task(scheduler.submit([Job("single", 10)]))
    await settle()
    assert not single.done()
    gate.open.set()
    await asyncio.gather(batch, single)


async def test_a_deadline_under_the_work_itself_is_told_apart(make):
    scheduler = make(speed=100)
    with pytest.raises(DeadlineError) as refused:
        await scheduler.submit([Job("long", 100)], deadline=0.5)
    assert refused.value.needed == pytest.approx(1.0)


async def test_what_expires_is_dropped_before_it_runs(make, gate, heard):
    scheduler = make(speed=1e6)
    first = asyncio.create_task(scheduler.submit([Job("a")]))
    await settle()
    began = time.perf_counter()
    with pytest.raises(DeadlineError) as late:
        await scheduler.submit(jobs("b", "c"), deadline=0.05)
    assert late.value.needed is None
    assert 0.04 < time.perf_counter() - began < 1
    assert scheduler.queued_tokens == 1
    gate.open.set()
    await first
    await scheduler.submit([Job("d")])
    assert gate.order == ["a", "d"]
    assert heard.losses == ["deadline"]


async def test_a_caller_who_leaves_takes_the_waiting_windows_along(make, gate, heard):
    scheduler = make()
    running = asyncio.create_task(scheduler.submit([Job("a")]))
    await settle()
    leaving = asyncio.create_task(scheduler.submit(jobs("b", "c")))
    await settle()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert scheduler.queued_tokens == 1
    gate.open.set()
    await running
    await scheduler.submit([Job("d")])
    assert gate.order == ["a", "d"]
    assert heard.losses == ["disconnect"]


@pytest.mark.parametrize("fault", ["bad", "unreadable"])
async def test_a_failing_job_fails_its_request_alone(make, gate, fault):
    scheduler = make()
    gate.open.set()
    with pytest.raises(ValueError, match="job"):
        await scheduler.submit(jobs("a", fault, "c"))
    await scheduler.submit([Job("d")])
    assert gate.order[-1] == "d"
    assert scheduler.queued_tokens == 0


async def test_an_idle_worker_holds_nothing_of_its_last_job(make, gate):
    scheduler = make()
    gate.open.set()
    job = Job("a")
    gone = weakref.ref(job)
    await scheduler.submit([job])
    del job
    async with asyncio.timeout(2):
        while gone() is not None:
            await asyncio.sleep(0.01)


class Panic(BaseException):
    """As PyO3 raises it where a library written in Rust panics."""


@pytest.mark.parametrize("step", ["unpack", "run"])
async def test_a_worker_outlives_whatever_a_job_raises(make, gate, step):
    usual = getattr(gate, step)

    def panic(job: Job | list[Job], *rest: bool) -> Sequence[Job] | None:
        if "bad" in str(job):
            raise Panic("quotes the text")
        return usual(job, *rest)

    setattr(gate, step, panic)
    scheduler = make()
    gate.open.set()
    async with asyncio.timeout(2):
        with pytest.raises(RuntimeError, match="Panic") as caught:
            await scheduler.submit([Job("bad")])
        await scheduler.submit([Job("good")])
    assert "quotes" not in str(caught.value)
    assert scheduler.queued_tokens == 0


async def test_in_batches_what_cannot_be_opened_fails_alone(make, gate):
    scheduler = make(batch_tokens=64)
    first = asyncio.create_task(scheduler.submit([Job("first", 4)]))
    await settle()
    names = ("a", "unreadable", "b")
    rest = [asyncio.create_task(scheduler.submit([Job(name, 8)])) for name in names]
    await settle()
    gate.open.set()
    found = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(one) for one in found] == [float, float, ValueError, float]
    assert gate.runs == [["first"], ["a", "b"]]
    assert scheduler.queued_tokens == 0


async def test_batches_take_along_what_is_about_as_long(make, gate, heard):
    scheduler = make(batch_tokens=64)
    first = asyncio.create_task(scheduler.submit([Job("first", 4)]))
    await settle()
    queued = [("short1", 10), ("long1", 30), ("short2", 12), ("long2", 20), ("short3", 9)]
    rest = [asyncio.create_task(scheduler.submit([Job(*job)])) for job in queued]
    await settle()
    gate.open.set()
    await asyncio.gather(first, *rest)
    assert gate.runs == [["first"], ["short1", "short2", "short3"], ["long1", "long2"]]
    assert heard.padding == (3 * 12 - 31) + (2 * 30 - 50)


async def test_in_batches_nobody_starves(make, gate):
    scheduler = make(batch_tokens=64)
    first = asyncio.create_task(scheduler.submit([Job("first", 4)]))
    await settle()
    long = asyncio.create_task(scheduler.submit([Job("long", 60)]))
    await settle()
    short = [asyncio.create_task(scheduler.submit([Job(f"s{n}", 8)])) for n in range(40)]
    await settle()
    gate.open.set()
    await asyncio.gather(first, long, *short)
    assert gate.runs[1] == ["long"]
    assert all(len(run) <= 8 for run in gate.runs)


async def test_the_speed_is_that_of_busy_workers(make, gate):
    gate.run = lambda *_: time.sleep(0.002)
    busy, idle = make(workers=2, speed=1e3), make(workers=2, speed=1e9)
    await busy.submit([Job(str(n), 100) for n in range(300)])
    # 100 tokens in at least 2 ms, twice at the same time; slept time is never shorter.
    assert 20_000 < busy.speed <= 100_000
    await idle.submit([Job("a")])
    assert idle.speed > 1e8


def test_neither_a_pause_nor_blank_texts_make_a_machine_slow():
    queue: Queue[Job] = Queue(
        workers=1, max_tokens=1_000, max_wait=1.0, batch_tokens=0, speed=1_000.0
    )

    def run(tokens: int, seconds: float) -> None:
        job = Job("a", tokens)
        queue.add(Request(lambda _: None, missing=1, left=tokens, deadline=math.inf), [job])
        queue.done(queue.take(0.0), seconds, failed=False)

    run(100, 0.1)
    for _ in range(40_000):
        run(0, 0.001)
    assert queue.speed == pytest.approx(1_000)
    for _ in range(50):
        run(100, 0.1)
    run(100, 60.0)
    assert queue.speed > 750
    # What is slow again and again is believed.
    for _ in range(100):
        run(100, 1.0)
    assert queue.speed == pytest.approx(100, rel=0.2)


def test_newcomers_do_not_pass_for_ever():
    """Each request has a turn of its own: a text of five windows among people who ask again."""
    queue: Queue[Job] = Queue(
        workers=1, max_tokens=10**9, max_wait=1e9, batch_tokens=0, speed=1_000.0
    )

    def add(name: str, *costs: int) -> Request:
        jobs = [Job(f"{name}{n}", cost) for n, cost in enumerate(costs)]
        request = Request(lambda _: None, len(jobs), sum(costs), math.inf)
        queue.add(request, jobs)
        return request

    long, served = add("long", *[200] * 5), 0
    for _ in range(3):
        add("short", 50)
    while not long.gone:
        batch = queue.take(0.0)
        served += 1
        if all(request is not long for request in queue.done(batch, 0.1, failed=False)):
            add("short", 50) if batch[0].request is not long else None
        assert served < 100
    # Four take turns by tokens: 1,000 of the long one beside some 3,000 of the others.
    assert 40 < served < 80


def test_many_workers_lose_nothing():
    done: list[str] = []
    scheduler: Scheduler[Job] = Scheduler(
        lambda job: job.parts,
        lambda batch, _: (time.sleep(0.0005), done.extend(job.name for job in batch))[1],
        workers=4,
        max_tokens=10**6,
    )

    async def main() -> None:
        texts = [[Job(f"{n}.{i}", 1, jobs(f"{n}.{i}+")) for i in range(50)] for n in range(8)]
        await asyncio.gather(*(scheduler.submit(text) for text in texts))

    asyncio.run(main())
    assert len(done) == len(set(done)) == 8 * 50 * 2
    assert scheduler.queued_tokens == 0
    scheduler.close()


async def test_heavier_tokens_count_for_more_and_extra_work_is_never_out_of_room(make, gate, heard):
    scheduler = make(max_tokens=50, max_wait=0.001, speed=1_000.0)
    first = asyncio.create_task(scheduler.submit([Job("first", 40)]))
    await settle()
    with pytest.raises(OverloadedError):
        await scheduler.submit([Job("ordinary", 40)])
    extra = asyncio.create_task(
        scheduler.submit([Job("x", 10, weight=8), Job("y", 10, weight=8)], extra=True)
    )
    await settle()
    assert scheduler.queued_tokens == 40 + 8 * 20
    # Only a deadline stops it, at once or in time; nobody calls that a loss.
    with pytest.raises(DeadlineError):
        await scheduler.submit([Job("hopeless", 100, weight=8)], 0.1, extra=True)
    with pytest.raises((DeadlineError, OverloadedError)):
        await scheduler.submit([Job("late", 1, weight=8)], 0.05, extra=True)
    gate.open.set()
    await asyncio.gather(first, extra)
    assert scheduler.queued_tokens == 0
    assert heard.losses == []
    assert {"late", "hopeless"}.isdisjoint(gate.order)
