"""The observer that keeps the audit log."""

import secrets
from itertools import count
from pathlib import Path
from typing import Final

from service.observing.answered import Answered
from service.observing.audit.counters import AuditCounters
from service.observing.audit.files import Files
from service.observing.audit.record import (
    POSTGRES,
    Entry,
    policy_record,
    seconds_of,
    verdict_records,
)
from service.observing.logs import json_line
from service.observing.spool import Sink, Spool
from service.settings import Settings

# Some twenty thousand records: a minute's at full speed on two cores.
MAX_BYTES: Final = 32 * 1024 * 1024
# Seconds to wait for company: requests come here by the batch.
COLLECT: Final = 0.005


class Audit:
    """Makes a record of every judged item, once its answer is out, and hands it to a thread.

    Where the sink cannot take records, they wait in memory, and are dropped, counted and logged
    when there are too many: a full disk does not stop moderation.
    """

    def __init__(self, sink: Sink[Entry], events: AuditCounters | None = None) -> None:
        self._spool = Spool("audit", sink, max_bytes=MAX_BYTES, collect=COLLECT, events=events)
        self._writer = secrets.token_hex(16)
        self._numbers = count(1)

    def start(self) -> None:
        """Begin to write."""
        self._spool.start()

    def observe(self, answered: Answered) -> None:
        """Record a request's verdicts, if it got any."""
        judgement = answered.judgement
        if judgement is None:
            return
        # One that a caller wrote out stays in memory for as long as its records wait.
        extra = len(json_line(policy_record(judgement.policy))) if judgement.inline else 0
        for record, findings in zip(
            verdict_records(answered, judgement), judgement.findings, strict=True
        ):
            number = next(self._numbers)
            record["writer"], record["number"] = self._writer, number
            line = json_line(record)
            policy, bundle = judgement.policy, judgement.bundle
            others = seconds_of(findings)
            entry = Entry(judgement.at, self._writer, number, line, policy, bundle, others)
            self._spool.put(entry, len(line) + extra)
            extra = 0

    def close(self, timeout: float) -> None:
        """Write what is queued, for so many seconds at most."""
        self._spool.close(timeout)


def open_audit(settings: Settings, events: AuditCounters) -> Audit | None:
    """The audit log that is asked for; None where none is.

    Raises:
        OSError, ValueError: where the file cannot be written, the URL is none, or psycopg is
            missing.
        RuntimeError: where there is no such home.
    """
    if settings.audit is None:
        return None
    if not settings.audit.startswith(POSTGRES):
        if "://" in settings.audit:
            # Taken for a path, its password would be a folder's name.
            raise ValueError("TAMIS_AUDIT: must be a path or a postgresql:// URL")
        path = Path(settings.audit).expanduser()
        return Audit(Files(path, settings.audit_max_bytes, settings.audit_keep), events)
    try:
        from service.observing.audit.postgres import Postgres
    except ImportError as error:
        raise ValueError(
            f"TAMIS_AUDIT: {error}; install the extra: pip install 'tamis[postgres]'"
        ) from None
    return Audit(Postgres(settings.audit), events)
