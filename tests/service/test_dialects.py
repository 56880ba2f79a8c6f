"""What every dialect answers to: good and bad texts, bad bodies, and a service that cannot."""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.access import new_key
from service.app import create_app
from service.dialects.perspective import ANALYZE
from service.dialects.registry import DIALECTS, find
from service.engine.scheduler import OverloadedError, Scheduler
from service.settings import Settings
from tests.service import answers
from tests.service.test_app import wait_until_ready
from tests.service.wire import ENVOY, KIND, LITELLM, RUDE, WIRES, Wire, before, user

EVERY = pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    settings = Settings(
        bundle=bundle.path,
        max_items=4,
        max_contents=8,
        max_text_characters=2_000,
        max_body_bytes=100_000,
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def said(answer: Any) -> Any:
    return answer.json() if answer.content else None


def route_of(wire: Wire) -> str | None:
    return find(wire.path.partition("?")[0])[0]


def message_of(answer: Any) -> str:
    found = answer.json()
    return found["error"]["message"] if "error" in found else found["message"]


def asking(text: str) -> list[dict[str, Any]]:
    return [{"function": {"name": "search", "arguments": text}}]


def test_every_path_that_judges_is_tested_here():
    judging = {path for dialect in DIALECTS for path in dialect.judging}
    # Perspective's scores know no policy, and its refusals are Google's.
    beside = {"/response", "/api/v1/text/chat", "/api/v1/text/generation", ANALYZE}
    assert judging == {route_of(wire) for wire in WIRES.values()} | beside
    # All of them are in the table, and the stream whose time is its caller's.
    assert judging | {"/moderate/stream"} == {route_of(wire) for wire in answers.ROWS.values()}


def test_the_table_of_answers_is_what_is_answered(bundle, tmp_path):
    page = answers.PAGE.read_text()
    lines = answers.table(bundle.path, tmp_path)
    assert page == answers.page_with(page, lines), "python -m tests.service.answers writes it"


@EVERY
def test_a_kind_text_passes_and_a_rude_one_does_not(client, wire: Wire):
    for text, passes in ((KIND, True), (RUDE, False)):
        answer = client.post(wire.path, json=wire.body(text))
        assert wire.passes(answer.status_code, said(answer)) is passes, answer.text
        assert answer.status_code == (200 if passes or wire.path != ENVOY else 403)


@EVERY
@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_text_passes(client, wire: Wire, text: str):
    answer = client.post(wire.path, json=wire.body(text))
    assert answer.status_code == 200, answer.text
    assert wire.passes(answer.status_code, said(answer))


@EVERY
def test_too_long_a_text_is_refused_with_the_limit(client, wire: Wire):
    answer = client.post(wire.path, json=wire.body("x" * 2_001))
    assert answer.status_code == 400
    assert "2001 characters are over the limit of 2000" in message_of(answer)
    answer = client.post(wire.path, json=wire.body("x" * 1_000_000))
    assert answer.status_code == 413
    assert "over the limit of 100000 bytes" in message_of(answer)


MANY = {
    "/moderate": {"input": [{"messages": user("Hello.") * 5}] * 2},
    "/v1/moderations": {"input": [{"type": "text", "text": "Hello."}] * 9},
    "/v1/chat/moderations": {"input": [{"role": "user", "tool_calls": asking("x") * 9}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "tool_calls": asking("x") * 9}]},
    LITELLM: {"input_type": "request", "texts": ["Hello."] * 9},
    "/portkey": before("Hello.", 9),
    "/request": {"body": {"messages": user("Hello.") * 9}},
    "/response": {"body": {"choices": [{"text": "Hello."}] * 9}},
    ENVOY: {"input": ["Hello."] * 9},
    "/api/v1/text/chat": {"messages": [{"role": "user", "tool_calls": asking("x") * 9}]},
}
# Of one text an item, or one in all.
ONE = {"streams", "azure", "detectors", "vllm", "tei"}


def test_too_many_texts_are_refused_in_every_dialect_that_takes_several(client):
    assert {wire.path for name, wire in WIRES.items() if name not in ONE} <= set(MANY)
    for path, body in MANY.items():
        answer = client.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
        assert re.search(r"^\w+: (9|10) texts to judge are over the limit of 8", message_of(answer))
    body = {"input_type": "response", "litellm_call_id": "1", "texts": ["Hello."] * 9}
    assert "9 texts to judge" in message_of(client.post(LITELLM, json=body))


@EVERY
@pytest.mark.parametrize("text", [5, {"x": "zebra"}, True], ids=["number", "mapping", "bool"])
def test_what_is_no_text_is_refused_by_name(client, wire: Wire, text: Any):
    answer = client.post(wire.path, json=wire.body(text))
    assert answer.status_code == 400, answer.text
    assert message_of(answer).startswith(wire.param)
    assert "zebra" not in answer.text


@EVERY
@pytest.mark.parametrize("body", [b"[]", b'"x"', b"5", b'{"a": "cut', b"{}"])
def test_what_is_no_request_is_refused(client, wire: Wire, body: bytes):
    answer = client.post(wire.path, content=body)
    assert answer.status_code == 400
    assert message_of(answer)


