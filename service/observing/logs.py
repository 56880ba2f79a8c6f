"""Logs as lines of JSON, or of text on a terminal; and the access record among them.

A log line holds no text of callers: hashes and lengths only, and of an exception its type and its
place, since its message may quote what it failed on.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

from service.errors import frames
from service.observing.answered import Answered
from service.observing.context import WATCHERS
from service.observing.spool import Spool
from service.settings import Format, Level

# Lines beyond are dropped and counted: some ten thousand requests that nobody reads about.
MAX_BYTES: Final = 8 * 1024 * 1024
# Seconds to wait for company.
COLLECT: Final = 0.005
# What a pipe takes in one piece (POSIX: at least 512; Linux: 4,096), so that the lines of several
# processes do not mix.
PIPE_BYTES: Final = 4096
# A batch of 256 texts would make a line of 16 kB; the audit log has them all.
HASHES: Final = 16

access = logging.getLogger("tamis.access")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"], line["frames"] = type(error).__name__, frames(error)
        return json_line(line).decode().removesuffix("\n")


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        parts = [timestamp(record.created), record.levelname, record.name, record.getMessage()]
        for name, value in _fields(record).items():
            parts.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
        line = " ".join(parts)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line += f" {type(error).__name__}\n{frames(error)}"
        return line


class LineSink:
    """Lines to a file descriptor, in pieces that a pipe does not cut."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, batch: Sequence[bytes]) -> int:
        """As many lines as fit one piece, at least one."""
        piece, lines = batch[0], 1
        while lines < len(batch) and len(piece) + len(batch[lines]) <= PIPE_BYTES:
            piece += batch[lines]
            lines += 1
        done = os.write(self._descriptor, piece)
        while 0 < done < len(piece):
            try:
                done += os.write(self._descriptor, piece[done:])
            except OSError:
                break  # Half of it is out: once more would garble more than the loss.
        return lines

    def close(self) -> None:
        """Standard error is not ours to close."""


class SpoolHandler(logging.Handler):
    """Formats where a record is made, and writes on a thread: a reader who is slow slows nobody."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._sink = LineSink(descriptor)
        self._settled = self._stuck = False
        self._spool: Spool[bytes] = Spool(
            "log",
            self._sink,
            max_bytes=MAX_BYTES,
            collect=COLLECT,
            quiet=True,
        )
        self._spool.start()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            if self._settled:
                if not self._stuck:
                    self._sink.write([line])
            elif self._spool.put(line, len(line)):
                lost, self._dropped = self._dropped, 0
                if lost:
                    level, said = logging.ERROR, "%d log lines were dropped: the queue was full"
                    self.emit(logging.LogRecord("tamis.log", level, "", 0, said, (lost,), None))
            else:
                self._dropped += 1
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait for what has been logged, a second at most."""
        self._spool.flush(1)

    def settle(self) -> None:
        """Write what is left, and from now on at once; nothing more where nobody reads it."""
        with self.lock or nullcontext():
            if not self._settled:
                self._stuck = not self._spool.close(1)
            self._settled = True

    def close(self) -> None:
        """Write what is left."""
        self.settle()
        super().close()


def configure(form: Format | None, level: Level, descriptor: int | None = None) -> logging.Handler:
    """Send every log line of the process, uvicorn's too, to standard error.

    Args:
        form: None is text on a terminal and JSON elsewhere.
        level: of the least that is logged; access records are ``info``.
        descriptor: where to instead.
    """
    to = sys.stderr.fileno() if descriptor is None else descriptor
    if form is None:
        form = "text" if os.isatty(to) else "json"
    handler = SpoolHandler(to)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    return handler


def settle() -> None:
    """Write at once what is logged from now on: the process is about to end.

    uvicorn ends by raising the signal that it got, so that exit handlers may never run.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, SpoolHandler):
            handler.settle()


def guard(loop: asyncio.AbstractEventLoop) -> None:
    """Keep texts out of what the event loop reports: its own report quotes arguments."""
    loop.set_exception_handler(_report)


def _report(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    kind = "an error" if error is None else type(error).__name__
    where = "" if error is None else frames(error)
    logging.getLogger("asyncio").error("%s outside of any request\n%s", kind, where)


def observe(answered: Answered) -> None:
    """Write the access record of a request."""
    level = logging.WARNING if answered.status >= 500 or not answered.status else logging.INFO
    if (answered.route in WATCHERS and 0 < answered.status < 400) or not access.isEnabledFor(level):
        return
    milliseconds = round(answered.seconds * 1e3, 2)
    fields: dict[str, Any] = {
        "request_id": answered.request_id,
        "trace_id": answered.trace.trace_id,
        "span_id": answered.trace.span_id,
        "method": answered.method,
        "route": answered.route,
        "status": answered.status,
        "outcome": answered.outcome,
        "ms": milliseconds,
        "caller": answered.caller,
    }
    if answered.code is not None:
        fields["code"] = answered.code
    if (judgement := answered.judgement) is not None:
        fields |= judgement.summary
        fields["actions"] = judgement.actions
        fields["severities"] = judgement.severities
        hashes = [digest for digests in judgement.digests for digest in digests]
        fields[judgement.digest.name] = hashes[:HASHES]
        timings = judgement.timings
        fields["queue_ms"] = round(timings.queue, 2)
        fields["tokenize_ms"] = round(timings.tokenize, 2)
        fields["infer_ms"] = round(timings.infer, 2)
        fields["postprocess_ms"] = round(timings.postprocess, 2)
    # Not access.log, which would walk the stack to find this line.
    record = access.makeRecord(access.name, level, "", 0, "request", (), None)
    record.fields = fields
    access.handle(record)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    whole, rest = divmod(seconds, 1)
    return f"{_second(whole)}.{int(rest * 1000):03d}Z"


@lru_cache(maxsize=16)
def _second(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON. Pydantic's encoder takes 2 us where Python's takes 9."""
    try:
        return to_json(record) + b"\n"
    except PydanticSerializationError:
        # A lone surrogate, as in the name of a file that is not UTF-8.
        return json.dumps(record, default=str).encode() + b"\n"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields
