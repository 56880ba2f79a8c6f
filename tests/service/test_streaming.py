import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from service.app import create_app
from service.engine.reasoner import reasoner as engine
from service.engine.reasoner.queue import Explainer
from service.engine.reasoner.reasoner import GivenUpError
from service.engine.scheduler import DeadlineError, OverloadedError
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.test_reasoning import BANK, obedient, wait_for_reasoner

__all__ = ["obedient"]

CANARY = "zebra-canary-4b7"
PIECES = (f"It says “{CANARY}", " soup”.")


@pytest.fixture(scope="module")
def client(bundle, tiny_reasoner: Path) -> Iterator[TestClient]:
    settings = Settings(bundle=bundle.path, reasoner=tiny_reasoner)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        wait_for_reasoner(client)
        yield client


@pytest.fixture
def talkative(obedient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An obedient model that writes in two pieces."""

    def reasoned(self, content, category, pause, most, emit):
        if emit is not None:
            for piece in PIECES:
                emit(piece)
        return "ok", "".join(PIECES), None, 2

    monkeypatch.setattr(engine.Reasoner, "_reason", reasoned)


Event = tuple[str, Any]


def parse(text: str) -> list[Event]:
    """What we write is one line of either field; a client reads the rest of the format as well."""
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        events.append((name[7:], json.loads(data[6:])))
    return events


def ask(client: TestClient, **body: Any) -> list[Event]:
    answer = client.post("/moderate", json={"explain": "reason", "stream": True} | body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse(answer.text)


def counted(client: TestClient, outcome: str) -> float:
    """Requests to /moderate of that outcome so far."""
    name = f'tamis_request_duration_seconds_count{{outcome="{outcome}",route="/moderate"}} '
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line[len(name) :]) for line in lines if line.startswith(name))


def steady(answer: dict[str, Any], *changing: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in changing}


@pytest.mark.parametrize("item", ["Which shares?", {"prompt": "Which shares?", "response": "Tea."}])
@pytest.mark.parametrize("policy", [None, BANK])
def test_a_stream_says_what_an_answer_says(client, talkative, item, policy):
    asked = {"input": item, "policy": policy, "explain": "reason"}
    client.post("/moderate", json=asked)  # the policy is read, and from here on kept
    whole = client.post("/moderate", json=asked).json()
    explanation = whole.pop("explanation")
    events = ask(client, **asked)
    assert [name for name, _ in events] == ["verdict", "reason", "reason", "explanation"]
    assert steady(events[0][1], "id", "timings") == steady(whole, "id", "timings")
    assert events[0][1].keys() == whole.keys()
    assert [data for _, data in events[1:3]] == [{"text": piece} for piece in PIECES]
    assert steady(events[3][1], "ms") == steady(explanation, "ms")
    assert events[3][1]["reason"] == "".join(PIECES)
    assert events[3][1]["ms"] > 0


def test_a_malformed_generation_is_an_explanation_like_any_other(client):
    asked = {"input": "Which shares should I buy?", "policy": BANK, "explain": "reason"}
    client.post("/moderate", json=asked)
    whole = client.post("/moderate", json=asked).json()["explanation"]
    (_, _), (name, found) = ask(client, **asked)
    assert name == "explanation"
    assert found["status"] == "malformed"
    assert steady(found, "ms") == steady(whole, "ms")


def test_an_item_without_text_has_no_explanation(client):
    assert ask(client, input="  ")[1:] == [("explanation", None)]


def test_nobody_keeps_events_back_or_stores_them(client):
    answer = client.post("/moderate", json={"input": "x", "explain": "reason", "stream": True})
    assert "content-length" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert f"mod-{answer.headers['x-request-id']}" == parse(answer.text)[0][1]["id"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ["x"], "explain": "reason"}, "stream"),
        ({"input": "x"}, "stream"),
        ({"input": "x", "explain": "evidence"}, "stream"),
        ({"input": "x", "explain": "reason", "stream": "yes"}, "stream"),
        ({"input": "x", "explain": "reason", "policy": "none-such"}, "policy"),
        ({"input": "x", "explain": "reason", "policy": {"name": "p", "overall": {}}}, "policy"),
    ],
)
def test_what_cannot_stream_is_refused(client, body, param):
    answer = client.post("/moderate", json={"stream": True} | body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == param
    assert param in answer.json()["error"]["message"]


def test_stream_false_is_an_ordinary_answer(client):
    answer = client.post("/moderate", json={"input": "x", "stream": False})
    assert answer.json()["action"] == "allow"


def test_without_a_reasoner_nothing_begins(bundle):
    with TestClient(create_app(Settings(bundle=bundle.path, reasoner=None))) as client:
        wait_until_ready(client)
        answer = client.post("/moderate", json={"input": "x", "explain": "reason", "stream": True})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "reasoner_not_ready"


def test_a_text_too_long_for_the_reasoner_still_has_its_verdict(client):
    before = counted(client, "invalid")
    (first, verdict), (name, data) = ask(client, input="tea " * 2_000)
    assert (first, name) == ("verdict", "error")
    assert verdict["windows"] > 5
    assert data["error"]["code"] == "text_too_long"
    assert data["error"]["param"] == "input"
    assert "over the limit" in data["error"]["message"]
    assert counted(client, "invalid") == before + 1


FAILURES = [
    (OverloadedError("capacity", 2.0), "overloaded", "rate_limit_error", "overloaded"),
    (DeadlineError(), "deadline_exceeded", "server_error", "late"),
    (RuntimeError(f"failed on {CANARY}"), "internal_error", "server_error", "error"),
]


@pytest.mark.parametrize(
    ("failure", "code", "kind", "outcome"), FAILURES, ids=[f[1] for f in FAILURES]
)
def test_what_fails_behind_the_verdict_is_an_event(
    client, monkeypatch, caplog, failure, code, kind, outcome
):
    async def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr(Explainer, "run", failing)
    before = {name: counted(client, name) for name in (outcome, "ok")}
    with caplog.at_level(logging.DEBUG):
        (first, _), (name, data) = ask(client, input=CANARY)
    assert (first, name) == ("verdict", "error")
    assert data["error"].keys() == {"message", "type", "param", "code"}
    assert (data["error"]["code"], data["error"]["type"]) == (code, kind)
    assert CANARY not in caplog.text + str(data)
    # Requests are counted by how they ended, not by the 200 that they began with.
    assert counted(client, outcome) == before[outcome] + 1
    assert counted(client, "ok") == before["ok"]


def test_logs_hold_nothing_of_text_or_reason(client, talkative, caplog):
    with caplog.at_level(logging.DEBUG):
        assert ask(client, input=CANARY)[-1][0] == "explanation"
        for _ in range(200):  # the access log is written by a thread
            if records := [r for r in caplog.records if r.name == "tamis.access"]:
                break
            time.sleep(0.02)
    # The request before this one may be among them: it is written late, too.
    assert {vars(r)["fields"]["route"] for r in records} == {"/moderate"}
    assert not [r for r in caplog.records if CANARY in f"{r.getMessage()} {vars(r)}"]


@pytest.mark.parametrize("server", ["silent", "raising"])
async def test_a_client_who_leaves_ends_the_work(
    bundle, tiny_reasoner, obedient, monkeypatch, server
):
    """uvicorn ignores what is sent to who has left; servers since ASGI 2.4 raise OSError."""
    ended: list[type[Exception]] = []

    def endless(self, content, category, pause, most, emit):
        emit("It says")
        try:
            while True:
                pause()
                time.sleep(0.001)
        except Exception as error:
            ended.append(type(error))
            raise

    monkeypatch.setattr(engine.Reasoner, "_reason", endless)
    app = create_app(Settings(bundle=bundle.path, reasoner=tiny_reasoner, reasoner_seconds=600))
    async with app.router.lifespan_context(app):
        moderator = app.state.moderator
        async with asyncio.timeout(60):
            while moderator.serving.engine is None or moderator.reasoning.explainer is None:
                await asyncio.sleep(0.01)
        body = json.dumps({"input": "x", "explain": "reason", "stream": True}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[bytes] = []
        read = asyncio.Event()

        async def receive() -> Message:
            if messages:
                return messages.pop(0)
            await read.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))
            if b"event: reason" in sent[-1]:  # while the model is still writing
                read.set()
                if server == "raising":
                    raise OSError

        scope = {"type": "http", "method": "POST", "path": "/moderate", "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}
        scope |= {"server": ("test", 80), "root_path": ""}
        await asyncio.wait_for(app(scope, receive, send), 60)
        explainer = moderator.reasoning.explainer
        async with asyncio.timeout(60):
            while explainer.waiting:
                await asyncio.sleep(0.01)
        assert ended == [GivenUpError]
        names = [part.split(b"\n")[0] for part in sent if part]
        assert names == [b"event: verdict", b"event: reason"]
        await asyncio.sleep(0)  # counted in the loop's next turn
        metrics = moderator.metrics.scrape().decode()
    assert 'outcome="gone",route="/moderate"} 1.0' in metrics
