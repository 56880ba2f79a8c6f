"""Shadow policies: judged on the same pass, told to the metrics, and to nobody else."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from service.engine.scheduler import OverloadedError
from service.errors import frames
from service.moderation.serving import Serving
from service.observing.metrics import Metrics
from tamis.content import Content
from tamis.deciding import decide
from tamis.policy import Policy
from tamis.verdict import Finding, Verdict

logger = logging.getLogger("tamis.service")


class Trials:
    """Policies on trial."""

    def __init__(self, serving: Serving, metrics: Metrics) -> None:
        self._serving, self._metrics = serving, metrics
        self._running: set[asyncio.Task[None]] = set()

    def begin(
        self,
        shadow: Policy,
        contents: Sequence[Sequence[Content]],
        findings: Sequence[list[Finding]],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Judge on trial, once the answer is on its way."""
        if not shadow.own:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._tried, shadow, findings, verdicts)
            return
        trial = asyncio.create_task(self._try_rules(shadow, contents, findings, verdicts))
        self._running.add(trial)
        trial.add_done_callback(self._running.discard)

    async def _try_rules(
        self,
        shadow: Policy,
        contents: Sequence[Sequence[Content]],
        findings: Sequence[list[Finding]],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Judge on trial by rules, which has to be run, and waits its turn like any request."""
        flat = [content for item in contents for content in item]
        found = [finding for item in findings for finding in item]
        who = verdicts[0].provenance.policy, shadow.name, len(verdicts)
        try:
            rulings = self._serving.rulings
            if rulings is None or not self._serving.rules.fits(flat, shadow.rules):
                self._metrics.untried(*who)
                return
            await rulings.add(found, flat, shadow.rules, time.perf_counter())
            ruled = iter(found)
            self._tried(shadow, [[next(ruled) for _ in item] for item in findings], verdicts)
        except OverloadedError:
            self._metrics.untried(*who)
        except Exception as error:
            # Not left to the loop, whose report would quote the arguments.
            where = type(error).__name__, frames(error)
            logger.error("the trial of %s: %s\n%s", shadow.name, *where)

    def _tried(
        self, shadow: Policy, findings: Sequence[Sequence[Finding]], verdicts: Sequence[Verdict]
    ) -> None:
        if (engine := self._serving.engine) is None:
            return
        # Whoever speaks for the first item: the metrics count by policies alone.
        own, thresholds = verdicts[0].provenance, engine.bundle.thresholds
        provenance = replace(own, policy=shadow.name, policy_version=shadow.version)
        trial = [decide(found, shadow, thresholds, provenance) for found in findings]
        self._metrics.shadowed(verdicts, trial)
