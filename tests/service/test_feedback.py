import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.access import new_key
from service.app import create_app
from service.engine.engine import Engine
from service.engine.scheduler import OverloadedError
from service.errors import RequestError
from service.feedback import AT_ONCE, Feedback
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.content import prompt
from tamis.corrections.record import CATEGORIES, Correction
from tamis.corrections.store import SqliteStore, StoreError, read_corrections
from tests.service.test_app import wait_until_ready

CANARY = "zebra-canary-9f3"
GOOSE = "Tell my sister she is a worthless, ugly idiot."
HI = {"prompt": "hi", "response": "Go away, goose."}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "feedback.sqlite"


@pytest.fixture(scope="module")
def client(bundle, place: Path) -> Iterator[TestClient]:
    app = create_app(Settings(bundle=bundle.path, max_text_characters=2_000, feedback=str(place)))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def kept(place: Path, found: dict[str, Any]) -> Correction:
    return next(c for c in read_corrections(str(place)) if c.id == found["id"])


def test_a_correction_is_kept_with_the_services_own_verdict(client, place):
    verdict = client.post("/moderate", json={"input": GOOSE}).json()
    answer = client.post(
        "/feedback",
        json={
            "input": GOOSE,
            "label": "unsafe",
            "categories": ["harassment", "harassment"],
            "toxicity": True,
            "attack": False,
            "comment": "an insult",
            "reviewer": "ana",
            "id": verdict["id"],
            "policy": "default",
        },
    )
    assert answer.status_code == 201
    found = answer.json()
    assert found == {"id": found["id"], "stored": True, "agrees": True}
    record = kept(place, found)
    assert (record.content.question, record.content.text) == ("prompt", GOOSE)
    assert record.answers == {"prompt": True, "toxicity": True, "attack": False}
    assert record.categories == ("harassment",)
    assert (record.reviewer, record.key, record.comment) == ("ana", None, "an insult")
    assert record.verdict_id == verdict["id"]
    said = dict(record.verdict or {})
    for name in ("action", "score", "threshold", "categories", "attack", "model", "policy"):
        assert said[name] == verdict[name]
    assert "evidence" not in said


@pytest.mark.parametrize(
    ("given", "field", "question", "text", "context"),
    [
        (HI, None, "response", HI["response"], "hi"),
        (HI, "response", "response", HI["response"], "hi"),
        (HI, "prompt", "prompt", "hi", None),
        ({"prompt": "hi"}, None, "prompt", "hi", None),
        ("hi", "text", "prompt", "hi", None),
        ({"text": "hi"}, None, "toxicity", "hi", None),
        ({"text": "hi"}, "text", "toxicity", "hi", None),
    ],
)
def test_the_field_says_which_content_is_meant(
    client, place, given, field, question, text, context
):
    record = kept(place, post(client, input=given, field=field, label="safe"))
    assert (record.content.question, record.content.text) == (question, text)
    assert record.content.context == context


def test_of_a_conversation_what_was_judged_is_kept_and_what_it_was_read_behind(client, place):
    turns = ["old question", "old answer", "new question", "new answer", "and more"]
    turns[0] += " of long ago" * 40
    messages = [
        {"role": "user" if n in (0, 2) else "assistant", "content": turn}
        for n, turn in enumerate(turns)
    ]
    given = {"messages": messages}
    for field, text in (
        (None, "and more"),
        ("response", "and more"),
        ("prompt", "new question"),
        ("messages[3].content", "new answer"),
    ):
        record = kept(place, post(client, input=given, field=field, label="safe"))
        assert record.content.text == text
        context = record.content.context
        assert context is not None
        assert "old answer" in context
        assert "old question" not in context
        assert ("new question" in context) == (text != "new question")


def test_saying_it_again_replaces_what_was_said(client, place):
    def said(**more: Any) -> str:
        return post(client, input="A calm pond.", **more)["id"]

    first = said(label="unsafe", reviewer="ana")
    assert said(label="safe", reviewer="ana", id="mod-2") == first
    assert said(label="safe", reviewer="ben") != first
    found = [c for c in read_corrections(str(place)) if c.content.text == "A calm pond."]
    assert sorted((c.reviewer, c.label) for c in found) == [("ana", "safe"), ("ben", "safe")]


def test_it_says_whether_the_service_agrees(client):
    assert not post(client, input=GOOSE, label="safe", reviewer="x")["agrees"]
    assert post(client, input={"text": GOOSE}, label="unsafe")["agrees"]
    assert post(client, input="What is a good soup?", label="safe")["agrees"]
    assert not post(client, input="What is a good soup?", attack=True)["agrees"]


