"""Who gives requests their place in a trace: OpenTelemetry where it is switched on, else nobody.

Without spans, ids still tie logs, audit records and the caller's trace to each other.
"""

import logging
import os
from typing import Final, Protocol

from service.observing.answered import Answered
from service.observing.context import Headers, Trace, place_of

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

logger = logging.getLogger("tamis.service")


class Tracing(Protocol):
    """Begins and ends a request's place in its trace."""

    def begin(self, method: str, route: str, headers: Headers) -> Trace:
        """A request's place: under its caller's, or at the root of a new trace."""

    def end(self, answered: Answered) -> None:
        """Note what became of the request."""

    def close(self) -> None:
        """Send what is not sent yet; blocks."""


class Ids:
    """Ids without spans."""

    def begin(self, method: str, route: str, headers: Headers) -> Trace:  # noqa: ARG002
        """A request's place, of which nothing is recorded."""
        return place_of(headers)

    def end(self, answered: Answered) -> None:
        """Nothing is to be noted."""

    def close(self) -> None:
        """Nothing is to be sent."""


def from_environment() -> Tracing:
    """With spans where OpenTelemetry's variables name an endpoint for them.

    A deployment may have these variables from elsewhere, so what is missing for them, or
    wrong with them, is logged and does not keep the service from starting.
    """
    named = any(map(os.environ.get, ENDPOINTS))
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    # An empty one is as none, by OpenTelemetry's rules.
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if not named or off or exporter != "otlp":
        return Ids()
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.error("no spans: OTLP goes by http/protobuf here, not by %s", protocol)
        return Ids()
    try:
        from service.observing import otel
    except ImportError as error:  # missing, or of versions that do not fit each other
        logger.error("no spans: %s; install the extra: pip install 'tamis[otel]'", error)
        return Ids()
    try:
        return otel.from_environment()
    except ValueError as error:
        logger.error("no spans: %s", error)
        return Ids()
