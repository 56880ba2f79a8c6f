"""The audit log's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.observing.spool import SpoolEvents


class AuditCounters(SpoolEvents):
    """What became of the records; there, and zero, also where no audit log is kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        records = Counter(
            "tamis_audit_records_total",
            "Audit records: written, dropped since too many waited, or given up.",
            ["result"],
            registry=registry,
        )
        self._written, self._dropped, self._failed = map(
            records.labels, ("written", "dropped", "failed")
        )
        self._errors = Counter(
            "tamis_audit_errors_total",
            "Attempts to write audit records that failed and are repeated.",
            registry=registry,
        )
        self._waiting = Gauge(
            "tamis_audit_waiting_records",
            "Audit records not yet written.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def written(self, records: int) -> None:
        """See ``SpoolEvents``."""
        self._written.inc(records)

    def dropped(self, records: int) -> None:
        """See ``SpoolEvents``."""
        self._dropped.inc(records)

    def failed(self, records: int) -> None:
        """See ``SpoolEvents``."""
        self._failed.inc(records)

    def stumbled(self) -> None:
        """See ``SpoolEvents``."""
        self._errors.inc()

    def waiting(self, records: int) -> None:
        """See ``SpoolEvents``."""
        self._waiting.set(records)
