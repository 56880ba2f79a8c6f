"""Where corrections are kept: a SQLite file, or a Postgres database named by its URL.

A connection lives as long as one call. Corrections come at the pace of people, so its
cost does not matter, and there is nothing to pool, to revive after an outage, or to share between
threads and processes.
"""

import json
import os
import re
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tamis.corrections.record import Correction, parse, read_lines

# Each entry takes a store from one version to the next; a store remembers how many it has seen.
# The record itself is one JSON document, ASCII by escapes: Postgres texts cannot hold a NUL.
MIGRATIONS: Final = (
    "CREATE TABLE tamis_corrections"
    " (id TEXT PRIMARY KEY, time TEXT NOT NULL, document TEXT NOT NULL)",
)
SAVE: Final = (
    "INSERT INTO tamis_corrections (id, time, document) VALUES (:id, :time, :document)"
    " ON CONFLICT (id) DO UPDATE SET time = excluded.time, document = excluded.document"
)
READ: Final = "SELECT document FROM tamis_corrections ORDER BY time, id"
DELETE: Final = "DELETE FROM tamis_corrections WHERE id = :id"
# Seconds to wait for another writer, or for a database that does not answer.
PATIENCE: Final = 10
LINES: Final = (".jsonl", ".jsonl.gz")


class StoreError(RuntimeError):
    """The store cannot be used; the message names it without its password, and holds no text."""


class Store(ABC):
    """Corrections by id. Every method raises ``StoreError`` where the store cannot be used."""

    def __init__(self, name: str) -> None:
        """``name`` is for messages."""
        self.name = name

    @abstractmethod
    def save(self, correction: Correction) -> None:
        """Keep a correction, durably, in place of an earlier one of the same id."""

    @abstractmethod
    def read(self) -> Iterator[Correction]:
        """Every correction, oldest first."""

    @abstractmethod
    def delete(self, ids: Iterable[str]) -> int:
        """Remove corrections; how many were there."""

    def _upgrade_from(self, version: int) -> Sequence[str]:
        """The statements that a store of a version still needs."""
        if version > len(MIGRATIONS):
            raise StoreError(f"{self.name}: was written by a newer Tamis (version {version})")
        return MIGRATIONS[version:]


