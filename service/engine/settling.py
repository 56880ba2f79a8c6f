"""From a thread to those who wait on an event loop, which may have ended meanwhile."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def soon(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    """Do something on a loop; one that has closed has nobody left to tell."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(do)


def settle(
    loop: asyncio.AbstractEventLoop, done: "asyncio.Future[T]", result: T, error: Exception | None
) -> None:
    """Give a future its result, or else the error, unless nobody waits any more."""
    soon(loop, partial(_settle, done, result, error))


def _settle(done: "asyncio.Future[T]", result: T, error: Exception | None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
