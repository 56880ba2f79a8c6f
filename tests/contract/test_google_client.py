"""Google's own client against Perspective's contract, where the client is installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import Server

discovery = pytest.importorskip("googleapiclient.discovery")
DOCUMENT = json.loads((Path(__file__).parent / "perspective.discovery.json").read_text())
RUDE = "Tell my sister she is a worthless, ugly idiot. What a lovely garden this is."


@pytest.fixture(scope="module")
def comments(bundle, tmp_path_factory) -> Iterator[Any]:
    feedback = str(tmp_path_factory.mktemp("feedback") / "feedback.sqlite")
    with Server(bundle.path, feedback=feedback) as server:
        options = {"api_endpoint": f"http://127.0.0.1:{server.port}"}
        service = discovery.build_from_document(
            DOCUMENT, developerKey="unused", client_options=options
        )
        with service:
            yield service.comments()


def test_scores_and_spans(comments):
    body = {
        "comment": {"text": RUDE},
        "requestedAttributes": {"TOXICITY": {}, "THREAT": {"scoreThreshold": 0.99}},
        "spanAnnotations": True,
        "clientToken": "a",
    }
    answer = comments.analyze(body=body).execute()
    assert answer["clientToken"] == "a"
    assert list(answer["attributeScores"]) == ["TOXICITY"]
    rude, kind = answer["attributeScores"]["TOXICITY"]["spanScores"]
    assert rude["score"]["value"] > kind["score"]["value"] + 0.2


def test_refusals_are_the_clients_errors(comments):
    from googleapiclient.errors import HttpError

    body = {"comment": {"text": RUDE}, "requestedAttributes": {"FLIRTATION": {}}}
    with pytest.raises(HttpError) as refused:
        comments.analyze(body=body).execute()
    assert refused.value.status_code == 400
    assert refused.value.reason == "Unknown requested attribute: FLIRTATION"
    assert refused.value.error_details[0]["errorType"] == "INVALID_REQUEST"


def test_suggestions(comments):
    scores = {"TOXICITY": {"summaryScore": {"value": 1, "type": "PROBABILITY"}}}
    body = {"comment": {"text": RUDE}, "attributeScores": scores, "clientToken": "b"}
    answer = comments.suggestscore(body=body).execute()
    assert answer == {"requestedLanguages": ["en"], "clientToken": "b"}
