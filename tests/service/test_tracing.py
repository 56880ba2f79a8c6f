import http.server
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

import service.observing
from service.engine.engine import Engine
from service.observing import tracing
from service.observing.context import Parent, parent_of, state_of
from service.observing.otel import Spans
from service.observing.tracing import Ids
from tests.service.observed import INSULT, post, running

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def parsed(*values: str, state: tuple[str, ...] = ()) -> Parent | None:
    headers = [(b"traceparent", value.encode("latin-1")) for value in values]
    return parent_of([*headers, *((b"tracestate", s.encode("latin-1")) for s in state)])


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", True),
        (f"cc-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_traceparent_by_the_rules(value, sampled):
    assert parsed(value) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01.",
        f"cc-{TRACE}-{SPAN}-01.what-will-be",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}x-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-0G",
        f"{GOOD},{GOOD}",
        f"00-{TRACE[:-1]}\u00b2-{SPAN}-01",
    ],
)
def test_a_traceparent_against_the_rules_is_none(value):
    assert parsed(value) is None


def test_two_traceparents_are_none():
    assert parsed(GOOD, GOOD) is None


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("foo=1", [("foo", "1")]),
        ("foo=1,bar=2", [("foo", "1"), ("bar", "2")]),
        ("foo=1 \t, \tbar=2", [("foo", "1"), ("bar", "2")]),
        (",foo=1,,", [("foo", "1")]),
        ("foo= a", [("foo", " a")]),
        ("foo=a=b", ()),
        ("foo=a b", [("foo", "a b")]),
        ("a_-*/9=!~", [("a_-*/9", "!~")]),
        ("9fw529a3039@dt=x", [("9fw529a3039@dt", "x")]),
        (f"{'z' * 256}=1", [("z" * 256, "1")]),
        (f"{'t' * 241}@{'v' * 14}=1", [(f"{'t' * 241}@{'v' * 14}", "1")]),
        (f"foo={'.' * 256}", [("foo", "." * 256)]),
        ("foo", ()),
        ("foo=", ()),
        ("=1", ()),
        ("foo =1", ()),
        ("FOO=1", ()),
        ("foo@=1", ()),
        ("@foo=1", ()),
        ("foo@@bar=1", ()),
        ("9foo=1", ()),
        ("foo=1,foo=2", ()),
        ("foo=1,bar", ()),
        (f"{'z' * 257}=1", ()),
        (f"{'t' * 242}@v=1", ()),
        (f"t@{'v' * 15}=1", ()),
        (f"foo={'.' * 257}", ()),
        ("foo=caf\u00e9", ()),
        ("foo=\x01", ()),
        (",".join(f"k{n}=1" for n in range(33)), ()),
    ],
)
def test_a_tracestate_counts_as_a_whole_or_not_at_all(value, members):
    assert state_of(value.encode("latin-1")) == tuple(members)


def test_several_tracestates_are_one_list_and_none_without_a_parent():
    found = parsed(GOOD, state=("foo=1", "bar=2"))
    assert found is not None
    assert found.state == (("foo", "1"), ("bar", "2"))
    broken = parsed(GOOD, state=("foo=1", "?"))
    assert broken is not None
    assert broken.state == ()
    assert parsed("nonsense", state=("foo=1",)) is None


def test_the_answer_goes_on_with_the_callers_trace_or_begins_one(settings):
    with running(settings) as client:
        answer = client.get("/policies", headers={"traceparent": GOOD})
        version, trace, span, flags = answer.headers["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert span != SPAN
        for given in ("nonsense", GOOD.upper()):
            fresh = client.get("/policies", headers={"traceparent": given}).headers["traceparent"]
            own = parsed(fresh)
            assert own is not None
            assert own.trace_id != TRACE
            assert not own.sampled


def test_without_its_variables_opentelemetry_is_not_even_imported():
    code = "import sys, service.app, service.observing.tracing as t; t.from_environment()"
    code += "; sys.exit(any(m.startswith('opentelemetry.sdk') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={}).returncode == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_what_switches_spans_off(monkeypatch, caplog, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert type(tracing.from_environment()) is Ids
    assert ("grpc" in caplog.text) == (value == "grpc")


def test_without_the_extra_spans_are_off_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "service.observing.otel", None)
    monkeypatch.delattr(service.observing, "otel")
    assert type(tracing.from_environment()) is Ids
    assert "tamis[otel]" in caplog.text


