"""No text anywhere: one marker, sent in every way, sought in everything that the service writes."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.engine.classifier import Classifier
from service.moderation.moderator import Moderator
from service.observing import tracing
from service.observing.logs import JsonFormatter, TextFormatter
from service.observing.otel import Spans
from service.settings import Settings
from tests.service.observed import lines_of, running
from tests.service.wire import WIRES

MARKER = "zebra-canary-77e"
RUDE = f"You are a stupid {MARKER} goose and nobody likes you."


class Everything(logging.Handler):
    """Every line of the service's log, in both formats."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):  # the tests' own client
            for formatter in (JsonFormatter(), TextFormatter()):
                self.text += formatter.format(record) + "\n"


@pytest.fixture
def log() -> Iterator[Everything]:
    handler, root = Everything(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def exercise(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route, and every way in which a request can go wrong."""
    good = [
        RUDE,
        {"prompt": RUDE},
        {"prompt": RUDE, "response": RUDE},
        {"text": RUDE},
        {"messages": [{"role": "user", "content": RUDE}, {"role": "assistant", "content": RUDE}]},
    ]
    for explain in (None, "evidence"):
        assert client.post("/moderate", json={"input": good, "explain": explain}).status_code == 200
    for wire in WIRES.values():
        assert client.post(wire.path, json=wire.body(RUDE)).status_code in (200, 400, 403)
        assert client.post(wire.path, json=wire.body({MARKER: RUDE})).status_code == 400
    client.post("/v1/moderations", json={"input": [RUDE]})
    client.post("/v1/moderations", json={"input": [{"type": "text", "text": RUDE}]})
    correction = {"input": RUDE, "label": "safe", "comment": MARKER, "reviewer": MARKER}
    assert client.post("/feedback", json=correction).status_code == 201
    assert client.post("/feedback", json=correction | {"label": MARKER}).status_code == 400
    statuses = [
        client.post("/moderate", content=f'{{"input": "{MARKER}'),
        client.post("/moderate", content=f'{{"input": "{MARKER}\\ud8"}}'),
        client.post("/moderate", json={"input": {"prompt": {"x": MARKER}}}),
        client.post("/moderate", json={"input": {"prompt": "x", MARKER: 1}}),
        client.post("/moderate", json={"input": [RUDE] * 9}),
        client.post("/moderate", json={"input": RUDE * 1_000}),
        client.post("/moderate", json={"input": RUDE * 200_000}),
        client.post("/moderate", json={"input": RUDE, "policy": MARKER}),
        client.post("/moderate", json={"input": RUDE, "policy": {"name": MARKER, "x": MARKER}}),
        client.post("/moderate", json={"input": RUDE}, headers={"x-request-timeout-ms": MARKER}),
        client.post("/v1/moderations", json={"input": 5, "model": MARKER}),
        client.post("/v1/moderations", json={"input": [{"type": MARKER}]}),
        client.get(f"/{MARKER}?{MARKER}", headers={"user-agent": MARKER, "cookie": MARKER}),
        client.request(MARKER.upper(), "/moderate"),
        client.get("/policies", headers={"x-request-id": f"{MARKER} !", "traceparent": MARKER}),
    ]
    assert [answer.status_code for answer in statuses] == [
        *(400, 400, 400, 400, 400, 400, 413, 400, 400, 400),
        *(400, 400, 404, 405, 200),
    ]

    def broken(*_: object) -> None:
        raise RuntimeError(f"failed on {RUDE}")

    for target, name in ((Classifier, "encode"), (Classifier, "finding"), (Moderator, "judge")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, broken)
            text = f"{RUDE} {name}"
            assert client.post("/moderate", json={"input": text}).status_code == 500


@pytest.mark.parametrize("secret", [None, "a secret"])
def test_no_text_is_in_logs_audit_records_spans_or_metrics(
    settings, tmp_path: Path, log, monkeypatch, secret
):
    path = tmp_path / "audit.jsonl"
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "from_environment", lambda: Spans(provider))
    policies = tmp_path / "policies"
    policies.mkdir()
    shadowed = {"name": "default", "categories": {"toxicity": {}}, "overall": {}, "shadow": "b"}
    for policy in (shadowed, {"name": "b", "categories": {"toxicity": {"flag": 0.01}}}):
        (policies / f"{policy['name']}.yaml").write_text(json.dumps(policy))
    own = settings.model_dump() | {"audit": str(path), "policies": policies}
    own |= {"audit_secret": secret, "feedback": str(tmp_path / "feedback.db")}
    with running(Settings(**own)) as client:
        exercise(client, monkeypatch)
        # What observes on trial fails, too, and the loop reports it.
        with monkeypatch.context() as patch:
            patch.setattr("service.moderation.trials.decide", exploding)
            assert client.post("/moderate", json={"input": RUDE}).status_code == 200
        metrics = client.get("/metrics").text
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    audit = path.read_text()
    # Something was written everywhere.
    assert log.text.count('"logger":"tamis.access"') > 20
    assert "RuntimeError" in log.text
    assert "outside of any request" in log.text
    assert len(lines_of(path)) > 12
    assert spans.count("POST /moderate") > 15
    assert "tamis_shadow_verdicts_total{" in metrics
    for written in (log.text, audit, spans, metrics):
        assert MARKER not in written
        assert MARKER.upper() not in written
        assert "goose" not in written


def exploding(findings, *_):
    """A ``decide`` that fails on a text."""
    raise ValueError(f"no {RUDE} {findings}")
