"""Leaving: not ready at once, and answering on while somebody asks, for so long and no longer."""

import asyncio
import time

import pytest

from service.web.lifecycle import Lifecycle


async def left(linger: float, patience: float, until: float) -> tuple[list[str], float]:
    """What was heard of a process that is asked for ``until`` seconds, and when it stopped."""
    heard: list[str] = []
    stopped = asyncio.Event()
    lifecycle = Lifecycle(linger, patience, lambda: heard.append("not ready"))
    began = time.monotonic()
    lifecycle._leave(stopped.set)
    assert lifecycle.leaving
    assert heard == ["not ready"]
    async with asyncio.timeout(20):
        while not stopped.is_set():
            if time.monotonic() - began < until:
                lifecycle.asked()
            await asyncio.sleep(0.005)
    return heard, time.monotonic() - began


async def test_it_lingers_while_it_is_asked():
    heard, took = await left(linger=0.1, patience=60, until=0.4)
    assert took >= 0.4
    assert heard == ["not ready"]


async def test_it_lingers_no_longer_than_its_patience():
    _, took = await left(linger=0.1, patience=0.3, until=15)
    assert 0.4 <= took < 15


@pytest.mark.parametrize("patience", [0, 60])
async def test_where_nobody_asks_it_leaves_when_it_has_lingered(patience: float):
    _, took = await left(linger=0.1, patience=patience, until=0)
    assert 0.1 <= took < 15
