import asyncio
from pathlib import Path

import httpx

from benchmarks import rolling


async def test_where_nobody_is_ready_callers_fail_and_go_on():
    balancer = rolling.Balancer()
    async with httpx.AsyncClient() as client:
        caller = asyncio.create_task(balancer.ask(client))
        await asyncio.sleep(3 * rolling.UNREADY)
        assert not caller.done()
        caller.cancel()
    assert set(balancer.answers) == {"nobody ready"}
    assert balancer.answers["nobody ready"] > 1


async def test_nothing_is_lost_when_processes_are_replaced_under_load(bundle):
    path: Path = bundle.path
    balancer, statuses = await rolling.roll(path, clients=20, rolls=2, linger=1.0, every=0.1)
    assert set(balancer.answers) == {"200"}
    # All four processes, the two that left and the two that came, had their part.
    assert len(balancer.by_port) == 4
    assert len(statuses) == 2
