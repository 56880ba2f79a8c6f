"""google-api-python-client with Perspective's discovery document."""

import json
from pathlib import Path

from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from harness import FULL, KEY, KIND, RUDE, URL, run

DOCUMENT = json.loads((Path(__file__).parents[1] / "perspective.discovery.json").read_text())


def connect(url: str, key: str = "unused"):
    service = build_from_document(DOCUMENT, developerKey=key, client_options={"api_endpoint": url})
    return service.comments()


comments = connect(URL)


def check_scores_and_spans() -> None:
    body = {
        "comment": {"text": f"{RUDE} {KIND}"},
        "requestedAttributes": {"TOXICITY": {}, "THREAT": {"scoreThreshold": 0.99}},
        "spanAnnotations": True,
        "clientToken": "a",
    }
    answer = comments.analyze(body=body).execute()
    assert answer["clientToken"] == "a"
    assert list(answer["attributeScores"]) == ["TOXICITY"]
    rude, kind = answer["attributeScores"]["TOXICITY"]["spanScores"]
    assert rude["score"]["value"] > kind["score"]["value"] + 0.2


def check_refusals_are_the_clients_errors() -> None:
    body = {"comment": {"text": RUDE}, "requestedAttributes": {"FLIRTATION": {}}}
    try:
        comments.analyze(body=body).execute()
    except HttpError as refused:
        assert refused.status_code == 400
        assert refused.reason == "Unknown requested attribute: FLIRTATION"
        assert refused.error_details[0]["errorType"] == "INVALID_REQUEST"
    else:
        raise AssertionError("not refused")


def check_suggestions_are_kept() -> None:
    scores = {"TOXICITY": {"summaryScore": {"value": 1, "type": "PROBABILITY"}}}
    body = {"comment": {"text": RUDE}, "attributeScores": scores, "clientToken": "b"}
    answer = comments.suggestscore(body=body).execute()
    assert answer == {"requestedLanguages": ["en"], "clientToken": "b"}


def check_no_room_is_a_429() -> None:
    body = {"comment": {"text": KIND}, "requestedAttributes": {"TOXICITY": {}}}
    limited, seen = connect(FULL, KEY), set()
    for _ in range(2):
        try:
            limited.analyze(body=body).execute()
        except HttpError as refused:
            seen.add(refused.status_code)
    assert seen == {429}


run(globals())
