"""What those who were asked have found, and second opinions of what that leaves open."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from service.engine.judging import Model, Reading, Served
from service.engine.scheduler import DeadlineError, OverloadedError
from service.engine.timings import Timings
from service.errors import frames
from tamis.content import Content
from tamis.tiers import Bands
from tamis.verdict import Finding, Missed

logger = logging.getLogger("tamis.service")

# Of a deadline so much is left for the answer behind a second opinion.
RESERVE: Final = 0.05


@dataclass(slots=True)
class Found:
    """Findings; seconds queued, tokenising and pooling; when the last one was known."""

    findings: list[Finding]
    queued: float
    tokenize: float
    pool: float
    known: float

    @classmethod
    def by(cls, readings: Sequence[Reading], findings: list[Finding], queued: float) -> "Found":
        """Findings that readings have come to by now."""
        tokenize, pool = sum(r.tokenize for r in readings), sum(r.pool for r in readings)
        return cls(findings, queued, tokenize, pool, time.perf_counter())

    def miss(self, unsure: Sequence[int], why: Missed) -> None:
        """These have got no second opinion, which is known by now."""
        for n in unsure:
            self.findings[n] = replace(self.findings[n], missed=why)
        self.known = time.perf_counter()

    def timings(self, began: float) -> Timings:
        """By stage, now that all is said."""
        ended = time.perf_counter()
        return Timings(
            queue=self.queued * 1e3,
            tokenize=self.tokenize * 1e3,
            infer=max(self.known - began - self.queued - self.tokenize - self.pool, 0.0) * 1e3,
            postprocess=(self.pool + ended - self.known) * 1e3,
            total=(ended - began) * 1e3,
        )


Ask: TypeAlias = Callable[[Sequence[Reading], float | None, bool], Awaitable[Found]]
"""Has readings judged within so many seconds or without a limit; ``extra`` as the scheduler's."""


@dataclass(slots=True)
class Opinions:
    """Whom a cascade asks, and of what; while there are bands and no model, nobody can be asked."""

    ask: Ask
    first: Served
    """Whose findings are settled, by its own thresholds."""
    bands: Bands | None = None
    model: Model | None = None

    async def add(
        self,
        found: Found,
        contents: Sequence[Content],
        evidence: bool,
        began: float,
        deadline: float | None,
    ) -> None:
        """Put second opinions in the place of findings that leave the answer open.

        Load does not decide whether a second opinion is given: it waits its turn, and nothing but
        the request's own deadline cuts that short. Where it fails, what is known stands.
        """
        if (bands := self.bands) is None:
            return
        unsure = [n for n, finding in enumerate(found.findings) if bands.unsure(finding)]
        if not unsure:
            return
        if (model := self.model) is None:
            found.miss(unsure, "not_ready")
            return
        left = None
        if deadline is not None:
            left = max(began + (1 - RESERVE) * deadline - time.perf_counter(), 0.0)
        try:
            more = await self.ask(
                [Reading(model, None, contents[n], evidence) for n in unsure], left, True
            )
        except (DeadlineError, OverloadedError):
            found.miss(unsure, "deadline")
            return
        except Exception as error:
            # Not its message, which may quote a text.
            logger.error("no second opinion: %s\n%s", type(error).__name__, frames(error))
            found.miss(unsure, "failed")
            return
        for n, finding in zip(unsure, more.findings, strict=True):
            found.findings[n] = bands.settle(
                found.findings[n], finding, self.first.bundle.thresholds
            )
        found.queued += more.queued
        found.tokenize += more.tokenize
        found.pool += more.pool
        found.known = more.known
