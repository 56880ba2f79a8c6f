"""W3C trace context: a request's place in a trace that began elsewhere, or begins here.

https://www.w3.org/TR/trace-context/ (Recommendation, 23 November 2021). What does not follow it is
treated as if it were not there, as it demands.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

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


def place_of(headers: Headers) -> Trace:
    """A request's own place, without a span: under its caller's, or at the root of a new trace."""
    # Unique, not secret: urandom would ask the kernel for each.
    span = f"{random.getrandbits(64) or 1:016x}"
    parent = parent_of(headers)
    if parent is None:
        return Trace(f"{random.getrandbits(128) or 1:032x}", span, sampled=False)
    return Trace(parent.trace_id, span, parent.sampled)
