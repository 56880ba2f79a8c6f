"""The engine at work: queue, runs, cache, workers, and the judging of policies' own rules."""

from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Histogram

from service.engine.engine import EngineEvents
from service.engine.flights import Lookup
from service.engine.policy_encoder import RuleScore
from service.engine.scheduler import Loss
from service.engine.workers.crew import CrewEvents
from service.observing.metrics.series import Series


class Running(Series, EngineEvents, CrewEvents):
    """What an engine and its crew tell of themselves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing has run yet."""
        super().__init__(registry)
        self._queued = self.gauge("tamis_queued_tokens", "Tokens waiting or running.")
        self._batch = Histogram(
            "tamis_run_windows",
            "Windows of one run of the model.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        ran = self.counter(
            "tamis_run_tokens_total",
            "Tokens given to the model, those of texts and those of padding.",
            "kind",
        )
        self._real, self._padding = ran.labels("text"), ran.labels("padding")
        self._lost = self.counter(
            "tamis_lost_total", "Requests given up while they waited or ran.", "reason"
        )
        for loss in get_args(Loss):
            # A series that begins with its first event hides that event from rate().
            self._lost.labels(loss)
        self._lookups = self.counter(
            "tamis_cache_lookups_total",
            "Texts sought in the cache; joined means an equal text was being judged.",
            "result",
        )
        self._workers = self.gauge(
            "tamis_workers",
            "Inference workers that are alive; none where the server's own process judges.",
        )
        self._replaced = self.counter(
            "tamis_worker_restarts_total", "Inference workers that ended and were replaced."
        )
        self._ruling = self.seconds(
            "tamis_rules_duration_seconds",
            "Time to judge the texts of a request by rules of the policy's own.",
        )
        self._rules_held = self.gauge(
            "tamis_rules_states_bytes", "Memory of rules that were read alone, by a split encoder."
        )
        self._rules = self.counter(
            "tamis_rules_total", "Rules of policies' own judged, each beside each text."
        )
        ruled = self.counter(
            "tamis_rules_tokens_total",
            "Tokens of rules beside texts: read, or known from before.",
            "kind",
        )
        self._ruled = {kind: ruled.labels(kind) for kind in ("read", "known")}

    def queued(self, tokens: int) -> None:
        """See ``Events``."""
        self._queued.set(tokens)

    def lost(self, reason: Loss) -> None:
        """See ``Events``."""
        self._lost.labels(reason).inc()

    def ran(self, tasks: int, tokens: int, padded: int) -> None:
        """See ``Events``."""
        self._batch.observe(tasks)
        self._real.inc(tokens)
        self._padding.inc(padded - tokens)

    def looked_up(self, result: Lookup) -> None:
        """See ``EngineEvents``."""
        self._lookups.labels(result).inc()

    def ruled(self, scores: Sequence[RuleScore], seconds: float, held: int) -> None:
        """See ``EngineEvents``."""
        self._rules_held.set(held)
        self._ruling.observe(seconds)
        self._rules.inc(len(scores))
        known = sum(score.known for score in scores)
        self._ruled["known"].inc(known)
        self._ruled["read"].inc(sum(score.tokens for score in scores) - known)

    def manned(self, workers: int) -> None:
        """See ``CrewEvents``."""
        self._workers.set(workers)

    def replaced(self) -> None:
        """See ``CrewEvents``."""
        self._replaced.inc()
