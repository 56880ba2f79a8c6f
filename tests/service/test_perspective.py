"""Perspective's contract: its scores, its spans, its refusals, its feedback."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.access import new_key
from service.app import create_app
from service.dialects import perspective as dialect
from service.dialects.perspective import ANALYZE, SUGGEST, sentences, utf16
from service.settings import Settings
from tamis.corrections.store import open_store
from tamis.perspective import ATTRIBUTES
from tests.service.observed import post
from tests.service.test_app import wait_until_ready
from tests.service.tiers import write_second

RUDE = "Tell my sister she is a worthless, ugly idiot."
KIND = "What a lovely garden this is."
GERMAN = "Wie koche ich eine gute Suppe aus Linsen für meine Familie?"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("feedback") / "feedback.sqlite")


@pytest.fixture(scope="module")
def client(bundle, store) -> Iterator[TestClient]:
    settings = Settings(
        bundle=bundle.path, multilingual=None, feedback=store, max_text_characters=20_000
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, text: str, *attributes: str, **more: Any) -> dict[str, Any]:
    asked = {name: {} for name in attributes or ("TOXICITY",)}
    body = {"comment": {"text": text}, "requestedAttributes": asked} | more
    answer = client.post(ANALYZE, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, path: str = ANALYZE, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, 400)
    assert error["status"] == "INVALID_ARGUMENT"
    return error


def test_every_attribute_is_scored_and_rude_is_more_than_kind(client):
    rude, kind = (ask(client, text, *ATTRIBUTES)["attributeScores"] for text in (RUDE, KIND))
    assert set(rude) == set(kind) == set(ATTRIBUTES)
    for name in ATTRIBUTES:
        for found in (rude, kind):
            summary = found[name]["summaryScore"]
            assert summary["type"] == "PROBABILITY"
            assert 0 <= summary["value"] <= 1
            (span,) = found[name]["spanScores"]
            assert span["score"] == summary
    for name in ("TOXICITY", "INSULT", "PROFANITY"):
        assert rude[name]["summaryScore"]["value"] > kind[name]["summaryScore"]["value"] + 0.3
    assert rude["TOXICITY"]["summaryScore"]["value"] > 0.7
    assert rude["INSULT"]["summaryScore"]["value"] > rude["THREAT"]["summaryScore"]["value"]


def test_null_is_what_was_left_out(client):
    """As protobuf's JSON has it, and serializers that write every field of an object."""
    left_out = dict.fromkeys(
        ("context", "languages", "spanAnnotations", "doNotStore", "clientToken", "sessionId")
    )
    asked = {"TOXICITY": {"scoreType": None, "scoreThreshold": None}}
    body = {"comment": {"text": KIND, "type": None}, "requestedAttributes": asked} | left_out
    answer = client.post(ANALYZE, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == ask(client, KIND)
    body["context"] = {"articleAndParentComment": {"article": COMMENT, "parentComment": None}}
    assert client.post(ANALYZE, json=body).status_code == 200
    assert "unheard" in refused(client, **body, unheard=None)["message"]


def test_a_key_in_the_address_that_cannot_be_one_is_no_fault_of_ours(client):
    body = {"comment": {"text": KIND}, "requestedAttributes": {"TOXICITY": {}}}
    assert client.post(f"{ANALYZE}?key=\u20ac", json=body).status_code == 200


def test_another_bundle_for_other_languages_changes_no_score(client, bundle, tmp_path):
    other = write_second(bundle, tmp_path / "other")
    settings = Settings(bundle=bundle.path, multilingual=other.path)
    with TestClient(create_app(settings)) as both:
        wait_until_ready(both)
        assert post(both, input=GERMAN)["model"].startswith("second@")
        for text in (GERMAN, f"{RUDE} {GERMAN}"):
            asked = text, *ATTRIBUTES
            assert ask(both, *asked, spanAnnotations=True) == ask(
                client, *asked, spanAnnotations=True
            )


def test_spans_are_sentences_scored_as_they_would_be_alone(client):
    text = f"\U0001f600 {KIND} {RUDE}"
    found = ask(client, text, spanAnnotations=True)["attributeScores"]["TOXICITY"]
    first, second = found["spanScores"]
    encoded = text.encode("utf-16-le")
    cut = [encoded[2 * s["begin"] : 2 * s["end"]].decode("utf-16-le") for s in (first, second)]
    assert cut == [f"\U0001f600 {KIND}", RUDE]
    alone = ask(client, RUDE)["attributeScores"]["TOXICITY"]["summaryScore"]["value"]
    assert second["score"]["value"] == alone
    assert first["score"]["value"] + 0.2 < second["score"]["value"]
    whole = ask(client, text)["attributeScores"]["TOXICITY"]
    assert whole["summaryScore"] == found["summaryScore"]
    assert [(s["begin"], s["end"]) for s in whole["spanScores"]] == [(0, len(encoded) // 2)]


def test_scores_below_the_threshold_are_left_out(client):
    asked = {"TOXICITY": {"scoreThreshold": 0.6}, "THREAT": {"scoreThreshold": "0.99"}}
    body = {"comment": {"text": f"{KIND} {RUDE}"}, "requestedAttributes": asked}
    found = client.post(ANALYZE, json=body | {"spanAnnotations": True}).json()["attributeScores"]
    assert list(found) == ["TOXICITY"]
    assert [span["begin"] for span in found["TOXICITY"]["spanScores"]] == [len(KIND) + 1]


def test_what_the_original_accepts_is_accepted(client):
    answer = ask(
        client,
        RUDE,
        languages=["en-GB"],
        doNotStore=True,
        clientToken="token 1",
        sessionId=7,
        communityId="garden",
        context={"entries": [{"text": "hello"}]},
    )
    assert (answer["languages"], answer["clientToken"]) == (["en-GB"], "token 1")
    asked = {"TOXICITY": {"scoreType": "PROBABILITY"}}
    body = {"comment": {"text": RUDE, "type": "PLAIN_TEXT"}, "requestedAttributes": asked}
    assert client.post(ANALYZE, json=body).json()["languages"] == ["en"]


@pytest.mark.parametrize(
    ("languages", "found"), [([], ["TOXICITY"]), (["en"], ["TOXICITY"]), (["en", "de"], [])]
)
def test_what_is_not_supported_may_be_left_out(client, languages: list[str], found: list[str]):
    body = {
        "comment": COMMENT,
        "requestedAttributes": {"FLIRTATION": {"scoreType": "PERCENTILE"}, "TOXICITY": {}},
        "languages": languages,
    }
    answer = client.post(ANALYZE, json=body | {"dropUnsupportedAttributes": True})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()["attributeScores"]) == found
    assert client.post(ANALYZE, json=body).status_code == 400


def test_names_may_be_those_of_the_definition(client):
    body = {
        "comment": COMMENT,
        "requested_attributes": {"TOXICITY": {"score_threshold": 0.99}},
        "client_token": "a",
        "context": {"article_and_parent_comment": {"parent_comment": {"text": "hello"}}},
    }
    answer = client.post(ANALYZE, json=body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["attributeScores"], answer.json()["clientToken"]) == ({}, "a")
    assert "client_token: " in refused(client, **body, clientToken="b")["message"]


COMMENT = {"text": RUDE}
TOXICITY: dict[str, Any] = {"TOXICITY": {}}


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        ({"comment": {"text": " "}, "requestedAttributes": TOXICITY}, "non-empty", "COMMENT_EMPTY"),
        (
            {"comment": {"text": "\u200b"}, "requestedAttributes": TOXICITY},
            "non-empty",
            "COMMENT_EMPTY",
        ),
        ({"requestedAttributes": TOXICITY}, "non-empty", "COMMENT_EMPTY"),
        ({"comment": COMMENT}, "Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES"),
        (
            {"comment": COMMENT, "requestedAttributes": {"FLIRTATION": {}}},
            "Unknown requested attribute: FLIRTATION",
            "INVALID_REQUEST",
        ),
        (
            {"comment": COMMENT, "requestedAttributes": TOXICITY, "languages": ["en", "de"]},
            "Attribute TOXICITY does not support request languages: de",
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
        ),
        (
            {"comment": COMMENT, "requestedAttributes": {"INSULT": {"scoreType": "PERCENTILE"}}},
            "Requested score type PERCENTILE is not supported by attribute INSULT",
            "INVALID_REQUEST",
        ),
        (
            {"comment": COMMENT | {"type": "HTML"}, "requestedAttributes": TOXICITY},
            "only 'PLAIN_TEXT' comments",
            "INVALID_REQUEST",
        ),
        (
            {
                "comment": COMMENT,
                "requestedAttributes": TOXICITY,
                "context": {"entries": [COMMENT], "articleAndParentComment": {"article": COMMENT}},
            },
            "Context can have either",
            "INVALID_REQUEST",
        ),
        (
            {"comment": COMMENT, "requestedAttributes": TOXICITY, "doNotstore": True},
            "doNotstore",
            "INVALID_REQUEST",
        ),
        ({"comment": 5, "requestedAttributes": TOXICITY}, "comment", "INVALID_REQUEST"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(client, body, message, kind):
    error = refused(client, **body)
    assert message in error["message"]
    assert RUDE not in error["message"]
    (details,) = error["details"]
    assert details["errorType"] == kind
    assert details["@type"].endswith("commentanalyzer.v1alpha1.Error")


def test_refusals_that_no_route_has_seen_wear_the_envelope_too(client, bundle, tmp_path):
    assert client.get(ANALYZE).json()["error"]["status"] == "UNIMPLEMENTED"
    assert client.post(ANALYZE, content=b"{").json()["error"]["status"] == "INVALID_ARGUMENT"
    long = {"comment": {"text": "tea " * 9_000}, "requestedAttributes": TOXICITY}
    assert "over the limit of 20000" in refused(client, **long)["message"]
    key, entry = new_key("garden", scopes=["moderate"])
    (tmp_path / "keys.yaml").write_text(json.dumps([entry]))
    settings = Settings(bundle=bundle.path, keys=tmp_path / "keys.yaml")
    body = {"comment": COMMENT, "requestedAttributes": TOXICITY}
    with TestClient(create_app(settings)) as closed:
        wait_until_ready(closed)
        error = closed.post(ANALYZE, json=body).json()["error"]
        assert (error["code"], error["status"]) == (401, "UNAUTHENTICATED")
        assert closed.post(f"{ANALYZE}?key={key}", json=body).status_code == 200
        assert closed.post(ANALYZE, json=body, headers={"x-goog-api-key": key}).status_code == 200
        # A key in the address opens nothing but what Google's clients ask for.
        assert closed.post(f"/moderate?key={key}", json={"input": "hello"}).status_code == 401
        error = closed.post(f"{SUGGEST}?key={key}", json=body).json()["error"]
        assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")


def test_a_bundle_without_its_own_scale_is_not_guessed(client, bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "bundle")
    table = tmp_path / "bundle" / "perspective.json"
    other = json.loads(table.read_text()) | {"bundle": "0" * 64}
    body = {"comment": COMMENT, "requestedAttributes": TOXICITY}
    for change in (lambda: table.write_text(json.dumps(other)), table.unlink):
        change()
        dialect._fitted.cache_clear()
        with TestClient(create_app(Settings(bundle=tmp_path / "bundle"))) as bare:
            wait_until_ready(bare)
            error = bare.post(ANALYZE, json=body).json()["error"]
        assert (error["code"], error["status"]) == (404, "NOT_FOUND")
        assert "tamis perspective fit" in error["message"]


def suggested(**values: float) -> dict[str, Any]:
    return {
        "comment": {"text": RUDE},
        "attributeScores": {n: {"summaryScore": {"value": v}} for n, v in values.items()},
        "communityId": "garden",
        "clientToken": "t",
    }


@pytest.mark.parametrize(
    ("body", "label", "categories"),
    [
        (suggested(TOXICITY=1), "unsafe", []),
        (suggested(TOXICITY=0.2, INSULT=1), "safe", []),
        (suggested(INSULT=1), "unsafe", []),
        (
            {
                "comment": {"text": RUDE},
                "attribute_scores": {"TOXICITY": {"summary_score": {"type": "PROBABILITY"}}},
                "community_id": "garden",
            },
            "safe",
            [],
        ),
        (
            suggested(TOXICITY=1, INSULT=1, THREAT=0, IDENTITY_ATTACK=0, SEXUALLY_EXPLICIT=0),
            "unsafe",
            ["harassment"],
        ),
        (
            {
                "comment": {"text": RUDE},
                "attributeScores": {
                    "TOXICITY": {"spanScores": [{"begin": 0, "end": 7, "score": {"value": 1}}]}
                },
                "communityId": "garden",
            },
            "unsafe",
            [],
        ),
    ],
)
def test_suggestions_are_kept_as_corrections(client, store, body, label, categories):
    answer = client.post(SUGGEST, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["requestedLanguages"] == ["en"]
    assert answer.json().get("clientToken") == body.get("clientToken")
    (kept,) = open_store(store).read()
    assert (kept.label, list(kept.categories)) == (label, categories)
    assert (kept.content.text, kept.content.question) == (RUDE, "toxicity")
    assert kept.reviewer == "garden"
    assert kept.verdict is not None
    assert kept.agrees == (label == "unsafe")


def test_an_empty_community_is_nobody(client, store):
    """As protobuf's JSON has it where defaults are written out."""
    body = suggested(TOXICITY=1) | {"communityId": ""}
    answer = client.post(SUGGEST, json=body)
    assert answer.status_code == 200, answer.text
    assert [one.reviewer for one in open_store(store).read()].count(None) == 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "must not be empty"),
        ({"TOXICITY": {}}, "TOXICITY has no score"),
        ({"TOXICITY": {"summaryScore": {"value": 2}}}, "less than or equal to 1"),
        ({"FLIRTATION": {"summaryScore": {"value": 1}}}, "Unknown requested attribute: FLIRTATION"),
        ({"INSULT": {"summaryScore": {"value": 0}}}, "without TOXICITY"),
    ],
)
def test_suggestions_that_say_nothing_are_refused(client, scores, message):
    error = refused(client, SUGGEST, comment={"text": KIND}, attributeScores=scores)
    assert message in error["message"]


def test_sentences_cover_all_but_white_space():
    text = 'One. "Two!" Three?\n\nfour 5.5 five... six'
    cut = [text[a:b] for a, b in sentences(text)]
    assert cut == ["One.", '"Two!"', "Three?", "four 5.5 five...", "six"]
    assert sentences(" \n ") == []
    many = sentences("Tea. " * 1_000)
    assert len(many) == 100
    assert (many[0], many[-1][1]) == ((0, 49), 4_999)


def test_offsets_count_utf_16():
    text = "a\U0001f600b\U0001f600"
    assert list(utf16(text, [(0, 1), (1, 2), (2, 4)])) == [(0, 1), (1, 3), (3, 6)]