REFUSED = [
    ({"label": "safe"}, "input", "required"),
    ({"input": ["x"], "label": "safe"}, "input", "must be a text"),
    ({"input": "x"}, "label", "is missing"),
    ({"input": "x", "label": "bad"}, "label", "'safe' or 'unsafe'"),
    ({"input": "x", "lable": "safe"}, "lable", "not permitted"),
    ({"input": "x", "label": "safe", "single": 1}, "single", "not permitted"),
    ({"input": " ", "label": "safe"}, "input", "blank"),
    ({"input": "x" * 2_001, "label": "safe"}, "input", "over the limit of 2000"),
    (
        {"input": {"prompt": "x" * 2_001, "response": "x"}, "label": "safe"},
        "input.prompt",
        "over the limit of 2000",
    ),
    ({"input": "x", "label": "safe", "categories": ["hate"]}, "categories", "only what is unsafe"),
    ({"input": "x", "label": "unsafe", "categories": ["evil"]}, "categories", "must be of hate"),
    ({"input": "x", "label": "unsafe", "categories": "hate"}, "categories", "valid array"),
    (
        {"input": "x", "label": "unsafe", "categories": ["hate"] * 99},
        "categories",
        f"at most {len(CATEGORIES)} items",
    ),
    ({"input": {"text": "x"}, "attack": True}, "attack", "only a prompt"),
    ({"input": HI, "toxicity": True}, "toxicity", "of prompts only"),
    ({"input": "x", "label": "safe", "field": "response"}, "field", "it has text"),
    (
        {"input": {"messages": [{"role": "tool", "content": ""}]}, "label": "safe"},
        "input",
        "ever judged",
    ),
    ({"input": "x", "label": "safe", "comment": "x" * 2_001}, "comment", "at most 2000"),
    ({"input": "x", "label": "safe", "reviewer": "x" * 129}, "reviewer", "at most 128"),
    ({"input": "x", "label": "safe", "reviewer": ""}, "reviewer", "at least 1"),
    ({"input": "x", "label": "safe", "reviewer": "a\x1b[2J"}, "reviewer", "match pattern"),
    ({"input": "x", "label": "safe", "reviewer": "a\x9b2J"}, "reviewer", "match pattern"),
    ({"input": "x", "label": "safe", "policy": "nope"}, "policy", "known: default"),
    ([], None, "object"),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED)
