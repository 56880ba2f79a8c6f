import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine.engine import Engine
from service.engine.scheduler import OverloadedError
from service.settings import Settings

CANARY = "zebra-canary-9f3"


def wait_until_ready(client: TestClient) -> None:
    import time

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
    assert answer["evidence"] == []
    assert answer["model"].startswith("tamis-22m@")
    assert answer["policy"].startswith("default@")
    assert set(answer["timings"]) == {"tokenize_ms", "queue_ms", "infer_ms", "total_ms"}
    assert set(answer["attack"]) == {"score", "flagged", "threshold"}


def test_an_insult_is_flagged_with_evidence(client):
    text = "You are a stupid goose and nobody likes you."
    answer = moderate(client, input={"text": text}, explain="evidence")
    assert answer["flagged"]
    assert answer["categories"]["toxicity"]["flagged"]
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
    "body", [b"", b'{"input": "cut', b'{"input": "\xff\xfe"}', b'{"input": "\\ud800"}', b"[" * 9999]
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


def test_request_ids_are_kept_or_made(client):
    given = client.post("/moderate", json={"input": "x"}, headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    assert given.json()["id"] == "mod-abc-1"
    odd = client.get("/health/live", headers={"x-request-id": "no spaces!"})
    assert len(odd.headers["x-request-id"]) == 32


def test_overload_says_when_to_come_back(client, monkeypatch):
    async def full(*_: object, **__: object) -> None:
        raise OverloadedError(2.5)

    monkeypatch.setattr(Engine, "judge", full)
    answer = client.post("/moderate", json={"input": "x"})
    assert answer.status_code == 429
    assert answer.headers["retry-after-ms"] == "2500"
    assert answer.json()["error"]["type"] == "rate_limit_error"


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
    assert any(line.startswith('tamis_verdicts_total{action="allow"}') for line in lines)
    assert "tamis_ready 1.0" in lines
    assert 'le="0.005"' in "".join(lines)


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
    ],
)
def test_openai_dialect_refuses_by_field(client, body, param):
    answer = client.post("/v1/moderations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_broken_bundle_is_alive_but_never_ready(settings, tmp_path):
    settings.bundle = tmp_path
    with TestClient(create_app(settings)) as client:
        for _ in range(50):
            answer = client.get("/health/ready")
            if answer.json()["status"] == "failed":
                break
        assert answer.status_code == 503
        assert "no bundle at" in answer.json()["reason"]
        assert client.get("/health/live").status_code == 200
        refused = client.post("/moderate", json={"input": "x"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"


def test_openapi_describes_the_bodies(client):
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/moderate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "input" in json.dumps(schema)
