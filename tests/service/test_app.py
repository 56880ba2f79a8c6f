import asyncio
import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from service.app import create_app
from service.engine.classifier import Classifier, Feed
from service.engine.engine import Engine
from service.engine.runtime import CpuRuntime, Outputs
from service.engine.scheduler import OverloadedError, Scheduler
from service.moderation.moderator import Moderator
from service.settings import Settings
from tamis.content import plain

CANARY = "zebra-canary-9f3"


def wait_until_ready(client: TestClient) -> None:
    for _ in range(200):
        if client.get("/health/ready").status_code == 200:
            return
        time.sleep(0.05)
    pytest.fail("never ready")


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    settings = Settings(
        bundle=bundle.path, max_items=8, max_text_characters=20_000, max_body_bytes=100_000
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def moderate(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/moderate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_text(client):
    answer = moderate(client, input="What is a good recipe for soup?", explain="evidence")
    assert answer["action"] == "allow"
    assert answer["flagged"] is False
    assert answer["score"] < answer["threshold"]
    assert answer["windows"] == 1
    assert 7 <= answer["tokens"] <= 10
    assert answer["evidence"] == []
    assert answer["model"].startswith("tamis-22m@")
    assert answer["policy"].startswith("default@")
    stages = {"queue_ms", "tokenize_ms", "infer_ms", "postprocess_ms", "total_ms"}
    assert set(answer["timings"]) == stages
    assert set(answer["attack"]) == {"score", "flagged", "threshold"}


def test_an_insult_is_flagged_with_evidence(client):
    text = "Tell my sister she is a worthless, ugly idiot."
    answer = moderate(client, input={"text": text}, explain="evidence")
    assert answer["flagged"]
    assert answer["categories"]["toxicity"]["flagged"]
    assert answer["evidence"]
    for span in answer["evidence"]:
        assert text[span["start"] : span["end"]] == span["text"]
        assert span["field"] == "text"


def test_a_batch_answers_in_order_and_as_if_alone(client):
    items = [
        "hello",
        {"prompt": "How are you?", "response": "Fine."},
        {"prompt": "hello"},
        {"messages": [{"role": "user", "content": "hello", "name": "x"}]},
        {"text": "hello"},
    ]
    batch = moderate(client, input=items)["results"]
    alone = [moderate(client, input=item) for item in items]

    def same(verdict: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in verdict.items() if k not in ("id", "timings")}

    assert [same(v) for v in batch] == [same(v) for v in alone]
    assert batch[0]["score"] == batch[2]["score"] == batch[3]["score"]
    assert batch[1]["windows"] == 2


def test_a_list_of_one_is_a_batch(client):
    assert len(moderate(client, input=["hello"])["results"]) == 1


def test_empty_text_is_allowed_and_says_that_nothing_was_read(client):
    answer = moderate(client, input="")
    assert (answer["action"], answer["windows"], answer["score"]) == ("allow", 0, 0.0)


def test_long_text_is_read_in_windows(client):
    assert moderate(client, input="tea and cake " * 900)["windows"] > 5


def test_a_policy_written_out(client):
    policy = {"name": "mine", "categories": {"toxicity": {"flag": 0.0001}}}
    answer = moderate(client, input="hello", policy=policy)
    assert answer["flagged"]
    assert list(answer["categories"]) == ["toxicity"]
    assert answer["policy"].startswith("mine@")


REFUSED = [
    ({"input": []}, "input", "at least one item"),
    ({"input": ["x"] * 9}, "input", "9 items are over the limit of 8"),
    ({"input": "x" * 20_001}, "input", "20001 characters are over the limit of 20000"),
    ({"input": ["x", {"prompt": "x" * 20_001}]}, "input[1].prompt", "over the limit of 20000"),
    ({"input": 5}, "input", "must be a text"),
    ({"input": ["x", None]}, "input[1]", "must be a text"),
    ({"input": {"prompt": "a", "response": 3}}, "input.response", "valid string"),
    ({"input": {"prompt": "a", "respnse": "b"}}, "input.respnse", "not permitted"),
    ({"input": {"messages": []}}, "input.messages", "at least 1 item"),
    ({"input": {"messages": [{"role": 1}]}}, "input.messages[0].role", "valid string"),
    ({"inptu": "x"}, "input", "required"),
    ({"input": "x", "polcy": "x"}, "polcy", "not permitted"),
    ({"input": "x", "policy": "nope"}, "policy", "known: default"),
    ({"input": "x", "policy": {"name": "a", "categories": {"b": {}}}}, "policy", "category 'b'"),
    (
        {"input": "x", "policy": {"name": "a", "overall": {}, "deadline_ms": 10**400}},
        "policy",
        "from 1 to 3600000",
    ),
    ({"input": "x", "policy": 5}, "policy", "valid string"),
    # Names of a union's branches, where they are a caller's.
    ({"input": "x", "batch": 1}, "batch", "not permitted"),
    ({"input": {"text": "x", "string": 1}}, "input.string", "not permitted"),
    ({"input": ["x", {"text": "x", "single": 1}]}, "input[1].single", "not permitted"),
    ({"input": "x", "explain": "everything"}, "explain", "'evidence'"),
    ([], None, "object"),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED)
def test_bad_input_names_the_field_and_the_limit(client, body, param, message):
    answer = client.post("/moderate", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b'{"input": "cut', b'{"input": "\xff\xfe"}', b'{"input": "\\ud8"}', b"[" * 9999]
)
def test_what_is_not_json_is_refused(client, body):
    answer = client.post("/moderate", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_a_body_over_the_limit_is_refused_announced_or_not(client):
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    for content in (b"x" * 100_001, chunks()):
        answer = client.post("/moderate", content=content)
        assert answer.status_code == 413
        assert "100000 bytes" in answer.json()["error"]["message"]


def test_unknown_routes_and_methods_answer_in_json(client):
    assert client.get("/nope").json()["error"]["code"] == "not_found"
    wrong = client.get("/moderate")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"


async def test_a_query_that_is_no_text_is_no_fault_of_ours(settings):
    app, sent = create_app(settings), list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    for path in ("/nope", "/moderate"):
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"\xff"}
        await app(scope | {"headers": []}, receive, send)
    assert [m["status"] for m in sent if "status" in m] == [404, 405]


def test_a_path_that_ends_in_a_slash_is_the_path(client):
    answer = client.post("/moderate/", json={"input": "hi"}, follow_redirects=False)
    assert answer.status_code == 200
    assert client.get("/health/ready/", follow_redirects=False).status_code == 200
    assert client.get("/nope/", follow_redirects=False).status_code == 404


def test_request_ids_are_kept_or_made(client):
    given = client.post("/moderate", json={"input": "x"}, headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    assert given.json()["id"] == "mod-abc-1"
    # What is no ASCII would come back as other bytes.
    for wrong in ("no spaces!", b"\xaa"):
        odd = client.get("/health/live", headers={"x-request-id": wrong})
        assert len(odd.headers["x-request-id"]) == 32


def test_overload_says_when_to_come_back(client, monkeypatch):
    async def full(*_: object, **__: object) -> None:
        raise OverloadedError("capacity", 2.5)

    monkeypatch.setattr(Engine, "judge", full)
    answer = client.post("/moderate", json={"input": "x"})
    assert answer.status_code == 429
    assert answer.headers["retry-after-ms"] == "2500"
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_under_overload_a_request_is_refused_unread(client, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OverloadedError("deadline", 0.25)

    monkeypatch.setattr(Scheduler, "check", full)
    answer = client.post("/moderate", content="not even JSON")
    assert answer.status_code == 429
    assert answer.headers["retry-after-ms"] == "250"
    assert client.get("/health/ready").status_code == 200
    assert 'tamis_refused_total{reason="deadline"}' in client.get("/metrics").text


def test_a_deadline_comes_from_the_header_or_the_policy(client, monkeypatch):
    given: list[float | None] = []
    real = Engine.judge

    async def spy(
        self: Engine, items: Any, evidence: bool, deadline: float | None, *more: Any
    ) -> Any:
        given.append(deadline)
        return await real(self, items, evidence, deadline, *more)

    monkeypatch.setattr(Engine, "judge", spy)
    patient = {"name": "patient", "overall": {}, "deadline_ms": 7_000}
    for headers, policy in [
        ({}, None),
        ({"x-request-timeout-ms": "5000"}, patient),
        ({"x-envoy-expected-rq-timeout-ms": "6000"}, patient),
        ({"x-envoy-expected-rq-timeout-ms": "0"}, patient),
        # A route may have hours; its callers never see the header that says so.
        ({"x-envoy-expected-rq-timeout-ms": "7200000"}, patient),
        ({"x-envoy-expected-rq-timeout-ms": "9" * 5_000}, patient),
    ]:
        body = {"input": "hello", "policy": policy}
        assert client.post("/moderate", json=body, headers=headers).status_code == 200
    assert given == [None, 5.0, 6.0, 7.0, 3_600.0, 3_600.0]


@pytest.mark.parametrize("value", ["soon", "0", "-5", "1.5", "99999999999", "9" * 5_000])
def test_a_deadline_that_is_no_time_is_refused_by_name(client, value):
    headers = {"x-request-timeout-ms": value}
    answer = client.post("/moderate", json={"input": "x"}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-timeout-ms"


def test_a_deadline_under_the_work_is_the_callers_mistake(client):
    text = "The garden was calm. " * 900
    headers = {"x-request-timeout-ms": "1"}
    answer = client.post("/moderate", json={"input": text}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "deadline_too_short"
    assert 'tamis_refused_total{reason="too_short"} 1.0' in client.get("/metrics").text


def test_a_deadline_that_passes_is_a_504(client, monkeypatch):
    monkeypatch.setattr(Classifier, "score", lambda *_: time.sleep(0.3))
    headers = {"x-request-timeout-ms": "100"}
    answer = client.post("/moderate", json={"input": "a new goose"}, headers=headers)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert 'tamis_lost_total{reason="deadline"} 1.0' in client.get("/metrics").text


async def test_a_client_who_leaves_stops_the_work(settings):
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        moderator: Moderator = app.state.moderator
        async with asyncio.timeout(60):
            while moderator.serving.engine is None:
                await asyncio.sleep(0.01)
        scheduler = moderator.serving.engine.scheduler
        body = json.dumps({"input": ["The garden was calm. " * 900] * 4}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if messages:
                return messages.pop(0)
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/moderate", "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}
        scope |= {"server": ("test", 80), "root_path": ""}
        await app(scope, receive, send)
        assert sent == []
        assert scheduler.queued_tokens == 0
        await asyncio.sleep(0)  # counted in the loop's next turn
        metrics = moderator.metrics.scrape().decode()
    assert 'tamis_lost_total{reason="disconnect"} 1.0' in metrics
    assert 'outcome="gone",route="/moderate"} 1.0' in metrics


def test_a_fault_of_ours_is_a_500_in_json_and_logs_no_text(client, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError(f"failed on {CANARY}")

    monkeypatch.setattr("service.engine.classifier.Classifier.encode", broken)
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/moderate", json={"input": CANARY})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "RuntimeError" in caplog.text
    assert CANARY not in caplog.text + answer.text


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_that_are_no_numbers_allow_nothing(client, monkeypatch, wrong):
    text, real = f"Tell me a story of {wrong}. " * 150, CpuRuntime.run
    classifier = client.app.state.moderator.serving.engine.classifier
    *_, last = classifier.encode(plain(text)).windows

    def broken(runtime: CpuRuntime, feed: Feed, *more: Any) -> Outputs:
        out = real(runtime, feed, *more)
        if feed["input_ids"].tolist() != [last.ids]:
            return out
        return out._replace(logits=out.logits * np.float32(wrong))

    monkeypatch.setattr("service.engine.runtime.CpuRuntime.run", broken)
    answer = client.post("/moderate", json={"input": text})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


def test_text_stays_out_of_logs_errors_and_metrics(client, caplog):
    with caplog.at_level(logging.DEBUG):
        client.post("/moderate", json={"input": CANARY})
        bad = client.post("/moderate", json={"input": {"prompt": {"x": CANARY}}})
        worse = client.post("/moderate", content=f'{{"input": "{CANARY}')
    assert CANARY not in caplog.text + bad.text + worse.text + client.get("/metrics").text


def test_metrics_count_requests_by_route_and_outcome(client):
    moderate(client, input="hello")
    client.post("/moderate", json={})
    client.get("/some/scanner/path")
    lines = client.get("/metrics").text.splitlines()
    count = 'tamis_request_duration_seconds_count{outcome="%s",route="%s"}'
    for outcome, route in (("ok", "/moderate"), ("invalid", "/moderate"), ("invalid", "other")):
        assert any(line.startswith(count % (outcome, route)) for line in lines)
    assert any(
        line.startswith('tamis_verdicts_total{action="allow",mode="enforce"}') for line in lines
    )
    assert "tamis_ready 1.0" in lines
    assert "tamis_queued_tokens 0.0" in lines
    assert 'le="0.005"' in "".join(lines)
    for start in (
        'tamis_stage_duration_seconds_count{stage="postprocess"}',
        'tamis_run_tokens_total{kind="padding"} 0.0',
        "tamis_run_windows_count",
        'tamis_cache_lookups_total{result="miss"}',
        'tamis_runtime_info{provider="CPUExecutionProvider"',
        'tamis_bundle_info{fingerprint="',
    ):
        assert any(line.startswith(start) for line in lines), start


def test_the_number_of_series_does_not_grow_with_traffic(client):
    def series() -> int:
        return sum(not line.startswith("#") for line in client.get("/metrics").text.splitlines())

    def traffic(n: int) -> None:
        moderate(client, input=f"text {n}")
        client.get(f"/path/{n}")
        client.request("BREW" + "X" * n, "/moderate")
        client.post("/moderate", json={"input": n})
        client.post("/moderate", json={"input": "x", "policy": f"policy-{n}"})

    traffic(0)
    before = series()
    for n in range(1, 30):
        traffic(n)
    assert series() == before
    assert before < 700


def test_openai_categories_are_complete(client):
    answer = client.post("/v1/moderations", json={"input": ["a", "b"]}).json()
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert len(result["categories"]) == len(result["category_scores"]) == 13
        for name, types in result["category_applied_input_types"].items():
            assert types == ["text"] or result["category_scores"][name] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "https://x"}}]}, "input[0]"),
        ({"input": ["a", 3]}, "input[1]"),
        ({"input": [{"type": "text"}]}, "input[0].text"),
        ({"input": [{"type": "text", "text": 3}]}, "input[0].text"),
        ({"input": [{"type": "image_url"}]}, "input[0].image_url"),
    ],
)
def test_openai_dialect_refuses_by_field(client, body, param):
    answer = client.post("/v1/moderations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_broken_bundle_is_alive_but_never_ready(settings, tmp_path):
    settings.bundle = tmp_path
    with TestClient(create_app(settings)) as client:
        for _ in range(200):
            answer = client.get("/health/ready")
            if answer.json()["status"] == "failed":
                break
            time.sleep(0.05)
        assert answer.status_code == 503
        assert "no bundle at" in answer.json()["reason"]
        assert 'tamis_load_failed{reason="bundle"} 1.0' in client.get("/metrics").text
        assert client.get("/health/live").status_code == 200
        refused = client.post("/moderate", json={"input": "x"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"


def test_one_of_several_processes_is_ready_when_it_is_first_asked(settings):
    settings.processes = 2
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/ready").status_code == 200


def test_a_provider_that_is_not_got_is_named_in_the_metrics(settings):
    settings.provider = "cuda"
    with TestClient(create_app(settings)) as client:
        for _ in range(100):
            if client.get("/health/ready").json()["status"] == "failed":
                break
            time.sleep(0.05)
        scraped = client.get("/metrics").text
    assert 'tamis_load_failed{reason="provider"} 1.0' in scraped
    assert 'tamis_load_failed{reason="bundle"} 0.0' in scraped


def test_openapi_describes_the_bodies(client):
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/moderate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "input" in json.dumps(schema)
