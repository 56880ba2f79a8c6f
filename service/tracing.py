"""W3C trace context: a request's place in a trace that began elsewhere, or begins here.

https://www.w3.org/TR/trace-context/ (Recommendation, 23 November 2021). What does not follow it is
treated as if it were not there, as it demands. Spans are only made where OpenTelemetry is switched
on (``service.otel``); without it, ids still tie logs, audit records and the caller's trace to each
other.
"""

import logging
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from service.observation import Answered

# 3.2.2: lower case only. A version to come may append fields after another dash; 00 may not.
PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# 3.3.1.3: members "key=value"; a key is a simple one or "tenant@system".
SIMPLE: Final = r"[a-z][a-z0-9_\-*/]{0,255}"
TENANT: Final = r"[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
VALUE: Final = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
MEMBER: Final = re.compile(f"({SIMPLE}|{TENANT})=({VALUE})")
MAX_MEMBERS: Final = 32
SAMPLED: Final = 1
# What probes and scrapers ask every few seconds is neither traced nor, where it goes well, logged.
WATCHERS: Final = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

logger = logging.getLogger("tamis.service")

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Parent:
    """Where the caller stands in its trace. Ids are lower-case hex; ``state`` is in order."""

    trace_id: str
    span_id: str
    sampled: bool
    state: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's own place in its trace; ``span`` where OpenTelemetry records it."""

    trace_id: str
    span_id: str
    sampled: bool
    span: Any = None

    @property
    def header(self) -> bytes:
        """``traceparent`` as the answer carries it."""
        return f"00-{self.trace_id}-{self.span_id}-0{int(self.sampled)}".encode()


def parent_of(headers: Headers) -> Parent | None:
    """The caller's place in its trace, if it says so by the rules."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1 or (found := PARENT.fullmatch(given[0].strip(b" \t"))) is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not int(trace, 16) or not int(span, 16):
        return None
    states = [value for name, value in headers if name == b"tracestate"]
    return Parent(
        trace.decode(), span.decode(), bool(int(flags, 16) & SAMPLED), state_of(b",".join(states))
    )


def state_of(given: bytes) -> tuple[tuple[str, str], ...]:
    """The members of ``tracestate``; none where one breaks the rules, as 4.3 asks for."""
    members: dict[str, str] = {}
    for part in given.decode("latin-1").split(","):
        member = part.strip(" \t")
        if not member:
            continue
        found = MEMBER.fullmatch(member)
        if found is None or found[1] in members or len(members) == MAX_MEMBERS:
            return ()
        members[found[1]] = found[2]
    return tuple(members.items())


class Tracing:
    """Ids without spans."""

    def begin(self, method: str, route: str, headers: Headers) -> Trace:  # noqa: ARG002
        """A request's place: under its caller's, or at the root of a new trace."""
        # Unique, not secret: urandom would ask the kernel for each.
        span = f"{random.getrandbits(64) or 1:016x}"
        parent = parent_of(headers)
        if parent is None:
            return Trace(f"{random.getrandbits(128) or 1:032x}", span, sampled=False)
        return Trace(parent.trace_id, span, parent.sampled)

    def end(self, answered: "Answered") -> None:
        """Note what became of the request."""

    def close(self) -> None:
        """Send what is not sent yet; blocks."""


def from_environment() -> Tracing:
    """With spans where OpenTelemetry's variables name an endpoint for them.

    A deployment may have these variables from elsewhere, so what is missing for them is logged and
    does not keep the service from starting.
    """
    named = any(map(os.environ.get, ENDPOINTS))
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not named or off or os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return Tracing()
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.error("no spans: OTLP goes by http/protobuf here, not by %s", protocol)
        return Tracing()
    try:
        from service import otel
    except ModuleNotFoundError as error:
        logger.error("no spans: %s; install the extra: pip install 'tamis[otel]'", error)
        return Tracing()
    return otel.from_environment()