def test_packages_that_do_not_fit_each_other_switch_spans_off(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    resources = "opentelemetry.sdk.resources"
    monkeypatch.setitem(sys.modules, resources, ModuleType(resources))
    monkeypatch.delitem(sys.modules, "service.observing.otel")
    monkeypatch.delattr(service.observing, "otel")
    assert type(tracing.from_environment()) is Ids
    assert "no spans: cannot import name" in caplog.text


def test_variables_that_cannot_be_switch_spans_off_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096")
    assert type(tracing.from_environment()) is Ids
    assert "no spans: max_export_batch_size must be" in caplog.text


def test_a_short_queue_takes_a_shorter_batch(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    found = tracing.from_environment()
    found.close()
    assert type(found) is Spans


def test_an_empty_variable_is_as_none(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "")
    found = tracing.from_environment()
    found.close()
    assert type(found) is Spans


@pytest.fixture
def spans(monkeypatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(1.0)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "from_environment", lambda: Spans(provider))
    yield exporter
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_span_for_the_request_and_one_for_each_stage(settings, spans):
    with running(settings) as client:
        headers = {"traceparent": GOOD, "tracestate": "foo=1", "x-request-id": "abc"}
        answer = client.post("/moderate", json={"input": [INSULT, "hello"]}, headers=headers)
    *stages, server = spans.get_finished_spans()
    assert [stage.name for stage in stages] == ["queue", "tokenize", "infer", "postprocess"]
    assert server.name == "POST /moderate"
    assert server.kind is SpanKind.SERVER
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}-{server.parent.span_id:016x}" == f"{TRACE}-{SPAN}"
    assert server.context is not None
    assert server.context.trace_state.get("foo") == "1"
    own = f"00-{TRACE}-{server.context.span_id:016x}-01"
    assert answer.headers["traceparent"] == own

    said = attributes(server)
    assert said["http.request.method"] == "POST"
    assert said["http.route"] == "/moderate"
    assert said["http.response.status_code"] == 200
    assert said["tamis.request_id"] == "abc"
    assert said["tamis.items"] == 2
    assert said["tamis.characters"] == len(INSULT) + len("hello")
    assert str(said["tamis.policy"]).startswith("default@")
    assert said["tamis.actions.flag"] == 1
    assert said["tamis.actions.allow"] == 1
    assert said["tamis.severities.unsafe"] == said["tamis.severities.safe"] == 1

    times = [server.start_time]
    for stage in stages:
        assert stage.parent is not None
        assert stage.parent.span_id == server.context.span_id
        times += [stage.start_time, stage.end_time]
    times.append(server.end_time)
    assert times == sorted(times, key=lambda at: at or 0)
    timings = answer.json()["timings"]
    for stage in stages:
        assert stage.start_time is not None
        assert stage.end_time is not None
        milliseconds = (stage.end_time - stage.start_time) / 1e6
        assert milliseconds == pytest.approx(timings[f"{stage.name}_ms"], abs=0.01)


def test_faults_of_ours_are_errors_and_faults_of_callers_are_not(settings, spans, monkeypatch):
    with running(settings) as client:
        client.post("/moderate", json={"input": 5})

        async def broken(*_: object) -> None:
            raise RuntimeError("a secret goose")

        monkeypatch.setattr(Engine, "judge", broken)
        client.post("/moderate", json={"input": "x"})
        client.get("/some/path")
        client.get("/metrics")
    bad, fault, lost = spans.get_finished_spans()
    assert attributes(bad)["tamis.error.code"] == "invalid_request"
    assert bad.status.status_code is StatusCode.UNSET
    assert attributes(fault)["error.type"] == "500"
    assert fault.status.status_code is StatusCode.ERROR
    assert fault.events == ()
    assert lost.name == "GET other"


def test_what_the_caller_does_not_sample_is_not_recorded(settings, spans):
    with running(settings) as client:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        answer = client.post("/moderate", json={"input": "x"}, headers=headers)
    assert spans.get_finished_spans() == ()
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceparent"].endswith("-00")


def test_spans_reach_a_receiver_before_the_service_is_gone(settings, monkeypatch):
    received: list[ExportTraceServiceRequest] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        # Longer than the test: what arrives was sent by the shutdown.
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        with running(settings) as client:
            for _ in range(3):
                post(client, input=INSULT)
        server.shutdown()
        thread.join()
    (resource,) = [resource for request in received for resource in request.resource_spans]
    said = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert said["service.name"] == "tamis"
    assert said["deployment.environment"] == "test"
    sent = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sent.count("POST /moderate") == 3
    assert sent.count("infer") == 3


def test_a_receiver_that_is_down_costs_no_answer(settings, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with caplog.at_level(logging.ERROR), running(settings) as client:
        post(client, input=INSULT)
    assert INSULT not in caplog.text
