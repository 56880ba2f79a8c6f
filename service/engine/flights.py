"""Texts that are being judged right now: whoever asks for an equal one waits for the same run."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from service.engine.cache import Cache, quoting
from service.engine.judging import Reading
from service.engine.scheduler import DeadlineError
from service.engine.settling import soon
from tamis.verdict import Finding

Lookup = Literal["hit", "miss", "joined"]
Read: TypeAlias = Callable[[Sequence[Reading], float | None, bool], Awaitable[float]]
"""Runs what is asked, in so many seconds or without a limit; returns seconds queued."""


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """One text that is being judged; ``patient``: as part of work that can wait."""

    landed: asyncio.Future[Finding | None]
    patient: bool


class Flights:
    """What is being judged, by the key under which it will be remembered.

    What people wait for does not join what can wait: a greeting would be behind the hundred long
    texts that somebody has sent with it. It runs by itself, and who comes next joins that.
    """

    def __init__(
        self,
        read: Read,
        patient: Callable[[Sequence[Reading]], bool],
        tell: Callable[[Lookup], None],
    ) -> None:
        """``patient`` says whether texts are so much that they can wait."""
        self._read, self._patient, self._tell = read, patient, tell
        self._flying: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flying)

    async def judge(
        self, readings: Sequence[Reading], deadline: float | None, cache: Cache, extra: bool
    ) -> tuple[list[Finding], float]:
        """Findings from memory, from an equal text being judged right now, or from a run.

        Returns also seconds queued. ``extra`` as for the scheduler.

        Raises:
            DeadlineError: where somebody else's run takes too long; and as the run.
        """
        loop = asyncio.get_running_loop()
        until = None if deadline is None else time.perf_counter() + deadline
        found: dict[int, Finding] = {}
        queued = 0.0
        keys = [cache.key(each.content, each.evidence, each.asked) for each in readings]
        while len(found) < len(readings):
            for n, (key, reading) in enumerate(zip(keys, readings, strict=True)):
                if n not in found and (hit := cache.get(key, reading.content)):
                    found[n] = hit
                    self._tell("hit")
            missing = {n: keys[n] for n in range(len(readings)) if n not in found}
            patient = extra or self._patient([readings[n] for n in missing])
            own: dict[bytes, int] = {}
            joined: dict[int, asyncio.Future[Finding | None]] = {}
            for n, key in missing.items():
                flight = self._flying.get(key)
                if flight is not None and (patient or not flight.patient):
                    joined[n] = flight.landed
                    self._tell("joined")
                else:
                    self._flying[key] = Flight(loop.create_future(), patient)
                    own[key] = n
                    self._tell("miss")
            left = None if until is None else until - time.perf_counter()
            if own:
                try:
                    queued += await self._lead(own, readings, found, left, cache, extra)
                except DeadlineError as error:
                    raise error.within(deadline) from None
            for n, landing in joined.items():
                left = None if until is None else until - time.perf_counter()
                try:
                    async with asyncio.timeout(left):
                        landed = await asyncio.shield(landing)
                except TimeoutError:
                    raise DeadlineError from None
                # None: its leader was refused or left. Then this caller leads, in the next round.
                if landed is not None:
                    found[n] = quoting(landed, readings[n].content)
        return [found[n] for n in range(len(readings))], queued

    async def _lead(
        self,
        own: dict[bytes, int],
        readings: Sequence[Reading],
        found: dict[int, Finding],
        deadline: float | None,
        cache: Cache,
        extra: bool,
    ) -> float:
        """Judge what nobody judges yet, for all who wait for it: they wait for no other text."""
        loop = asyncio.get_running_loop()
        flights = {n: self._flying[key] for key, n in own.items()}

        def land(key: bytes, n: int) -> None:
            if not flights[n].landed.done():
                cache.put(key, readings[n].finding)
                flights[n].landed.set_result(readings[n].finding)

        for key, n in own.items():
            if len(own) > 1:
                readings[n].told = partial(soon, loop, partial(land, key, n))
        try:
            queued = await self._read([readings[n] for n in own.values()], deadline, extra)
            for key, n in own.items():
                found[n] = readings[n].finding
                land(key, n)
        finally:
            for key, n in own.items():
                # Who could not wait may have taken its place.
                if self._flying.get(key) is flights[n]:
                    del self._flying[key]
                if not flights[n].landed.done():
                    flights[n].landed.set_result(None)
        return queued