@EVERY
def test_a_compressed_body_is_refused_by_its_header(client, wire: Wire):
    body = gzip.compress(json.dumps(wire.body(KIND)).encode())
    answer = client.post(wire.path, content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert message_of(answer).startswith("content-encoding: ")
    assert answer.headers["accept-encoding"] == "identity"
    answer = client.post(wire.path, json=wire.body(KIND), headers={"content-encoding": "Identity"})
    assert answer.status_code == 200


@EVERY
def test_no_room_is_said_so_that_gateways_understand(client, wire: Wire, monkeypatch):
    def full(*_: Any) -> None:
        raise OverloadedError("capacity", 2.5)

    monkeypatch.setattr(Scheduler, "check", full)
    answer = client.post(wire.path, json=wire.body(KIND))
    assert answer.status_code == (503 if wire.hook else 429)
    assert answer.headers["retry-after-ms"] == "2500"
    assert message_of(answer)
    route = f'{{outcome="overloaded",route="{route_of(wire)}"'
    assert f"tamis_request_duration_seconds_count{route}" in client.get("/metrics").text


@EVERY
def test_a_policy_that_does_not_exist_is_named(client, wire: Wire):
    answer = client.post(wire.path, json=wire.body(KIND), headers={"x-tamis-policy": "nope"})
    assert answer.status_code == 400
    assert "known: default" in message_of(answer)


@EVERY
def test_a_service_that_loads_says_so(settings, wire: Wire, monkeypatch):
    monkeypatch.setattr(
        "service.moderation.serving.Serving._load", lambda _: (_ for _ in ()).throw(OSError)
    )
    with TestClient(create_app(settings)) as client:
        answer = client.post(wire.path, json=wire.body(KIND))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "loading" in message_of(answer)


@pytest.fixture(scope="module")
def locked(bundle, tmp_path_factory) -> Iterator[tuple[TestClient, str]]:
    folder = tmp_path_factory.mktemp("locked")
    key, entry = new_key("gateway", policy="lax")
    (folder / "keys.yml").write_text(yaml.safe_dump([entry]))
    lax = {"name": "lax", "categories": {"violence": {"flag": 1.0, "block": 1.0}}}
    (folder / "lax.yaml").write_text(json.dumps(lax))
    strict = "{name: strict, overall: {flag: 0.000001, block: 0.000001}, categories: {hate: {}}}"
    (folder / "strict.yaml").write_text(strict)
    (folder / "size.yaml").write_text(strict.replace("name: strict", "name: größe"), "utf-8")
    settings = Settings(bundle=bundle.path, keys=folder / "keys.yml", policies=folder)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client, key


@EVERY
def test_without_a_key_nobody_comes_in_and_a_key_brings_its_policy(locked, wire: Wire):
    client, key = locked
    answer = client.post(wire.path, json=wire.body(RUDE))
    assert answer.status_code == 401
    assert "key" in message_of(answer)
    for name in ("authorization", "x-api-key", "ocp-apim-subscription-key"):
        value = f"Bearer {key}" if name == "authorization" else key
        answer = client.post(wire.path, json=wire.body(RUDE), headers={name: value})
        assert wire.passes(answer.status_code, said(answer)), answer.text
    headers = {"x-api-key": key, "x-tamis-policy": "strict"}
    answer = client.post(wire.path, json=wire.body(KIND), headers=headers)
    assert not wire.passes(answer.status_code, said(answer))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_header_names_a_policy_that_is_not_ascii(locked, encoding: str):
    client, key = locked
    headers = {"x-api-key": key, "x-tamis-policy": "größe".encode(encoding)}
    answer = client.post("/moderate", json={"input": KIND}, headers=headers)
    assert answer.json()["policy"].startswith("größe@")
    assert client.get("/policies", headers=headers).json()["default"] == "größe"
    headers = {"x-api-key": key, "detector-id": "größe".encode(encoding)}
    contents = {"contents": [KIND]}
    assert client.post("/api/v1/text/contents", json=contents, headers=headers).json()[0]


def test_blanks_around_a_header_are_none_of_its_value(locked):
    client, key = locked
    headers = {
        "authorization": f"Bearer {key}\t ",
        "x-tamis-policy": " strict ",
        "x-request-timeout-ms": "60000\t",
    }
    answer = client.post("/moderate", json={"input": KIND}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["policy"].startswith("strict@")


def test_what_lies_below_a_contract_is_refused_in_its_words(client):
    answer = client.post("/api/v1/text/context/doc", json={})
    assert answer.status_code == 404
    assert answer.json() == {"code": 404, "message": "there is no /api/v1/text/context/doc"}
    answer = client.post("/v1alpha1/comments:nope", json={})
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert client.post("/nowhere", json={}).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("status", [429, 529])
def test_what_hooks_say_where_there_is_no_room_can_be_chosen(settings, status, monkeypatch):
    def full(*_: Any) -> None:
        raise OverloadedError("capacity", 2.5)

    settings.hook_overload_status = status
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        monkeypatch.setattr(Scheduler, "check", full)
        wire = WIRES["litellm"]
        assert client.post(wire.path, json=wire.body(KIND)).status_code == status


def test_health_is_where_model_servers_have_it(client):
    assert client.get("/health").json() == client.get("/health/ready").json()
