"""Hooks that may rewrite what a gateway sends on: Portkey's and agentgateway's."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.errors import RequestError
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.test_gateways import post
from tests.service.wire import KIND, RUDE, user

MAIL = "Write to jane.roe@example.org today."
HIDDEN = "Write to [EMAIL] today."
POLICIES = {
    "hiding": {"overall": {"flag": 0.99, "block": 0.99}, "mask": {"pii": ["email"]}},
    "quoting": {
        "categories": {"toxicity": {"flag": 0.2, "block": 1.0}},
        "mask": {"evidence": True},
    },
    "stopping": {"overall": {"flag": 0.2, "block": 0.2}, "mask": {"pii": ["email"]}},
    "trying": {"mode": "score", "overall": {}, "mask": {"pii": ["email"]}},
}
CHAT = [
    {"role": "system", "content": MAIL},
    {"role": "user", "content": [{"type": "text", "text": MAIL}, {"type": "image_url"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": MAIL}}]},
    {"role": "tool", "content": [{"type": "text", "text": f"a\n{MAIL}"}]},
]
SHOWN = deepcopy(CHAT)
SHOWN[0]["content"] = SHOWN[1]["content"][0]["text"] = HIDDEN  # type: ignore[index]
SHOWN[3]["content"][0]["text"] = f"a\n{HIDDEN}"  # type: ignore[index]


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("policies")
    for name, policy in POLICIES.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name} | policy))
    settings = Settings(bundle=bundle.path, policies=folder, reasoner=None)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def portkey(client: TestClient, policy: str, sent: Any, received: Any = None) -> Any:
    event = "beforeRequestHook" if received is None else "afterRequestHook"
    body = {"request": {"json": sent}, "response": {"json": received}, "eventType": event}
    return post(client, "/portkey", body, **{"x-tamis-policy": policy})


def test_portkey_is_given_the_request_with_every_text_masked(client):
    sent = {"messages": CHAT, "model": "x", "temperature": 0.5, "stop": [MAIL]}
    said = portkey(client, "hiding", sent)
    assert said["verdict"] is True
    assert said["transformedData"] == {"request": {"json": sent | {"messages": SHOWN}}}
    assert "transformedData" not in portkey(client, "hiding", {"messages": user(KIND)})
    assert "transformedData" not in portkey(client, "default", sent)
    assert "transformedData" not in portkey(client, "trying", sent)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"prompt": MAIL}, {"prompt": HIDDEN}),
        ({"prompt": [KIND, MAIL]}, {"prompt": [KIND, HIDDEN]}),
        ({"input": [MAIL]}, {"input": [HIDDEN]}),
        (
            {"prompt": {"id": MAIL, "variables": {"a": MAIL, "b": {"text": MAIL}}}},
            {"prompt": {"id": MAIL, "variables": {"a": HIDDEN, "b": {"text": HIDDEN}}}},
        ),
        (
            {"input": user(MAIL), "instructions": MAIL},
            {"input": user(HIDDEN), "instructions": HIDDEN},
        ),
        (
            {"system": [{"type": "text", "text": MAIL}], "messages": user(MAIL)},
            {"system": [{"type": "text", "text": HIDDEN}], "messages": user(HIDDEN)},
        ),
        (
            {"messages": user([{"type": "document", "source": {"type": "text", "data": MAIL}}])},
            {"messages": user([{"type": "document", "source": {"type": "text", "data": HIDDEN}}])},
        ),
        (
            {"messages": user([{"type": "document", "title": MAIL, "context": MAIL}])},
            {"messages": user([{"type": "document", "title": HIDDEN, "context": HIDDEN}])},
        ),
        (
            {"input": [{"type": "shell_call_output", "output": [{"stdout": MAIL}]}]},
            {"input": [{"type": "shell_call_output", "output": [{"stdout": HIDDEN}]}]},
        ),
        (
            {"messages": user([{"type": "tool_result", "content": MAIL}])},
            {"messages": user([{"type": "tool_result", "content": HIDDEN}])},
        ),
    ],
)
def test_texts_of_every_api_are_masked_in_their_places(client, sent: Any, shown: Any):
    said = portkey(client, "hiding", sent)
    assert said["transformedData"] == {"request": {"json": shown}}


@pytest.mark.parametrize(
    ("received", "shown"),
    [
        (
            {"choices": [{"message": {"role": "assistant", "content": MAIL}}], "id": MAIL},
            {"choices": [{"message": {"role": "assistant", "content": HIDDEN}}], "id": MAIL},
        ),
        ({"choices": [{"text": MAIL}]}, {"choices": [{"text": HIDDEN}]}),
        (
            {"choices": [{"message": {"content": None, "audio": {"transcript": MAIL}}}]},
            {"choices": [{"message": {"content": None, "audio": {"transcript": HIDDEN}}}]},
        ),
        (
            {"content": [{"type": "text", "text": MAIL}, {"type": "image"}]},
            {"content": [{"type": "text", "text": HIDDEN}, {"type": "image"}]},
        ),
        (
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": MAIL}]}]},
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": HIDDEN}]}]},
        ),
    ],
)
def test_an_answer_is_masked_and_its_request_left_alone(client, received: Any, shown: Any):
    said = portkey(client, "hiding", {"messages": user(MAIL)}, received)
    assert said["transformedData"] == {"response": {"json": shown}}


def test_what_is_blocked_is_not_rewritten(client, monkeypatch):
    """What cannot be masked is an error, which Portkey takes for leave."""

    async def fails(*_: Any) -> None:
        raise RequestError("too many parts")

    monkeypatch.setattr("service.dialects.portkey.rewritten", fails)
    assert portkey(client, "default", {"messages": user(RUDE)})["verdict"] is False


def test_half_of_a_surrogate_pair_is_sent_on_as_it_was_read(client):
    sent = json.dumps({"json": {"prompt": f"{MAIL} \ud83d"}})
    body = f'{{"request": {sent}, "eventType": "beforeRequestHook"}}'
    answer = client.post("/portkey", content=body, headers={"x-tamis-policy": "hiding"})
    shown = {"request": {"json": {"prompt": f"{HIDDEN} \ufffd"}}}
    assert answer.json()["transformedData"] == shown


def test_evidence_is_masked_where_it_stands(client):
    parts = [{"type": "text", "text": KIND}, {"type": "text", "text": RUDE}]
    said = portkey(client, "quoting", {"messages": user(parts)})
    assert said["data"]["flagged"]
    kind, rude = said["transformedData"]["request"]["json"]["messages"][0]["content"]
    assert kind["text"] == KIND
    assert "[TOXICITY]" in rude["text"]
    assert "worthless" not in rude["text"]


def test_what_is_blocked_is_not_sent_on_at_all(client):
    sent, policy = {"messages": user(f"{RUDE} {MAIL}")}, {"x-tamis-policy": "stopping"}
    said = portkey(client, "stopping", sent)
    assert said["verdict"] is False
    assert "transformedData" not in said
    refused = post(client, "/request", {"body": sent}, **policy)["action"]
    assert refused["status_code"] == 403
    assert isinstance(refused["body"], str)


def test_agentgateway_masks_by_shape(client):
    hiding = {"x-tamis-policy": "hiding"}
    asked = post(client, "/request", {"body": {"messages": CHAT}}, **hiding)
    assert asked == {"action": {"body": {"messages": SHOWN}, "reason": "masked"}}
    choices = [{"message": {"role": "assistant", "content": MAIL}}]
    answered = post(client, "/response", {"body": {"choices": choices}}, **hiding)["action"]
    assert answered["body"]["choices"][0]["message"]["content"] == HIDDEN
    assert "status_code" not in answered
    kind = post(client, "/request", {"body": {"messages": user(KIND)}}, **hiding)
    assert kind == {"action": {"reason": "allow"}}


def test_numbers_that_json_cannot_say_are_no_failure_of_ours(client):
    for number in (b"NaN", b"1e400", b"-Infinity"):
        body = {"request": {"json": {"messages": user(MAIL), "n": "N"}}}
        blob = json.dumps(body | {"eventType": "beforeRequestHook"}).encode()
        answer = client.post(
            "/portkey", content=blob.replace(b'"N"', number), headers={"x-tamis-policy": "hiding"}
        )
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            assert answer.json()["transformedData"]["request"]["json"]["n"] is None
