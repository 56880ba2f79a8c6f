"""A text that is too long is named as the request names it, in every dialect."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.dialects.registry import DIALECTS
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.wire import ENVOY, KIND, LITELLM, user

LONG = "tea " * 20
CHAT = [*user(KIND), {"role": "assistant", "content": LONG}]
CALLED = {"role": "assistant", "tool_calls": [{"function": {"arguments": LONG}}]}
CHOICES = [{"message": {"role": "assistant", "content": one}} for one in (KIND, LONG)]
BEFORE = {"eventType": "beforeRequestHook"}
AFTER = {"eventType": "afterRequestHook", "request": {"json": {"messages": user(KIND)}}}
REQUEST, RESPONSE = {"input_type": "request"}, {"input_type": "response"}
ANALYZE, SUGGEST = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore"
ASKED = {"comment": {"text": LONG}, "requestedAttributes": {"TOXICITY": {}}}
SAID = {"comment": {"text": LONG}, "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}}}
QUESTION = {"type": "predicate", "instructions": "It is about tea."}


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory) -> Iterator[TestClient]:
    store = str(tmp_path_factory.mktemp("kept") / "feedback.db")
    settings = Settings(bundle=bundle.path, max_text_characters=50, feedback=store)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


NAMED: list[tuple[str, Any, str]] = [
    ("/moderate", {"input": LONG}, "input"),
    ("/moderate", {"input": [KIND, {"text": LONG}]}, "input[1]"),
    ("/moderate", {"input": {"prompt": KIND, "response": LONG}}, "input.response"),
    ("/moderate", {"input": {"messages": CHAT}}, "input.messages[1].content"),
    ("/moderate/stream/{name}", {"text": LONG, "final": True}, "text"),
    ("/feedback", {"input": {"prompt": LONG}, "label": "safe"}, "input.prompt"),
    ("/v1/moderations", {"input": LONG}, "input"),
    ("/v1/moderations", {"input": [KIND, LONG]}, "input[1]"),
    (
        "/v1/moderations",
        {"input": [{"type": "text", "text": t} for t in (KIND, LONG)]},
        "input[1].text",
    ),
    ("/v1/chat/moderations", {"input": CHAT}, "input[1].content"),
    ("/v1/chat/moderations", {"input": [user(KIND), CHAT]}, "input[1][1].content"),
    ("/v1/chat/completions", {"messages": CHAT}, "messages[1].content"),
    (
        "/v1/chat/completions",
        {"messages": [*user(LONG), {"role": "assistant", "content": KIND}]},
        "messages[1].content",
    ),
    ("/v1/decisions", {"input": LONG, "questions": [QUESTION]}, "input"),
    (LITELLM, REQUEST | {"texts": [LONG]}, "texts[0]"),
    (LITELLM, RESPONSE | {"texts": [LONG]}, "texts[0]"),
    (LITELLM, RESPONSE | {"texts": [KIND, LONG], "litellm_call_id": "a"}, "texts[1]"),
    (LITELLM, REQUEST | {"structured_messages": user(LONG)}, "structured_messages[0].content"),
    (
        "/portkey",
        BEFORE | {"request": {"json": {"messages": user(LONG)}}},
        "request.json.messages[0].content",
    ),
    ("/portkey", BEFORE | {"request": {"json": {}, "text": LONG}}, "request.text"),
    (
        "/portkey",
        AFTER | {"response": {"json": {"choices": CHOICES}}},
        "response.json.choices[1].message.content",
    ),
    ("/portkey", AFTER | {"response": {"text": LONG}}, "response.text"),
    ("/request", {"body": {"messages": user(LONG)}}, "body.messages[0].content"),
    ("/response", {"body": {"choices": CHOICES}}, "body.choices[1].message.content"),
    ("/response", {"body": {"choices": [{"text": KIND}, {"text": LONG}]}}, "body.choices[1].text"),
    ("/response", {"body": {"content": LONG}}, "body.content"),
    (
        "/response",
        {"body": {"output": [{"type": "function_call", "arguments": LONG}]}},
        "body.output[0].arguments",
    ),
    (
        "/response",
        {"body": {"choices": [{"message": CALLED}]}},
        "body.choices[0].message.tool_calls[0].function.arguments",
    ),
    (ENVOY, {"messages": user(LONG)}, "messages[0].content"),
    (ENVOY, {"prompt": [KIND, LONG]}, "prompt[1]"),
    ("/api/v1/text/contents", {"contents": [KIND, LONG]}, "contents[1]"),
    ("/api/v1/text/chat", {"messages": CHAT}, "messages[1].content"),
    ("/api/v1/text/generation", {"prompt": KIND, "generated_text": LONG}, "generated_text"),
    ("/classify", {"input": LONG}, "input"),
    ("/classify", {"input": [KIND, LONG]}, "input[1]"),
    ("/predict", {"inputs": LONG}, "inputs"),
    ("/predict", {"inputs": [[KIND], [KIND, LONG]]}, "inputs[1]"),
    ("/contentsafety/text:analyze", {"text": LONG}, "text"),
    (ANALYZE, ASKED, "comment.text"),
    (SUGGEST, SAID, "comment.text"),
]


@pytest.mark.parametrize(("path", "body", "param"), NAMED)
def test_a_text_that_is_too_long_is_named_as_it_was_sent(client, path: str, body: Any, param: str):
    answer = client.post(path.format(name="call"), json=body)
    assert answer.status_code == 400, answer.text
    said = answer.json().get("error", answer.json())
    message = said if isinstance(said, str) else said["message"]
    assert message.startswith(f"{param}: "), message
    assert "over the limit of 50" in message
    assert isinstance(said, str) or said.get("param", param) == param


def test_every_route_that_judges_is_there():
    judging = {path for dialect in DIALECTS for path in dialect.judging}
    assert judging - {path for path, _, _ in NAMED} == {"/ext-authz/{path:path}"}
