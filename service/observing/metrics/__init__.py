"""Prometheus metrics, a module for each family of series; labels are of bounded number."""

from prometheus_client import CollectorRegistry

from service.observing.answered import Answered
from service.observing.metrics.bundles import Bundles
from service.observing.metrics.exposition import SHARED, exposition
from service.observing.metrics.reasons import Reasons
from service.observing.metrics.running import Running
from service.observing.metrics.settled import Settled
from service.observing.metrics.traffic import Traffic, outcome

__all__ = ["SHARED", "Metrics", "outcome"]


class Metrics(Traffic, Bundles, Running, Reasons, Settled):
    """All families; one registry per app, so that two apps in one process (tests) do not mix."""

    def __init__(self) -> None:
        """Each family makes its series in a registry of its own."""
        super().__init__(CollectorRegistry())

    def scrape(self) -> bytes:
        """The exposition text; over all processes where there are several."""
        return exposition(self.registry)

    def observe(self, answered: Answered) -> None:
        """Count a request and, if it got verdicts, those."""
        self.requests.labels(answered.route, answered.outcome).observe(answered.seconds)
        if (judgement := answered.judgement) is not None:
            policy = judgement.policy
            written = policy.own if judgement.inline else ()
            self.judged(judgement.verdicts, policy.mode, judgement.timings, written)
            for findings in judgement.findings:
                for finding in findings:
                    self.answered(finding)
