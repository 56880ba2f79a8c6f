"""What a request leaves behind goes at once, and does not wait for the collector of circles.

A full collection holds Python's lock: of a thousand requests' circles, under overload, it took 20
to 80 ms, in which nobody was answered, or refused.
"""

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from service.engine.queue import DeadlineError
from service.engine.scheduler import Scheduler
from service.moderation.disconnect import UntilDisconnect
from tests.service.test_scheduler import Job


@contextmanager
def no_circles() -> Iterator[None]:
    """Fail where code of the service is found in circles."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        frames = [each for each in gc.garbage if isinstance(each, FrameType)]
        assert not [f.f_code.co_qualname for f in frames if "service" in f.f_code.co_filename]
        assert not [each for each in gc.garbage if isinstance(each, UntilDisconnect)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_who_was_listened_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.moderation.disconnect.PATIENCE", 0.0)
    listened = asyncio.Event()

    async def receive() -> dict[str, str]:
        listened.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def answer() -> None:
        async with UntilDisconnect(receive):
            await listened.wait()

    with no_circles():
        await asyncio.create_task(answer())
        await asyncio.sleep(0)


async def test_who_came_too_late():
    gate = threading.Event()
    scheduler: Scheduler[Job] = Scheduler(lambda job: job.parts, lambda *_: gate.wait(5), speed=1e6)
    first = asyncio.create_task(scheduler.submit([Job("first")]))
    await asyncio.sleep(0)

    async def late() -> None:
        with pytest.raises(DeadlineError):
            await scheduler.submit([Job("second")], deadline=0.02)

    with no_circles():
        await asyncio.create_task(late())
        gate.set()
        await first
        # What was given up is let go of when its turn comes.
        await scheduler.submit([Job("third")])
    scheduler.close()
