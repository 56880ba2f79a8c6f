from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tamis.reasoner import protocol
from tamis.reasoner.protocol import as_text
from tests.service.test_app import wait_until_ready
from tests.service.test_reasoning import obedient, wait_for_reasoner

__all__ = ["obedient"]

QUESTIONS: list[dict[str, Any]] = [
    {"type": "predicate", "name": "dose", "instructions": "Does it give dosing advice?"},
    {
        "type": "choice",
        "name": "area",
        "instructions": "What is it about?",
        "choices": [
            {"value": "billing", "description": "Money."},
            {"value": "true"},
            {"value": True},
        ],
    },
    {
        "type": "score",
        "instructions": [{"type": "input_text", "text": "How angry is it?"}],
        "levels": [{"label": "calm"}, {"label": "cross"}, {"label": "furious"}],
    },
]
TURNS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Where is my tea?"}]},
    {"type": "function_call", "name": "find", "arguments": "{}", "call_id": "c"},
    {"type": "function_call_output", "call_id": "c", "output": "in the pot"},
    {"role": "assistant", "content": "In the pot."},
]


@pytest.fixture(scope="module")
def client(bundle, tiny_reasoner: Path) -> Iterator[TestClient]:
    settings = Settings(bundle=bundle.path, reasoner=tiny_reasoner)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        wait_for_reasoner(client)
        yield client


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/decisions", json={"model": "any"} | body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("given", ["Where is my tea?", TURNS])
def test_answers_come_in_order_and_sum_to_one(client, obedient, given):
    first, second, third = ask(client, input=given, questions=QUESTIONS)["answers"]
    assert (first["type"], first["name"]) == ("predicate", "dose")
    assert 0 < first["probability"] < 1
    assert [p["value"] for p in second["probabilities"]] == ["billing", "true", True]
    assert sum(p["probability"] for p in second["probabilities"]) == pytest.approx(1)
    best = max(second["probabilities"], key=lambda p: p["probability"])
    assert (second["choice"], second["confidence"]) == (best["value"], best["probability"])
    assert [p["value"] for p in third["probabilities"]] == [0, 1, 2]
    assert third["name"] is None
    mean = sum(p["value"] * p["probability"] for p in third["probabilities"])
    assert third["score"] == pytest.approx(mean)


def test_a_question_is_read_once_and_usage_says_so(client):
    questions = [{"type": "predicate", "instructions": "Is it about geese at dusk?"}]
    first = ask(client, input="honk", questions=questions)
    again = ask(client, input="honk", questions=questions)
    assert again["answers"] == first["answers"]
    assert first["usage"]["input_tokens_details"]["cached_tokens"] == 0
    cached = again["usage"]["input_tokens_details"]["cached_tokens"]
    assert 0 < cached < again["usage"]["input_tokens"]
    assert again["usage"]["output_tokens"] == 0
    assert "explanations" not in again
    assert again["calibrated"] is False


def test_what_the_model_would_not_have_answered_is_refused(client):
    answer = ask(client, input="honk", questions=QUESTIONS[:2])
    assert answer["answers"] == [
        {"type": "refusal", "name": "dose"},
        {"type": "refusal", "name": "area"},
    ]
    openai.types.Decision.model_validate(answer)


def test_names_that_look_alike_stay_apart(client, obedient):
    values = ["a", "a (2)", " a", "a\u0004"]
    asked = {"type": "choice", "instructions": "?", "choices": [{"value": v} for v in values]}
    (answer,) = ask(client, input="honk", questions=[asked])["answers"]
    assert [p["value"] for p in answer["probabilities"]] == values


def test_turns_are_read_as_they_were_taken(client, obedient, monkeypatch):
    read: list[str] = []
    case = protocol.case
    monkeypatch.setattr(
        protocol, "case", lambda content: read.append(as_text(case(content))) or case(content)
    )
    rules = {"role": "system", "content": "Be brief."}
    ask(client, input=[rules, *TURNS], questions=QUESTIONS[:1])
    ask(client, input=TURNS, questions=QUESTIONS[:1])
    assert read[0].startswith("Rules: Be brief.\nUser: Where is my tea?\nAgent calls: find {}\n")
    assert read[-1].startswith("User: Where is my tea?\n")


def test_explanations_on_request(client):
    answer = ask(client, input="honk", questions=QUESTIONS[:1], explanations=True)
    assert answer["explanations"] == [{"name": "dose", "status": "malformed", "reason": None}]


CHOICE = {"value": "a"}
LONG_WORDED = {"value": "b", "description": "x" * 700}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "essay", "instructions": "x"}]}, "questions[0]"),
        ({"questions": [{"type": "predicate"}]}, "questions[0].instructions"),
        ({"questions": [QUESTIONS[1] | {"choices": [{"value": "a"}]}]}, "questions[0].choices"),
        (
            {"questions": [QUESTIONS[1] | {"choices": [{"value": "a"}, {"value": "a"}]}]},
            "questions[0].choices",
        ),
        ({"questions": QUESTIONS * 200}, "questions"),
        (
            {"questions": [{"type": "predicate", "instructions": "x" * 700}]},
            "questions[0].instructions",
        ),
        (
            {"questions": [QUESTIONS[1] | {"choices": [CHOICE, CHOICE | LONG_WORDED]}]},
            "questions[0].choices[1].description",
        ),
        ({"input": []}, "input"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "foo"}]}, "input[0].type"),
        ({"input": 5}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input[0].content[0]",
        ),
        ({"input": "tea " * 2_000}, "input"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, body, param):
    error = ask(client, 400, **({"input": "x", "questions": QUESTIONS} | body))["error"]
    assert error["param"] == param
    assert "tea tea" not in error["message"]


def test_openais_own_client_reads_it(client, obedient):
    answer = ask(client, input="x", questions=QUESTIONS)
    parsed = openai.types.Decision.model_validate(answer)
    assert [a.type for a in parsed.answers] == ["predicate", "choice", "score"]
    assert parsed.answers[1].probabilities[2].value is True
    assert parsed.usage.total_tokens == answer["usage"]["input_tokens"]
