"""Prometheus metrics: seconds in millisecond buckets, labels of bounded number."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from tamis.verdict import Verdict

BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Metrics:
    """One registry per app, so that two apps in one process (tests) do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "tamis_request_duration_seconds",
            "Time from the request line to the last byte of the answer.",
            ["route", "outcome"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "tamis_stage_duration_seconds",
            "Time in one stage of a moderation request.",
            ["stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "tamis_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.queued = Gauge(
            "tamis_queued_tokens", "Tokens waiting or running.", registry=self.registry
        )
        self.ready = Gauge(
            "tamis_ready", "1 when the bundle is loaded and warm.", registry=self.registry
        )
        self.verdicts = Counter(
            "tamis_verdicts_total", "Items judged, by action.", ["action"], registry=self.registry
        )
        self.flags = Counter(
            "tamis_flagged_categories_total",
            "Categories flagged.",
            ["category"],
            registry=self.registry,
        )
        self.windows = Counter("tamis_windows_total", "Windows scored.", registry=self.registry)
        self.tokens = Counter("tamis_tokens_total", "Tokens judged.", registry=self.registry)
        self.bundle = Info("tamis_bundle", "The bundle that is served.", registry=self.registry)

    def observe(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.verdicts.labels(verdict.action.value).inc()
        self.windows.inc(verdict.windows)
        self.tokens.inc(verdict.tokens)
        for name, category in verdict.categories.items():
            if category.flagged:
                self.flags.labels(name).inc()
        if verdict.attack is not None and verdict.attack.flagged:
            self.flags.labels("attack").inc()


def outcome(status: int) -> str:
    """A status as a metric label: ok, invalid, overloaded, unavailable or error."""
    if status < 400:
        return "ok"
    if status < 500:
        return "overloaded" if status == 429 else "invalid"
    return "unavailable" if status == 503 else "error"
