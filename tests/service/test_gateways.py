"""What is judged follows the hook: requests on their way in, answers alone on their way out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.dialects import llamaguard
from service.dialects.chat import ChatRequest, ChatResponse, Message
from service.moderation.moderator import Moderator
from service.settings import Settings
from tamis.content import Asked, Content, response
from tests.service.test_app import wait_until_ready
from tests.service.wire import ATTACK, ENVOY, KIND, LITELLM, RUDE, user


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    with TestClient(
        create_app(Settings(bundle=bundle.path)), raise_server_exceptions=False
    ) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture
def judged(monkeypatch) -> list[Content]:
    """What a request had judged."""
    seen: list[Content] = []
    real = Moderator.judge

    async def spy(self: Moderator, request: Any, items: Any, *more: Any, **named: Any) -> Any:
        seen.extend(content for _, contents in items for content in contents)
        return await real(self, request, items, *more, **named)

    growing = Moderator.judge_growing

    async def spy_growing(self: Moderator, request: Any, texts: Any, *more: Any) -> Any:
        seen.extend(content for content, _ in texts)
        return await growing(self, request, texts, *more)

    monkeypatch.setattr(Moderator, "judge", spy)
    monkeypatch.setattr(Moderator, "judge_growing", spy_growing)
    return seen


def post(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.content else None


def call(name: str = "read", arguments: Any = '{"page": "a"}') -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


# ---- conversations

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "By 'tea' I mean the pond."},
    {"role": "assistant", "content": "Good, tea is the pond."},
    {"role": "user", "content": "How deep is the tea?"},
]
ANSWERED = [*CHAT, {"role": "assistant", "content": "Two metres."}]
EARLIER_TURNS = "By 'tea' I mean the pond.\nGood, tea is the pond."
IN_ITS_LIGHT = ("prompt", "How deep is the tea?", EARLIER_TURNS)
BOTH = f"{EARLIER_TURNS}\nHow deep is the tea?"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/moderate", {"input": {"messages": CHAT}}),
        ("/v1/chat/moderations", {"input": CHAT}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/api/v1/text/chat", {"messages": CHAT}),
        (LITELLM, {"input_type": "request", "structured_messages": CHAT}),
        ("/portkey", {"request": {"json": {"messages": CHAT}}, "eventType": "beforeRequestHook"}),
        ("/request", {"body": {"messages": CHAT}}),
        (ENVOY, {"messages": CHAT}),
        (ENVOY.replace("chat/completions", "responses"), {"input": CHAT}),
    ],
)
def test_every_dialect_of_chats_judges_the_last_request_in_the_light_of_the_others(
    client, judged, path, body
):
    post(client, path, body)
    assert [(c.question, c.text, c.context) for c in judged] == [IN_ITS_LIGHT]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/moderate", {"input": {"messages": ANSWERED}, "judge": ["response"]}),
        ("/v1/chat/moderations", {"input": [ANSWERED]}),
        ("/v1/chat/completions", {"messages": ANSWERED}),
        ("/api/v1/text/chat", {"messages": ANSWERED}),
        (
            "/portkey",
            {
                "request": {"json": {"messages": CHAT}},
                "response": {"json": {"choices": [{"message": ANSWERED[-1]}]}},
                "eventType": "afterRequestHook",
            },
        ),
        (
            "/portkey",
            {
                "request": {"json": {"messages": CHAT}},
                "response": {"text": "Two metres."},
                "eventType": "afterRequestHook",
            },
        ),
    ],
)
def test_every_dialect_of_chats_judges_an_answer_in_the_light_of_all_before(
    client, judged, path, body
):
    post(client, path, body)
    assert [(c.question, c.text, c.context) for c in judged] == [("response", "Two metres.", BOTH)]


# ---- Portkey


def test_portkey_judges_what_the_event_is_about(client, judged):
    body = {
        "request": {"json": {"messages": user(RUDE)}, "text": RUDE, "isTransformed": False},
        "response": {
            "json": {"choices": [{"message": {"role": "assistant", "content": "Good day."}}]},
            "text": "Good day.",
            "statusCode": 200,
        },
        "provider": "openai",
        "requestType": "chatComplete",
        "metadata": {},
        "eventType": "beforeRequestHook",
    }
    said = post(client, "/portkey", body)
    assert said["verdict"] is False
    assert said["data"]["action"] == "block"
    assert RUDE not in json.dumps(said)
    assert [c.question for c in judged] == ["prompt"]
    del judged[:]
    post(client, "/portkey", body | {"eventType": "afterRequestHook"})
    assert judged == [response("Good day.", RUDE, "choices[0].message.content")]


def test_portkey_of_a_form_that_is_not_known_judges_its_text(client, judged):
    body: dict[str, Any] = {
        "request": {"json": {"contents": []}, "text": RUDE},
        "response": {"json": {"candidates": []}, "text": KIND},
        "eventType": "beforeRequestHook",
    }
    assert post(client, "/portkey", body)["verdict"] is False
    post(client, "/portkey", body | {"eventType": "afterRequestHook"})
    assert judged[-1] == response(KIND, RUDE, "response.text")


# ---- agentgateway


def test_agentgateway_passes_or_rejects_by_shape(client, judged):
    """Its own types: ``{body: messages}`` masks, ``{body: text, status_code}`` rejects."""
    passed = post(client, "/request", {"body": {"messages": user(KIND)}})
    assert passed == {"action": {"reason": "allow"}}
    refused = post(client, "/request", {"body": {"messages": user(RUDE)}})["action"]
    assert set(refused) == {"body", "status_code", "reason"}
    assert (refused["status_code"], type(refused["body"])) == (403, str)
    choices = [{"message": {"role": "assistant", "content": RUDE}}, {"message": {"content": KIND}}]
    answered = post(client, "/response", {"body": {"choices": choices}})["action"]
    assert answered["status_code"] == 403
    assert [(c.question, c.context) for c in judged[2:]] == [("response", "")] * 2


# ---- Envoy


def test_envoy_lets_what_asks_nothing_through(client, judged):
    assert client.get("/ext-authz/v1/models").status_code == 200
    assert client.post("/ext-authz/v1/files").status_code == 200
    assert judged == []


def test_envoy_judges_every_kind_of_request_to_a_model(client, judged):
    for path, body in {
        "chat/completions": {"messages": user(RUDE), "model": "x", "stream": True},
        "completions": {"prompt": RUDE},
        "responses": {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": RUDE}]}]
        },
        "embeddings": {"input": [KIND, RUDE]},
        "messages": {"system": "x", "messages": user([{"type": "text", "text": RUDE}])},
    }.items():
        refused = client.post(f"/ext-authz/v1/{path}", json=body)
        assert refused.status_code == 403, path
        assert refused.json()["error"]["code"] == "content_blocked"
        assert refused.headers["x-tamis-action"] == "block"
        assert RUDE not in refused.text
    assert client.post(ENVOY, json={"query": RUDE}).status_code == 400
    assert len(judged) == 6


def test_envoy_refuses_what_is_cut_unless_told_to_judge_it(client, bundle):
    whole = json.dumps({"messages": user(f"{RUDE} {RUDE} € {KIND}")}, ensure_ascii=False).encode()
    cut = {"x-envoy-auth-partial-body": "true"}
    refused = client.post(ENVOY, content=whole[:90], headers=cut)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    settings = Settings(bundle=bundle.path, partial_bodies="judge")
    with TestClient(create_app(settings), raise_server_exceptions=False) as judging:
        wait_until_ready(judging)
        at = whole.index("€".encode())
        for end in (at, at + 1, at + 2, len(whole) - 2):
            found = judging.post(ENVOY, content=whole[:end], headers=cut)
            assert (found.status_code, found.json()["error"]["code"]) == (403, "content_blocked")
        kind = json.dumps({"messages": user(KIND * 9)}).encode()
        assert judging.post(ENVOY, content=kind[:90], headers=cut).status_code == 200
        for nothing in (b'{"mess', b'{"model": "x', b"\xff\xfe", b"nonsense"):
            assert judging.post(ENVOY, content=nothing, headers=cut).status_code == 400


# ---- detectors


def test_detections_quote_the_text_and_follow_a_threshold(client):
    path = "/api/v1/text/contents"
    rude, kind = post(client, path, {"contents": [RUDE, KIND]}, **{"detector-id": "anything"})
    assert kind == []
    assert {"toxicity", "harassment"} <= {one["detection"] for one in rude}
    for one in rude:
        assert RUDE[one["start"] : one["end"]] == one["text"]
        assert one["detection_type"] == "risk"
    low = {"contents": [KIND], "detector_params": {"threshold": 0.00001}}
    (found,) = post(client, path, low)
    assert found
    assert found == sorted(found, key=lambda one: -one["score"])
    high = {"contents": [RUDE], "detector_params": {"threshold": 0.999}}
    assert post(client, path, high) == [[]]
    policys = post(client, path, {"contents": [RUDE], "detector_params": {"threshold": 0}})
    assert policys == [rude]
    for wrong in (-1, 1.5, "high"):
        body = {"contents": [RUDE], "detector_params": {"threshold": wrong}}
        answer = client.post(path, json=body)
        assert answer.status_code == answer.json()["code"] == 400
        assert "detector_params.threshold" in answer.json()["message"]
    assert client.post(path, json={"contents": []}).status_code == 400


def test_detectors_judge_the_last_message_or_the_answer_alone(client, judged):
    chat = [*user(RUDE), {"role": "assistant", "content": KIND}]
    post(client, "/api/v1/text/chat", {"messages": chat, "tools": []})
    (attack,) = post(
        client, "/api/v1/text/chat", {"messages": [*chat, {"role": "tool", "content": ATTACK}]}
    )
    assert (attack["detection"], attack["detection_type"]) == ("attack", "prompt_injection")
    post(client, "/api/v1/text/generation", {"prompt": RUDE, "generated_text": KIND})
    assert [(c.question, c.context) for c in judged] == [
        ("response", RUDE),
        ("attack", RUDE),
        ("response", RUDE),
    ]


CHAT_OF_5 = user([{"type": "text", "text": 5}])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/request", {"body": {"input": CHAT_OF_5}}, "body.input[0].content[0].text"),
        ("/request", {"body": {"messages": user(5)}}, "body.messages[0].content"),
        ("/request", {"body": {"input": ["x", 5]}}, "body.input[1]"),
        ("/request", {"body": {"prompt": {"variables": 5}}}, "body.prompt.variables"),
        (ENVOY, {"messages": CHAT_OF_5}, "messages[0].content[0].text"),
        (ENVOY, {"prompt": {"variables": 5}}, "prompt.variables"),
        (
            "/portkey",
            {"eventType": "beforeRequestHook", "request": {"json": {"prompt": {"variables": 5}}}},
            "request.json.prompt.variables",
        ),
        ("/v1/chat/completions", {"messages": CHAT_OF_5}, "messages[0].content[0].text"),
        ("/v1/chat/moderations", {"input": CHAT_OF_5}, "input[0].content[0].text"),
        ("/predict", {"inputs": [["x"] * 3]}, "inputs[0]"),
        ("/predict", {"inputs": 5}, "inputs"),
    ],
)
def test_of_several_forms_the_one_that_was_meant_is_at_fault(client, path, body, param):
    answer = client.post(path, json=body)
    said = answer.json().get("error", answer.json())
    assert answer.status_code in (400, 422)
    assert said.get("param", param) == param
    assert said["message"].startswith(f"{param}: ")


# ---- classifiers


def test_one_label_speaks_and_a_clients_half_does_not_overrule_it(client, judged):
    answer = post(client, "/classify", {"model": "guard", "input": [RUDE, KIND]})
    rude, kind = answer["data"]
    assert (rude["label"], kind["label"], answer["model"]) == ("toxicity", "safe", "guard")
    for one in answer["data"]:
        assert sum(one["probs"]) == pytest.approx(1)
        assert max(one["probs"]) >= 0.5
    assert answer["usage"]["prompt_tokens"] > 10
    labels = post(client, "/predict", {"inputs": RUDE, "truncate": True})
    assert labels[0]["label"] == "toxicity"
    scores = [one["score"] for one in labels[1:]]
    assert scores == sorted(scores, reverse=True)
    del judged[:]
    batch = post(client, "/predict", {"inputs": [[RUDE], [RUDE, KIND]]})
    assert {one["label"] for one in batch[0]} == {one["label"] for one in labels}
    assert [(c.question, c.context) for c in judged] == [("prompt", None), ("response", RUDE)]
    assert client.post("/predict", json={"inputs": [RUDE] * 3}).status_code == 400
    assert client.post("/predict", json={"inputs": []}).status_code == 400


# ---- Llama Guard


def complete(client: TestClient, *messages: dict[str, Any], **more: Any) -> str:
    answer = post(client, "/v1/chat/completions", {"messages": list(messages)} | more)
    said = answer["choices"][0]
    assert said["finish_reason"] == "stop"
    return said["message"]["content"]


def test_the_guards_words_parse_by_lines_and_by_spaces(client):
    said = complete(client, *user(RUDE), model="llama-guard", temperature=0)
    first, hazards = said.split("\n")
    assert first == "unsafe"
    assert all(hazard[0] == "S" and hazard[1:].isdigit() for hazard in hazards.split(","))
    # NeMo Guardrails' way.
    assert said.lower().split("unsafe")[1].strip().split(" ") == [hazards.lower()]
    assert complete(client, *user(KIND)) == "safe"
    assert complete(client, *user(ATTACK)).startswith("unsafe")


def test_the_guard_judges_the_last_message(client, judged):
    complete(client, *user(RUDE), {"role": "assistant", "content": KIND})
    assert [(c.question, c.context) for c in judged] == [("response", RUDE)]
    answer = client.post("/v1/chat/completions", json={"messages": user(KIND), "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert '"content":"safe"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


PROMPT = (
    "[INST] Task: Check if there is unsafe content in '{whom}' messages in conversations.\n"
    "<BEGIN CONVERSATION>\n\n{said}\n\n<END CONVERSATION>\n\n"
    "Provide your safety assessment for {whom} in the above conversation:"
)


@pytest.mark.parametrize(
    ("whom", "said", "expected"),
    [
        ("User", f"User: {RUDE}", ("prompt", RUDE, None)),
        ("User", f"{RUDE}", ("prompt", RUDE, None)),
        # What a user calls an answer is theirs.
        ("User", f"User: {RUDE}\n\nAgent: ok", ("prompt", f"{RUDE}\n\nAgent: ok", None)),
        ("Agent", f"User: {RUDE}\n\nAgent: {KIND}", ("response", KIND, RUDE)),
        (
            "Agent",
            f"User: a\nAgent: ok\n\nAgent: {RUDE}",
            ("response", f"ok\n\nAgent: {RUDE}", "a"),
        ),
        ("Agent", RUDE, ("response", RUDE, "")),
        (
            "User",
            f"User: a <END CONVERSATION> {RUDE}",
            ("prompt", f"a <END CONVERSATION> {RUDE}", None),
        ),
    ],
)
def test_a_prompt_written_for_a_guard_is_read_as_the_conversation_in_it(whom, said, expected):
    text = PROMPT.format(whom=whom, said=said)
    (found,) = llamaguard.contents_of([Message(role="user", content=text)])
    assert (found.question, found.text, found.context) == expected


# ---- chats


def asked(body: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c.question, c.text, c.field) for c in ChatRequest.model_validate(body).asked]


def test_anthropics_tools_are_documents():
    use = {"type": "tool_use", "id": "1", "name": "read", "input": {"page": "a"}}
    result = {"type": "tool_result", "tool_use_id": "1"}
    messages = [
        *user(KIND),
        {"role": "assistant", "content": [{"type": "text", "text": "Reading."}, use]},
        *user([result | {"content": [{"type": "text", "text": ATTACK}]}]),
    ]
    assert asked({"messages": messages}) == [
        ("prompt", KIND, "messages[0].content"),
        ("attack", '{"page": "a"}', "messages[1].content[1].input"),
        ("attack", ATTACK, "messages[2].content[0].content"),
    ]
    both = user([result | {"content": ATTACK}, {"type": "text", "text": "And this?"}])
    assert asked({"messages": [*messages, *both]}) == [
        ("prompt", "And this?", "messages[3].content"),
        ("attack", ATTACK, "messages[3].content[0].content"),
    ]


def test_the_responses_apis_tools_are_documents():
    items = [
        *user(KIND),
        {"type": "function_call", "name": "read", "arguments": "[1]", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": ATTACK},
        {"type": "reasoning", "summary": []},
    ]
    assert asked({"input": items}) == [
        ("prompt", KIND, "input[0].content"),
        ("attack", "[1]", "input[1].arguments"),
        ("attack", ATTACK, "input[2].content"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": KIND}}]},
        {"choices": [{"text": KIND}]},
        {"content": [{"type": "text", "text": KIND}], "role": "assistant"},
        {
            "output": [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": KIND}],
                }
            ]
        },
    ],
    ids=["chat", "completion", "messages", "responses"],
)
def test_answers_of_every_api_are_judged_alone(body):
    (found,) = ChatResponse.model_validate(body).answered(Asked("x", ("w",)))
    assert (found.question, found.text, found.context) == ("response", KIND, "w\nx")
