"""Spans for OpenTelemetry: one a request, one a stage; imported only where it is switched on.

Everything is configured by OpenTelemetry's own variables:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from service.observing.answered import Answered, Judgement
from service.observing.context import WATCHERS, Headers, Parent, Trace, parent_of, place_of
from tamis import __version__

BATCH: Final = 128
STAGES: Final = ("queue", "tokenize", "infer", "postprocess")


class Spans:
    """A server span for every request, with a child for each stage of judging.

    Attributes follow the semantic conventions for HTTP servers, less everything a caller may write
    freely: path, query and user agent.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tamis", __version__)

    def begin(self, method: str, route: str, headers: Headers) -> Trace:
        """Start the request's span."""
        if route in WATCHERS:
            return place_of(headers)
        parent = parent_of(headers)
        # The sampler decides by name and attributes; the rest is added after the answer.
        span = self._tracer.start_span(
            f"{method} {route}",
            context=None if parent is None else set_span_in_context(_remote(parent)),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        own = span.get_span_context()
        return Trace(
            format_trace_id(own.trace_id),
            format_span_id(own.span_id),
            own.trace_flags.sampled,
            span,
        )

    def end(self, answered: Answered) -> None:
        """End the request's span, with what is known of it by now."""
        span = answered.trace.span
        if not isinstance(span, Span):
            return
        if span.is_recording():
            span.set_attribute("tamis.request_id", answered.request_id)
            span.set_attribute("tamis.outcome", answered.outcome)
            if answered.status:
                span.set_attribute("http.response.status_code", answered.status)
            if answered.code is not None:
                span.set_attribute("tamis.error.code", answered.code)
            if answered.caller is not None:
                span.set_attribute("tamis.caller", answered.caller)
            if answered.status >= 500 or not answered.status:
                span.set_attribute("error.type", str(answered.status or "cancelled"))
                span.set_status(Status(StatusCode.ERROR))
            if answered.judgement is not None:
                self._judged(span, answered.judgement)
        span.end(round(answered.at * 1e9))

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()

    def _judged(self, span: Span, judgement: Judgement) -> None:
        span.set_attributes({f"tamis.{name}": value for name, value in judgement.summary.items()})
        for action, count in judgement.actions.items():
            span.set_attribute(f"tamis.actions.{action}", count)
        for severity, count in judgement.severities.items():
            span.set_attribute(f"tamis.severities.{severity}", count)
        context = set_span_in_context(span)
        # A stage is a sum over texts; one after the other they fill the time that judging took.
        at = judgement.at - judgement.timings.total / 1e3
        for stage in STAGES:
            ended = at + getattr(judgement.timings, stage) / 1e3
            child = self._tracer.start_span(stage, context, start_time=round(at * 1e9))
            child.end(round(ended * 1e9))
            at = ended


def from_environment() -> Spans:
    """Spans, sent in batches to the endpoint that OpenTelemetry's variables name.

    Raises:
        ValueError: where one of the variables cannot be.
    """
    own = Resource({"service.name": "tamis", "service.version": __version__})
    provider = TracerProvider(
        resource=Resource.create().merge(own).merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,  # the lifespan does it, while the loop's threads still run
    )
    # Encoding a batch holds Python's lock: 512 spans, the SDK's default, put a tail of 7 ms on
    # requests of 2 ms, and BATCH one of 5 ms.
    batch = None if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in os.environ else BATCH
    if batch and (queue := os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")).isdecimal():
        batch = min(batch, int(queue))  # The SDK refuses a batch that its queue cannot hold.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_export_batch_size=batch))
    return Spans(provider)


def _remote(parent: Parent) -> NonRecordingSpan:
    return NonRecordingSpan(
        SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
            trace_state=TraceState(list(parent.state)),
        )
    )
