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


def readings(classifier, *texts: str) -> list[Reading]:
    model = Model(classifier, 64)
    return [Reading(model, None, prompt(text), False) for text in texts]


def flights_of(read: Read) -> tuple[Flights, Cache]:
    return Flights(read, lambda _: None), Cache(1 << 20)


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
