import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.engine.scheduler import OverloadedError, Scheduler


class Gate:
    """Work that waits until it is let through, and notes the order."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.order: list[str] = []

    def __call__(self, job: str) -> str:
        self.open.wait(5)
        if job == "bad":
            raise ValueError("bad job")
        self.order.append(job)
        return job.upper()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def scheduler(gate: Gate) -> Iterator[Scheduler[str, str]]:
    scheduler = Scheduler(gate, workers=1, max_tokens=100)
    yield scheduler
    gate.open.set()
    scheduler.close()


async def test_results_come_in_the_order_of_the_jobs(scheduler, gate):
    gate.open.set()
    results, queued = await scheduler.submit([("a", 1), ("b", 1), ("c", 1)])
    assert results == ["A", "B", "C"]
    assert queued >= 0
    assert await scheduler.submit([]) == ([], 0.0)


async def test_a_single_window_passes_a_long_batch(scheduler, gate):
    batch = asyncio.create_task(scheduler.submit([(f"batch{n}", 8) for n in range(10)]))
    await asyncio.sleep(0.02)
    single = asyncio.create_task(scheduler.submit([("single", 8)]))
    await asyncio.sleep(0.02)
    gate.open.set()
    await asyncio.gather(batch, single)
    assert gate.order.index("single") <= 2


async def test_a_full_queue_refuses_with_a_time_to_come_back(scheduler, gate):
    first = asyncio.create_task(scheduler.submit([("a", 90)]))
    await asyncio.sleep(0.02)
    with pytest.raises(OverloadedError) as refused:
        await scheduler.submit([("b", 20)])
    assert refused.value.retry_after > 0
    gate.open.set()
    assert (await first)[0] == ["A"]
    # One request alone is let in, however long it is.
    await asyncio.sleep(0.02)
    assert (await scheduler.submit([("huge", 500)]))[0] == ["HUGE"]


async def test_a_failing_job_fails_its_request_alone(scheduler, gate):
    gate.open.set()
    with pytest.raises(ValueError, match="bad job"):
        await scheduler.submit([("a", 1), ("bad", 1), ("c", 1)])
    assert (await scheduler.submit([("d", 1)]))[0] == ["D"]
    await asyncio.sleep(0.02)
    assert scheduler.queued_tokens == 0


async def test_a_caller_who_leaves_takes_the_waiting_windows_along(scheduler, gate):
    running = asyncio.create_task(scheduler.submit([("a", 1)]))
    await asyncio.sleep(0.02)
    leaving = asyncio.create_task(scheduler.submit([("b", 1), ("c", 1)]))
    await asyncio.sleep(0.02)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.open.set()
    await running
    await scheduler.submit([("d", 1)])
    assert gate.order == ["a", "d"]


def test_many_workers_lose_nothing():
    scheduler = Scheduler(lambda job: (time.sleep(0.0005), job)[1], workers=4, max_tokens=10**6)

    async def main() -> list[list[int]]:
        batches = [scheduler.submit([(n * 50 + i, 1) for i in range(50)]) for n in range(8)]
        return [results for results, _ in await asyncio.gather(*batches)]

    assert asyncio.run(main()) == [[n * 50 + i for i in range(50)] for n in range(8)]
    scheduler.close()