class SqliteStore(Store):
    """A file, made on the first write with mode 0600, that several processes may write to."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        super().__init__(str(path))

    def save(self, correction: Correction) -> None:
        """See ``Store``."""
        with self._open(create=True) as connection:
            connection.execute(SAVE, _values(correction))

    def read(self) -> Iterator[Correction]:
        """See ``Store``."""
        with self._open() as connection:
            for (document,) in connection.execute(READ):
                yield parse(json.loads(document))

    def delete(self, ids: Iterable[str]) -> int:
        """See ``Store``; the file keeps no trace of what was deleted.

        Raises:
            StoreError: where it does, since others read at this moment.
        """
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            count = sum(connection.execute(DELETE, {"id": i}).rowcount for i in ids)
            connection.execute("COMMIT")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            traces = "others read it meanwhile, and its files hold traces yet; delete again later"
            raise StoreError(f"{self.name}: corrections deleted: {count}, but {traces}")
        return count

    @contextmanager
    def _open(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if not self._path.exists():
                if not create:
                    raise StoreError(f"{self.name}: no corrections are kept there")
                self._make()
            uri = f"{self._path.as_uri()}?mode=rw"
            with closing(
                sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
            ) as connection:
                # Deleted and replaced text is overwritten with zeros.
                connection.execute("PRAGMA secure_delete = ON")
                self._upgrade(connection)
                # Readers do not hold up writers. Where others are at work at this very moment, the
                # next connection turns it on.
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA journal_mode = WAL")
                yield connection
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StoreError(f"{self.name}: {reason}") from error

    def _make(self) -> None:
        """Put an empty file there that only its owner may read, without ever opening it there.

        Whoever closes a database file lets go of all locks that the process holds on it, those of
        its other connections included. 24 threads in three processes lost corrections so in each
        of 15 rounds, and damaged the file in two.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".") as empty,
            suppress(FileExistsError),
        ):
            os.link(empty.name, self._path)

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        def version() -> int:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])

        if not self._upgrade_from(version()):
            return
        connection.execute("BEGIN IMMEDIATE")
        for statement in self._upgrade_from(version()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")


class PostgresStore(Store):
    """Two tables of a database: ``tamis_corrections``, and the version of its schema."""

    FIND: Final = "SELECT to_regclass('tamis_corrections_version')"
    VERSION: Final = "SELECT version FROM tamis_corrections_version"
    UPGRADED: Final = "UPDATE tamis_corrections_version SET version = %s"
    # Under a lock of the database (the number means nothing), and as if nothing had been found:
    # another process may have been faster.
    PREPARE: Final = (
        "SELECT pg_advisory_xact_lock(7266001)",
        "CREATE TABLE IF NOT EXISTS tamis_corrections_version (version INTEGER NOT NULL)",
        "INSERT INTO tamis_corrections_version"
        " SELECT 0 WHERE NOT EXISTS (SELECT FROM tamis_corrections_version)",
    )
    # What the URL does not say itself. An unreachable server must not hold a request for minutes.
    DEFAULTS: Final = {"connect_timeout": PATIENCE, "tcp_user_timeout": PATIENCE * 1000}

    def __init__(self, url: str) -> None:
        """Take the URL apart.

        Raises:
            StoreError: where it is no URL of Postgres, or psycopg is not installed.
        """
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            hint = "install the extra: pip install 'tamis[postgres]'"
            raise StoreError(f"Postgres needs psycopg; {hint}") from None
        try:
            self._options: dict[str, Any] = self.DEFAULTS | conninfo_to_dict(url)
        except psycopg.Error:
            # The message may quote the URL, password and all.
            raise StoreError("not a URL of Postgres: postgresql://user@host/database") from None
        where = {name: self._options.get(name, "") for name in ("host", "port", "dbname")}
        port = f":{where['port']}" if where["port"] else ""
        super().__init__(f"postgresql://{where['host']}{port}/{where['dbname']}")

    def save(self, correction: Correction) -> None:
        """See ``Store``."""
        with self._open() as connection:
            connection.execute(_for_postgres(SAVE), _values(correction))

    def read(self) -> Iterator[Correction]:
        """See ``Store``."""
        # A named cursor stays on the server, which sends some rows at a time.
        with self._open() as connection, connection.cursor(name="tamis") as cursor:
            cursor.execute(READ)
            for (document,) in cursor:
                yield parse(json.loads(document))

    def delete(self, ids: Iterable[str]) -> int:
        """See ``Store``."""
        delete = _for_postgres(DELETE)
        with self._open() as connection:
            return sum(int(connection.execute(delete, {"id": i}).rowcount) for i in ids)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import psycopg

        try:
            with psycopg.connect(**self._options) as connection:
                connection.execute(f"SET LOCAL statement_timeout = '{PATIENCE}s'")
                self._upgrade(connection)
                yield connection
        except psycopg.Error as error:
            # Only of connections: other messages may quote values.
            reason = str(error).strip() if error.sqlstate is None else type(error).__name__
            raise StoreError(f"{self.name}: {reason}") from error

    def _upgrade(self, connection: Any) -> None:
        def one(statement: str) -> Any:
            return connection.execute(statement).fetchone()[0]

        if one(self.FIND) is not None and not self._upgrade_from(one(self.VERSION)):
            return
        for statement in self.PREPARE:
            connection.execute(statement)
        for statement in self._upgrade_from(one(self.VERSION)):
            connection.execute(statement)
        connection.execute(self.UPGRADED, [len(MIGRATIONS)])


def _values(correction: Correction) -> Mapping[str, str]:
    document = correction.as_json()
    return {
        "id": document["id"],
        "time": document["time"],
        "document": json.dumps(document),
    }


def _for_postgres(statement: str) -> str:
    return re.sub(r":(\w+)", r"%(\1)s", statement)


def default_location() -> str:
    """``tamis/feedback.sqlite`` among this user's state (XDG); empty where there is no home."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:
        return ""
    return str(state / "tamis" / "feedback.sqlite")


def open_store(location: str) -> Store:
    """The store at a path or a ``postgresql://`` URL; nothing is touched yet.

    Raises:
        StoreError: where the location is neither, or named as an export is, or its driver is
            missing.
    """
    if location.endswith(LINES):
        raise StoreError(f"{location}: is an export's name; a store's ends otherwise")
    if location.startswith(("postgresql://", "postgres://")):
        return PostgresStore(location)
    if "://" in location or not location:
        raise StoreError("a store is a path or a postgresql:// URL")
    try:
        return SqliteStore(Path(location).expanduser())
    except RuntimeError:
        raise StoreError(f"{location}: there is no such home") from None


def read_corrections(location: str) -> Iterator[Correction]:
    """The corrections of a store, or of a file that ``tamis feedback export`` wrote.

    Raises:
        StoreError, ValueError, OSError: where they cannot be read.
    """
    if location.endswith(LINES):
        return read_lines(Path(location))
    return open_store(location).read()
