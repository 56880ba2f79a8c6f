"""The reasoner: whether it is there, what it is asked, how long its answers take."""

from typing import get_args

from prometheus_client import CollectorRegistry

from service.engine.reasoner.explanation import Explanation, Status
from service.engine.reasoner.queue import ExplainerEvents
from service.observing.metrics.series import Series


class Reasons(Series, ExplainerEvents):
    """What an explainer tells of itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing was explained yet."""
        super().__init__(registry)
        self.reasoner_ready = self.gauge(
            "tamis_reasoner_ready", "Processes whose reasoner is loaded."
        )
        self._waiting = self.gauge("tamis_reasoner_requests", "Explain requests that wait or run.")
        self._explanations = self.counter(
            "tamis_explanations_total",
            "Explanations by outcome: ok, malformed, unfinished at the limit of tokens, late.",
            "status",
        )
        for status in get_args(Status):
            self._explanations.labels(status)
        explaining = self.seconds(
            "tamis_explanation_duration_seconds", "Time in one stage of an explanation.", "stage"
        )
        self._explaining = {s: explaining.labels(s) for s in ("queue", "verdict", "reason")}
        reasoned = self.counter(
            "tamis_reasoner_tokens_total",
            "Tokens of explanations: found in the cache, read, written.",
            "kind",
        )
        self._reasoned = {kind: reasoned.labels(kind) for kind in ("cached", "read", "written")}

    def waiting(self, jobs: int) -> None:
        """See ``ExplainerEvents``."""
        self._waiting.set(jobs)

    def explained(self, found: Explanation, waited: float) -> None:
        """Count an explanation, its stages and its tokens."""
        self._explanations.labels(found.status).inc()
        self._explaining["queue"].observe(waited)
        self._explaining["verdict"].observe(found.verdict_seconds)
        if found.written:
            self._explaining["reason"].observe(found.reason_seconds)
        self._reasoned["cached"].inc(found.reading.cached)
        self._reasoned["read"].inc(found.reading.tokens - found.reading.cached)
        self._reasoned["written"].inc(found.written)
