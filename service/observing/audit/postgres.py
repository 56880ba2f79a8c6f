"""The audit log in PostgreSQL: the same records, a row each, in batches.

Needs the extra ``postgres`` (psycopg 3).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.observing.audit.record import Entry, Key, Leads
from service.observing.spool import RefusedError

TABLE: Final = "tamis_audit"
SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL,
    writer text,
    number bigint,
    record jsonb NOT NULL,
    type text GENERATED ALWAYS AS (record->>'type') STORED,
    request_id text GENERATED ALWAYS AS (record->>'request_id') STORED,
    caller text GENERATED ALWAYS AS (record->>'caller') STORED,
    action text GENERATED ALWAYS AS (record->>'action') STORED,
    UNIQUE (writer, number)
);
CREATE INDEX IF NOT EXISTS {TABLE}_time ON {TABLE} (time);
CREATE INDEX IF NOT EXISTS {TABLE}_request ON {TABLE} (request_id);
"""
# No columns are named behind CONFLICT: to look at them would take the right to read the table.
# A connection may break when the server has stored a batch and not said so: then it comes again,
# and its numbers are there already.
INSERT: Final = f"""
INSERT INTO {TABLE} (time, writer, number, record)
VALUES (to_timestamp(%s), %s, %s, %s::jsonb) ON CONFLICT DO NOTHING
"""  # noqa: S608
SELECT: Final = f"SELECT record FROM {TABLE} ORDER BY id"  # noqa: S608
# Any number will do, if others do not use it: held while the table is made.
LOCK: Final = 0x74616D6973
# A server that is gone must not hold the thread for longer than a shutdown can wait.
LIMITS: Final = {"connect_timeout": "5", "tcp_user_timeout": "10000", "application_name": "tamis"}

Row = tuple[float, str | None, int | None, str]


class Postgres:
    """A table, made if it is missing."""

    def __init__(self, url: str) -> None:
        """Nothing is connected before the first record: a database may come up later.

        Raises:
            ValueError: where the URL is not one.
        """
        try:
            self._info = _limited(url)
        except psycopg.ProgrammingError:
            # The message might quote the password.
            raise ValueError("TAMIS_AUDIT: not a PostgreSQL URL") from None
        self._connection: psycopg.Connection[Any] | None = None
        self._leads = Leads()

    def write(self, batch: Sequence[Entry]) -> int:
        """Insert all in one transaction; see ``Sink``."""
        keys: list[Key] = []
        rows: list[Row] = []
        for entry in batch:
            for key, lead in self._leads.before(entry):
                if key not in keys:
                    keys.append(key)
                    rows.append((entry.at, None, None, _storable(lead)))
            rows.append((entry.at, entry.writer, entry.number, _storable(entry.line)))
        try:
            connection = self._connected()
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(INSERT, rows)
        except (psycopg.DataError, UnicodeEncodeError) as error:
            # The latter comes of a database that is not of UTF-8, and will come again.
            if len(batch) == 1:
                state = getattr(error, "sqlstate", "")
                raise RefusedError(f"{type(error).__name__} {state}".rstrip()) from None
            return self.write(batch[: len(batch) // 2])
        except psycopg.Error as error:
            self.close()
            # What a server says of rows may quote them; what it says of itself does not.
            said = str(error) if isinstance(error, psycopg.OperationalError) else ""
            raise ConnectionError(f"{type(error).__name__} {error.sqlstate or ''} {said}") from None
        self._leads.note(keys)
        return len(batch)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = psycopg.connect(self._info, autocommit=True)
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def rows(url: str) -> Iterator[dict[str, Any]]:
    """The records of a database, in the order in which they were written.

    Raises:
        ConnectionError: where it cannot be read.
    """
    try:
        with (
            psycopg.connect(_limited(url)) as connection,
            connection.cursor(name="tamis_audit_reader") as cursor,
        ):
            for (record,) in cursor.execute(SELECT):
                yield record
    except psycopg.Error as error:
        raise ConnectionError(f"PostgreSQL: {str(error).strip()}") from None


def _limited(url: str) -> str:
    return make_conninfo("", **(LIMITS | conninfo_to_dict(url)))


def _storable(line: bytes) -> str:
    """A record without U+0000, which jsonb refuses; nobody gets out of the log by naming so."""
    text = line.decode()
    return json.dumps(_replaced(json.loads(text))) if r"\u0000" in text else text


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {_replaced(key): _replaced(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner) for inner in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _prepare(connection: psycopg.Connection[Any]) -> None:
    """Make the table if it is missing; a role that may only insert does with one that is there."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        found = connection.execute("SELECT to_regclass(%s)", [TABLE]).fetchone()
        if found is None or found[0] is None:
            connection.execute(SCHEMA)
