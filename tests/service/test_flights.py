"""Who waits for somebody else's run keeps to a deadline of their own."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from service.engine import judging
from service.engine.cache import Cache
from service.engine.flights import Flights, Read
from service.engine.judging import Model, Reading
from service.engine.memory import Work
from service.engine.scheduler import DeadlineError
from tamis.content import prompt
from tamis.verdict import Finding


def readings(classifier, *texts: str) -> list[Reading]:
    model = Model(classifier, 64)
    return [Reading(model, None, prompt(text), False) for text in texts]


def flights_of(read: Read) -> tuple[Flights, Cache]:
    return Flights(read, lambda asked: len(asked) > 2, lambda _: None), Cache(1 << 20)


async def test_a_deadline_is_one_for_all_that_is_joined(classifier):
    takes = {"hello": 0.15, "tea": 0.3}

    async def read(asked: Sequence[Reading], deadline: float | None, extra: bool) -> float:
        await asyncio.sleep(max(takes[one.content.text] for one in asked))
        for one in asked:
            one.settle(judging.Read(classifier.judge(one.content), Work(1), []), 0.0)
        return 0.0

    flights, cache = flights_of(read)
    leaders = [
        asyncio.create_task(flights.judge(readings(classifier, text), None, cache, False))
        for text in takes
    ]
    await asyncio.sleep(0)
    began = time.perf_counter()
    with pytest.raises(DeadlineError):
        await flights.judge(readings(classifier, *takes), 0.2, cache, False)
    assert time.perf_counter() - began < 0.3
    await asyncio.gather(*leaders)
    assert not len(flights)


async def test_who_has_to_lead_late_is_late(classifier):
    for needed, told in ((0.01, None), (5.0, 5.0)):

        async def read(
            asked: Sequence[Reading], deadline: float | None, extra: bool, needed: float = needed
        ) -> float:
            if deadline is None:
                await asyncio.sleep(0.1)
                raise asyncio.CancelledError
            raise DeadlineError(needed=needed)

        flights, cache = flights_of(read)
        leader = asyncio.create_task(flights.judge(readings(classifier, "tea"), None, cache, False))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineError) as late:
            await flights.judge(readings(classifier, "tea"), 0.2, cache, False)
        assert late.value.needed == told
        with pytest.raises(asyncio.CancelledError):
            await leader


async def test_a_short_request_does_not_wait_for_work_that_can(classifier):
    asked = list[list[str]]()
    release = [asyncio.Event() for _ in range(4)]

    async def read(readings: Sequence[Reading], deadline: float | None, extra: bool) -> float:
        asked.append([one.content.text for one in readings])
        await release[len(readings)].wait()
        for one in readings:
            one.settle(judging.Read(classifier.judge(one.content), Work(1), []), 0.0)
        return 0.0

    flights, cache = flights_of(read)

    def judge(*texts: str) -> asyncio.Task[tuple[list[Finding], float]]:
        return asyncio.create_task(flights.judge(readings(classifier, *texts), 5, cache, False))

    many = ("tea", "cake", "hello")
    batch, alike, short = judge(*many), judge(*many), judge("hello")
    await asyncio.sleep(0)
    assert asked == [list(many), ["hello"]]
    # Whoever leaves takes nobody else's flight along, and who can wait joins that.
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    await asyncio.sleep(0)
    assert asked[2:] == [["tea", "cake"]]
    release[1].set()
    (found,), _ = await short
    assert len(flights) == 2
    release[2].set()
    assert (await alike)[0][2] == found
    assert not len(flights)