def test_bad_input_names_the_field_and_the_limit(client, place, body, param, message):
    post(client, input="hi", label="safe")
    before = len(list(read_corrections(str(place))))
    answer = client.post("/feedback", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert message in error["message"]
    assert len(list(read_corrections(str(place)))) == before


def test_what_is_not_json_is_refused(client):
    for body in (b"", b'{"input": "cut', b'{"input": "\\ud8", "label": "safe"}'):
        answer = client.post("/feedback", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"
    assert client.get("/feedback").status_code == 405


def test_any_text_that_can_be_judged_can_be_kept(client, place):
    for text in ("nul \x00 inside", "emoji 🪿", "'; DROP TABLE x; --"):
        assert kept(place, post(client, input=text, label="safe")).content.text == text


def test_corrections_are_counted_by_label_and_agreement(client):
    def count(label: str, agrees: str) -> float:
        wanted = f'tamis_feedback_total{{agrees="{agrees}",label="{label}"}} '
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = [count("safe", "true"), count("unsafe", "false"), count("none", "false")]
    post(client, input="What is a good soup?", label="safe")
    post(client, input="What is a good soup?", label="unsafe")
    post(client, input="What is a good soup?", attack=True)
    after = [count("safe", "true"), count("unsafe", "false"), count("none", "false")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
    assert 'outcome="ok",route="/feedback"' in client.get("/metrics").text


def test_text_is_in_the_store_and_nowhere_else(client, place, caplog):
    with caplog.at_level(logging.DEBUG):
        good = client.post(
            "/feedback",
            json={"input": {"prompt": CANARY, "response": CANARY + " no"}, "label": "unsafe"}
            | {"comment": CANARY, "reviewer": "ana " + CANARY},
        )
        bad = client.post("/feedback", json={"input": CANARY, "categories": [CANARY]})
        worse = client.post("/feedback", json={"input": CANARY, "field": CANARY, "label": CANARY})
    assert (good.status_code, bad.status_code, worse.status_code) == (201, 400, 400)
    seen = caplog.text + good.text + bad.text + worse.text + client.get("/metrics").text
    assert CANARY not in seen
    assert kept(place, good.json()).content.context == CANARY


@pytest.mark.parametrize("place", ["mysql://u@h/d", "corrections.jsonl.gz"])
def test_what_can_be_no_store_is_refused_at_the_start(settings, place):
    with pytest.raises(ValueError, match="TAMIS_FEEDBACK: "):
        create_app(settings.model_copy(update={"feedback": place}))


def test_off_stores_nothing():
    assert Settings(feedback="off").feedback == ""


def test_an_overloaded_service_says_when_to_come_back(client, place, monkeypatch):
    async def full(*_: object, **__: object) -> None:
        raise OverloadedError("capacity", 2.5)

    monkeypatch.setattr(Engine, "judge", full)
    before = len(list(read_corrections(str(place))))
    answer = client.post("/feedback", json={"input": "x", "label": "safe"})
    assert answer.status_code == 429
    assert "retry-after" in answer.headers
    assert len(list(read_corrections(str(place)))) == before


def serving(settings: Settings, feedback: str) -> TestClient:
    app = create_app(settings.model_copy(update={"feedback": feedback}))
    return TestClient(app, raise_server_exceptions=False)


def test_a_policy_that_only_scores_is_compared_as_if_it_acted(settings, tmp_path):
    settings.policies = tmp_path
    quiet = {"name": "quiet", "mode": "score", "overall": {}, "categories": {"toxicity": {}}}
    kinds = {"name": "kinds", "mode": "score", "categories": {"harassment": {"flag": 0.1}}}
    for policy in (quiet, kinds):
        (tmp_path / f"{policy['name']}.yaml").write_text(yaml.safe_dump(policy))
    with serving(settings, str(tmp_path / "feedback.sqlite")) as client:
        wait_until_ready(client)
        for policy in ("quiet", "kinds"):
            assert post(client, input=GOOSE, label="unsafe", policy=policy)["agrees"]
            assert not post(client, input=GOOSE, label="safe", policy=policy)["agrees"]
        assert not post(client, input=GOOSE, toxicity=False, policy="quiet")["agrees"]
        # It does not ask about toxicity, so it says nothing of it.
        assert post(client, input=GOOSE, toxicity=False, policy="kinds")["agrees"]


def test_a_key_needs_the_scope_and_is_kept_by_name(settings, tmp_path):
    place = tmp_path / "feedback.sqlite"
    settings.keys = tmp_path / "keys.yaml"
    tool, one = new_key("review-tool")
    gateway, other = new_key("gateway", scopes=["moderate"])
    settings.keys.write_text(yaml.safe_dump([one, other]))
    body = {"input": "x", "label": "safe"}
    with serving(settings, str(place)) as client:
        wait_until_ready(client)
        refused = client.post("/feedback", json=body, headers={"x-api-key": gateway})
        taken = client.post("/feedback", json=body, headers={"x-api-key": tool})
    assert refused.status_code == 403
    assert taken.status_code == 201
    assert [c.key for c in read_corrections(str(place))] == ["review-tool"]


def test_an_empty_setting_turns_it_off(settings):
    with serving(settings, "") as client:
        answer = client.post("/feedback", content=b"not even read")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "feedback_off"


def test_a_place_that_cannot_be_written_is_a_503_and_logged_once(settings, tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with serving(settings, f"{file}/feedback.sqlite") as client:
        wait_until_ready(client)
        answers = [client.post("/feedback", json={"input": "x", "label": "safe"}) for _ in "abc"]
        assert client.post("/moderate", json={"input": "x"}).status_code == 200
        metrics = client.get("/metrics").text
        file.unlink()
        after = client.post("/feedback", json={"input": "x", "label": "safe"})
    assert [answer.status_code for answer in answers] == [503] * 3
    error = answers[0].json()["error"]
    assert error["code"] == "feedback_unavailable"
    assert str(file) not in error["message"]
    assert caplog.text.count("feedback cannot be stored") == 1
    assert "tamis_feedback_total{" not in metrics
    # Put right, it works again, without a restart.
    assert after.status_code == 201


def test_a_store_that_stays_locked_is_a_503(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("tamis.corrections.store.PATIENCE", 0.1)
    place = tmp_path / "feedback.sqlite"
    with serving(settings, str(place)) as client:
        wait_until_ready(client)
        assert client.post("/feedback", json={"input": "x", "label": "safe"}).status_code == 201
        locker = sqlite3.connect(place, isolation_level=None)
        try:
            locker.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            answer = client.post("/feedback", json={"input": "y", "label": "safe"})
        finally:
            locker.close()
    assert answer.status_code == 503
    assert time.monotonic() - began < 60
    assert len(list(read_corrections(str(place)))) == 1


async def test_who_waits_for_a_store_that_does_not_answer_gets_a_503(monkeypatch, caplog):
    monkeypatch.setattr("service.feedback.PATIENCE", 0.05)
    answered = threading.Event()
    monkeypatch.setattr(SqliteStore, "save", lambda *_: answered.wait(30))
    feedback = Feedback("feedback.sqlite", Metrics())
    correction = Correction(content=prompt("x"), time=datetime.now(UTC), label="safe")
    stuck = [asyncio.create_task(feedback.keep(correction)) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)
    waiting = [feedback.keep(correction) for _ in range(3)]
    for refused in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(refused, RequestError)
        assert (refused.status, refused.code) == (503, "feedback_unavailable")
    answered.set()
    await asyncio.gather(*stuck)
    await feedback.keep(correction)
    assert caplog.text.count("feedback cannot be stored") == 1


def test_nothing_is_written_before_the_first_correction(settings, tmp_path):
    place = tmp_path / "state" / "feedback.sqlite"
    with serving(settings, str(place)) as client:
        wait_until_ready(client)
        client.post("/moderate", json={"input": "x"})
    assert not place.parent.exists()
    with pytest.raises(StoreError):
        list(read_corrections(str(place)))


def test_openapi_describes_it(client):
    described = client.get("/openapi.json").json()["paths"]["/feedback"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["categories"]["items"]["enum"] == list(CATEGORIES)
    assert "201" in described["responses"]


def test_the_setting_does_not_show_its_password():
    settings = Settings(feedback="postgresql://tamis:pa55word@db/tamis")
    assert "pa55word" not in repr(settings)
