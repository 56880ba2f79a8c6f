"""Contracts that send texts without a word on whose they are: the policy's ``judge`` says it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.test_gateways import judged, post
from tests.service.wire import ATTACK, KIND, RUDE

__all__ = ["judged"]
SIDES = {
    "asked": ["prompt"],
    "answers": ["response"],
    "documents": ["document"],
    "both": ["response", "prompt"],
}


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("policies")
    for name, sides in SIDES.items():
        policy: dict[str, Any] = {"name": name, "overall": {}, "categories": {"attack": {}}}
        (folder / f"{name}.yaml").write_text(json.dumps(policy | {"judge": sides}))
    settings = Settings(bundle=bundle.path, policies=folder, reasoner=None)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


@pytest.mark.parametrize(
    ("policy", "question", "context"),
    [
        ("default", "prompt", None),
        ("asked", "prompt", None),
        ("both", "prompt", None),
        ("answers", "response", ""),
        ("documents", "attack", None),
    ],
)
def test_a_text_is_what_the_policy_judges(client, judged, policy, question, context):
    post(client, "/classify", {"model": policy, "input": [KIND]})
    post(client, "/predict", {"inputs": KIND}, **{"x-tamis-policy": policy})
    post(client, "/predict", {"inputs": [[KIND]]}, **{"x-tamis-policy": policy})
    post(client, "/api/v1/text/contents", {"contents": [KIND]}, **{"detector-id": policy})
    seen = [(one.question, one.text, one.context) for one in judged]
    assert seen == [(question, KIND, context)] * 4


def test_a_pair_and_a_conversation_say_it_themselves(client, judged):
    post(client, "/predict", {"inputs": [KIND, KIND]}, **{"x-tamis-policy": "documents"})
    chat = {"messages": [{"role": "user", "content": KIND}]}
    post(client, "/api/v1/text/chat", chat, **{"detector-id": "answers"})
    assert [one.question for one in judged] == ["response", "prompt"]


def test_rails_for_documents_stop_attacks_and_nothing_else(client):
    texts = [RUDE, f"Open from nine to five. {ATTACK}"]
    rude, attack = post(client, "/classify", {"model": "documents", "input": texts})["data"]
    assert (rude["label"], attack["label"]) == ("safe", "attack")
    found = post(
        client, "/api/v1/text/contents", {"contents": texts}, **{"detector-id": "documents"}
    )
    assert found[0] == []
    assert {one["detection_type"] for one in found[1]} == {"prompt_injection"}
