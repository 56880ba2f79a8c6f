"""Verdicts in others' categories: total, in order of scores, and never silent about harm."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.dialects import azure, crosswalk, mistral, openai
from service.settings import Settings
from tamis.deciding import decide
from tamis.policies.parsing import default_policy, parse_policy
from tamis.policy import Thresholds
from tamis.verdict import CategoryScore, Finding, Provenance, Verdict
from tests.service.test_app import wait_until_ready
from tests.service.wire import KIND, RUDE, user

NAMES = ("hate", "violence", "weapons", "sexual", "self-harm", "toxicity", "attack")
OWN = dict.fromkeys((*NAMES, "prompt"), Thresholds(0.5, 0.8))


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    settings = Settings(bundle=bundle.path, max_items=4)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def verdict(overall: float, attack: float = 0.0, **scores: float) -> Verdict:
    scores = {"toxicity": 0.0} | dict.fromkeys(NAMES[:5], 0.0) | scores
    found = Finding("prompt", overall, scores, attack, windows=1, tokens=1)
    return decide([found], default_policy(), OWN, Provenance("m", "b", "p", "v"))


def post(client: TestClient, path: str, body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_openai_says_beside_its_categories_what_they_have_no_place_for():
    result = openai.result_json(verdict(0.2, attack=0.9))
    assert result["flagged"]
    assert not any(result["categories"].values())
    assert result["attack"] == {"flagged": True, "score": 0.9}
    assert (result["action"], result["severity"]) == ("block", "safe")
    assert result["category_applied_input_types"]["sexual/minors"] == []


def test_openai_takes_a_policys_name_for_a_model(bundle, tmp_path):
    (tmp_path / "strict.yaml").write_text("{name: strict, overall: {flag: 0.000001}}")
    with TestClient(create_app(Settings(bundle=bundle.path, policies=tmp_path))) as client:
        wait_until_ready(client)
        for model, flagged in (("strict", True), ("omni-moderation-latest", False), (None, False)):
            body = {"input": KIND, "model": model, "user": "x"}
            assert post(client, "/v1/moderations", body)["results"][0]["flagged"] is flagged


def test_mistrals_generations_have_their_own_categories(client):
    for path, given in (("/v1/moderations", [RUDE, KIND]), ("/v1/chat/moderations", [user(RUDE)])):
        for model, some, none in (
            ("mistral-moderation-2411", "dangerous_and_criminal_content", "jailbreaking"),
            ("mistral-moderation-latest", "jailbreaking", "dangerous_and_criminal_content"),
        ):
            answer = post(client, path, {"model": model, "input": given, "metadata": None})
            assert (answer["model"], len(answer["results"])) == (model, len(given))
            for result in answer["results"]:
                assert set(result) == {"categories", "category_scores"}
                assert set(result["categories"]) == set(result["category_scores"])
                assert some in result["categories"]
                assert none not in result["categories"]


def test_mistral_judges_the_last_message_of_each_conversation(client):
    declined = [*user(RUDE), {"role": "assistant", "content": KIND}]
    answer = post(client, "/v1/chat/moderations", {"model": "x", "input": [user(RUDE), declined]})
    rude, kind = answer["results"]
    assert any(rude["categories"].values())
    assert rude["category_scores"] != kind["category_scores"]
    for wrong in ([], [[]], "x", None, [user(RUDE)] * 5):
        assert client.post("/v1/chat/moderations", json={"input": wrong}).status_code == 400


def test_a_policy_that_a_contract_has_no_words_for_is_refused(bundle, tmp_path):
    (tmp_path / "whole.yaml").write_text("{name: whole, overall: {}}")
    with TestClient(create_app(Settings(bundle=bundle.path, policies=tmp_path))) as client:
        wait_until_ready(client)
        named = {"x-tamis-policy": "whole"}
        for path, body in (
            ("/contentsafety/text:analyze", {"text": KIND}),
            ("/v1/chat/moderations", {"input": user(KIND)}),
            ("/v1/moderations", {"input": KIND, "model": "mistral-moderation-latest"}),
        ):
            answer = client.post(path, json=body, headers=named)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_policy")
            assert "'whole' has no category" in answer.json()["error"]["message"]
        assert (
            client.post("/v1/moderations", json={"input": KIND}, headers=named).status_code == 200
        )


@pytest.mark.parametrize("overall", [0.6, 0.9])
def test_harm_of_no_certain_kind_is_told_by_the_likeliest_category(overall):
    unsure = verdict(overall, violence=0.3, hate=0.2)
    names = [n for n in mistral.taxonomy().crosswalk["mistral"] if n != mistral.JOINED]
    told = mistral.result_json(unsure, names)["categories"]
    assert [name for name, flagged in told.items() if flagged] == ["violence_and_threats"]
    assert azure.severities(unsure, default_policy(), OWN)["Violence"] == 2
    attack = verdict(0.1, attack=0.9, violence=0.05)
    told = mistral.result_json(attack, names)["categories"]
    assert [name for name, flagged in told.items() if flagged] == ["jailbreaking"]
    assert not any(azure.severities(attack, default_policy(), OWN).values())
    assert not crosswalk.is_harmful(attack)
    assert crosswalk.is_harmful(verdict(0.1, toxicity=0.9))


def test_azures_severities_rise_with_the_score_and_follow_the_thresholds():
    limits = Thresholds(0.4, 0.8)
    levels = [
        azure.severity_of(CategoryScore(n / 1000, n >= 400, 0.4), limits) for n in range(1001)
    ]
    assert levels == sorted(levels)
    assert set(levels) == set(range(8))
    assert (levels[399], levels[400], levels[799], levels[800]) == (1, 2, 3, 4)
    # Where a policy leaves no room between the two, what is flagged is blocked.
    same = Thresholds(0.4, 0.4)
    assert azure.severity_of(CategoryScore(0.4, True, 0.4), same) == 4
    assert azure.severity_of(CategoryScore(1.0, True, 0.4), Thresholds(0.4, 1.0)) == 7
    # Flagged only along with the whole.
    assert azure.severity_of(CategoryScore(0.9, False, 0.4), limits) == 1


def test_azure_answers_for_the_categories_that_were_asked(client):
    path = "/contentsafety/text:analyze"
    # As LiteLLM sends it.
    post(client, path, {"text": RUDE, "haltOnBlocklistHit": False, "blocklistNames": None})
    body: dict[str, Any] = {
        "text": RUDE,
        "categories": ["Violence", "Hate"],
        "outputType": "FourSeverityLevels",
    }
    answer = post(client, path, body)
    assert [one["category"] for one in answer["categoriesAnalysis"]] == ["Violence", "Hate"]
    assert {one["severity"] % 2 for one in answer["categoriesAnalysis"]} == {0}
    assert answer["blocklistsMatch"] == []
    assert len(post(client, path, {"text": RUDE})["categoriesAnalysis"]) == 4
    unknown = client.post(path, json=body | {"categories": ["Hats"]})
    assert unknown.status_code == 400
    assert unknown.json()["error"]["message"].startswith("categories[0]: Input should be 'Hate'")


def test_a_policy_that_only_scores_flags_in_no_dialect(client):
    policy = parse_policy({"name": "p", "overall": {}, "mode": "score"})
    assert policy.mode == "score"
    assert parse_policy({"name": "p", "overall": {}, "mode": "block"}) == parse_policy(
        {"name": "p", "overall": {}, "mode": "enforce"}
    )
