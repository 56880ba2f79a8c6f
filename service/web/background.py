"""What a process does beside answering, and goes on with until it ends."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from service.errors import frames

logger = logging.getLogger("tamis.service")

# Seconds until what has failed is begun anew: such a failure may last, and each is a line.
PAUSE: Final = 5.0

Work = Callable[[], Coroutine[None, None, None]]


class Background:
    """Tasks that are begun anew where they fail: an unforeseen error must not be their last."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Work) -> asyncio.Task[None]:
        """Do something once, until it has ended well or the process does."""
        task = asyncio.create_task(_held(name, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        """Cancel them all."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _held(name: str, work: Work) -> None:
    while True:
        try:
            await work()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a library that is written in Rust panics with one
            # Not its message, which may quote what it failed on.
            said = name, PAUSE, type(error).__name__, frames(error)
            logger.error("%s failed, and begins anew in %g s: %s\n%s", *said)
        else:
            return
        await asyncio.sleep(PAUSE)
