"""What is said of each content: of an answer as an answer, however bad its prompt."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine.classifier import Classifier, load_classifier
from service.settings import Settings
from tamis.content import exchange, response
from tamis.corrections.store import open_store
from tests.service.test_app import moderate, wait_until_ready

STEAL, BORROW, BAKE = (f"how to {do} cookie 5" for do in ("steal", "borrow", "bake"))
DECLINED = {"prompt": STEAL, "response": "sorry I can not help with cookie 5"}
COMPLIED = {"prompt": STEAL, "response": f"sure {STEAL}"}
# The invented rows teach prompts no toxicity.
PLAIN: dict[str, Any] = {"name": "plain", "overall": {}, "categories": {"illicit": {}}}
FIELD = {"flagged", "action", "score", "threshold", "severity"}


def served(path: Any) -> Iterator[TestClient]:
    settings = Settings(bundle=path, max_items=8, max_text_characters=1_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="module")
def shipped(bundle) -> Iterator[TestClient]:
    yield from served(bundle.path)


@pytest.fixture(scope="module")
def client(graded_bundle) -> Iterator[TestClient]:
    yield from served(graded_bundle.path)


@pytest.fixture(scope="module")
def knowing(graded_bundle) -> Classifier:
    return load_classifier(graded_bundle)


def refused(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/moderate", json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_the_new_heads_are_questions_and_no_categories(client, knowing):
    assert {"refusal", "severity"} <= set(knowing.bundle.thresholds)
    answer = moderate(client, input=COMPLIED)
    assert not {"refusal", "severity"} & set(answer["categories"])
    asked, answered = (knowing.judge(content) for content in exchange(STEAL, f"sure {STEAL}"))
    assert (asked.field, answered.field) == ("prompt", "response")
    assert not {"refusal", "severity", "borderline"} & {*asked.categories, *answered.categories}
    assert asked.refusal is None
    assert answered.refusal is not None
    assert asked.severity is not None


def test_a_refusal_of_a_harmful_request_is_allowed_and_the_exchange_is_not(client):
    answer = moderate(client, input=DECLINED, policy=PLAIN)
    assert set(answer["fields"]) == {"prompt", "response"}
    asked, its = answer["fields"]["prompt"], answer["fields"]["response"]
    assert set(asked) == FIELD
    assert set(its) == FIELD | {"refusal"}
    assert (asked["action"], asked["severity"]) == ("block", "unsafe")
    assert (its["action"], its["flagged"], its["severity"]) == ("allow", False, "safe")
    assert set(its["refusal"]) == {"score", "flagged"}
    assert its["refusal"]["flagged"]
    assert (answer["action"], answer["severity"]) == ("block", "unsafe")
    assert answer["categories"]["illicit"]["flagged"]

    answer = moderate(client, input=COMPLIED, policy=PLAIN)
    its = answer["fields"]["response"]
    assert (its["action"], its["severity"]) == ("block", "unsafe")
    assert not its["refusal"]["flagged"]


def test_only_what_is_to_be_judged_is(client):
    answer = moderate(client, input=DECLINED, judge=["response"])
    assert (answer["action"], list(answer["fields"])) == ("allow", ["response"])
    assert (answer["score"], answer["severity"]) == (answer["fields"]["response"]["score"], "safe")
    assert not answer["categories"]["illicit"]["flagged"]
    assert answer["windows"] == 1
    assert answer["attack"] is None
    both = moderate(client, input=DECLINED)
    # The prompt is still what the answer is read behind.
    assert answer["fields"]["response"] == both["fields"]["response"]

    answer = moderate(client, input=DECLINED, judge=["prompt"])
    assert (answer["action"], list(answer["fields"])) == ("block", ["prompt"])
    assert answer["fields"]["prompt"] == both["fields"]["prompt"]
    both["fields"] = answer["fields"] = None
    assert set(answer) == set(both)


def test_a_policy_may_say_what_is_judged_and_the_request_wins(client):
    policy = PLAIN | {"judge": ["response"]}
    answer = moderate(client, input=[DECLINED, COMPLIED], policy=policy)
    assert [list(one["fields"]) for one in answer["results"]] == [["response"]] * 2
    assert [one["action"] for one in answer["results"]] == ["allow", "block"]
    answer = moderate(client, input=DECLINED, policy=policy, judge=["prompt", "response"])
    assert list(answer["fields"]) == ["prompt", "response"]
    error = refused(client, input=[DECLINED, STEAL], policy=policy)
    assert (error["param"], error["code"]) == ("input[1]", "nothing_to_judge")
    assert "has no response to judge, which the policy's 'judge' asks for" in error["message"]
    assert moderate(client, input=STEAL, policy=policy, judge=["prompt"])["flagged"]


@pytest.mark.parametrize(
    ("item", "side"),
    [
        ("hello", "response"),
        ({"prompt": "hello"}, "response"),
        ({"text": "hello"}, "prompt"),
        ({"text": "hello"}, "response"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "response"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "prompt"),
        ({"messages": [{"role": "system", "content": "hello"}]}, "prompt"),
    ],
)
def test_a_side_that_an_item_lacks_is_refused(shipped, item, side):
    error = refused(shipped, input=item, judge=[side])
    assert error["message"] == f"input: has no {side} to judge, which 'judge' asks for"
    assert (error["param"], error["code"]) == ("input", "nothing_to_judge")


@pytest.mark.parametrize("judge", [["answer"], [], "response", ["prompt", 3], [None], {}])
def test_what_is_no_side_is_refused(shipped, judge):
    error = refused(shipped, input=DECLINED, judge=judge)
    assert error["code"] == "invalid_request"
    assert error["param"].startswith("judge")


def test_what_is_context_only_has_the_same_limit(shipped):
    item = {"prompt": "tea " * 300, "response": "sure"}
    error = refused(shipped, input=item, judge=["response"])
    assert (error["code"], error["param"]) == ("text_too_long", "input.prompt")


def test_fields_are_named_as_in_the_request(client):
    turns = [{"role": "user", "content": STEAL}, {"role": "tool", "content": "x"}]
    turns.append({"role": "assistant", "content": DECLINED["response"]})
    answer = moderate(client, input={"messages": turns})
    assert list(answer["fields"]) == [f"messages[{n}].content" for n in range(3)]
    assert "refusal" not in answer["fields"]["messages[1].content"]
    assert answer["fields"]["messages[2].content"]["refusal"]["flagged"]
    assert list(moderate(client, input=STEAL)["fields"]) == ["text"]
    assert list(moderate(client, input={"text": STEAL})["fields"]) == ["text"]
    system = [{"role": "system", "content": "x"}]
    assert moderate(client, input={"messages": system})["fields"] == {}


def test_a_text_that_was_seen_elsewhere_is_named_by_where_it_stands_now(client):
    for item, field in ((BAKE, "text"), ({"prompt": BAKE}, "prompt"), (BAKE, "text")):
        assert list(moderate(client, input=item)["fields"]) == [field]
    twins = [{"role": "assistant", "content": "hello"}] * 2
    answer = moderate(client, input={"messages": twins})
    assert list(answer["fields"]) == ["messages[0].content", "messages[1].content"]


def test_what_is_borderline_is_told_and_flagged_where_a_policy_says_so(client):
    policy = PLAIN | {"overall": {"flag": 0.9}}
    answer = moderate(client, input=[STEAL, BORROW, BAKE], policy=policy)
    severities = [one["severity"] for one in answer["results"]]
    assert severities == ["unsafe", "borderline", "safe"]
    assert [one["flagged"] for one in answer["results"]] == [True, False, False]
    policy["severity"] = {"borderline": "flag"}
    answer = moderate(client, input=[STEAL, BORROW, BAKE], policy=policy, explain="evidence")
    assert [one["action"] for one in answer["results"]] == ["block", "flag", "allow"]
    _, borrow, bake = answer["results"]
    assert {e["category"] for e in borrow["evidence"]} == {"borderline"}
    assert bake["evidence"] == []


def test_an_answer_that_goes_on_behind_its_refusal_is_no_refusal(knowing):
    declining = knowing.judge(response(DECLINED["response"], to=STEAL))
    beginning = f"{DECLINED['response']} " + f"{STEAL} " * 20
    going_on = knowing.judge(response(beginning, to=STEAL))
    own = knowing.bundle.thresholds["refusal"]
    assert declining.refusal is not None
    assert going_on.refusal is not None
    assert going_on.windows > 1
    assert declining.refusal >= own.block > own.flag - 1e-9 > going_on.refusal


def test_a_policy_that_only_scores_withholds_each_fields_action(client):
    answer = moderate(client, input=DECLINED, policy=PLAIN | {"mode": "score"})
    fields = answer["fields"]
    assert [field["action"] for field in fields.values()] == ["allow", "allow"]
    assert [field["withheld"] for field in fields.values()] == ["block", "allow"]
    assert fields["prompt"]["severity"] == "unsafe"
    assert fields["response"]["refusal"]["flagged"]


def test_the_openai_dialect_judges_prompts_and_no_policy_can_make_it_pass_them(
    graded_bundle, tmp_path
):
    (tmp_path / "default.yaml").write_text("name: default\noverall: {}\njudge: [response]\n")
    settings = Settings(bundle=graded_bundle.path, policies=tmp_path)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        answer = client.post("/v1/moderations", json={"input": STEAL})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "nothing_to_judge"


def test_the_contract_names_the_sides(shipped):
    schema = shipped.get("/openapi.json").json()
    body = schema["paths"]["/moderate"]["post"]["requestBody"]["content"]["application/json"]
    (sides, null) = body["schema"]["properties"]["judge"]["anyOf"]
    assert sides["items"]["enum"] == ["prompt", "response", "document"]
    assert (sides["minItems"], null) == (1, {"type": "null"})


def test_metrics_count_contents_by_question_and_severity(graded_bundle):
    with TestClient(create_app(Settings(bundle=graded_bundle.path))) as client:
        wait_until_ready(client)
        moderate(client, input=[DECLINED, COMPLIED, {"text": "you silly goose number 5"}])
        said = client.get("/metrics").text
    for question, severity, count in (
        ("prompt", "unsafe", 2.0),
        ("response", "safe", 1.0),
        ("response", "unsafe", 1.0),
        ("toxicity", "unsafe", 1.0),
    ):
        series = f'tamis_contents_total{{question="{question}",severity="{severity}"}} {count}'
        assert series in said
    assert 'tamis_refusals_total{refuses="true"} 1.0' in said
    assert 'tamis_refusals_total{refuses="false"} 1.0' in said


def test_policies_are_offered_with_what_they_decide_by(graded_bundle, tmp_path):
    (tmp_path / "default.yaml").write_text("name: default\noverall: {}\n")
    more = "sensitivity: strict\nseverity: {borderline: flag}\njudge: [response]\n"
    (tmp_path / "guard.yaml").write_text(f"name: guard\noverall: {{}}\n{more}")
    folder = shutil.copytree(graded_bundle.path, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    for head in manifest["heads"]:
        head["sensitivities"] = {}
        if head["name"] == "response":
            head["sensitivities"] = {"strict": {"flag": 0.0123, "block": 0.0456}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with TestClient(create_app(Settings(bundle=folder, policies=tmp_path))) as client:
        wait_until_ready(client)
        usual, guard = client.get("/policies").json()["policies"]
        answer = moderate(client, input=COMPLIED, policy="guard")
    assert (usual["sensitivity"], usual["severity"]) == ("balanced", {"borderline": "allow"})
    assert usual["judge"] is None
    assert (guard["sensitivity"], guard["severity"]) == ("strict", {"borderline": "flag"})
    assert guard["judge"] == ["response"]
    assert guard["overall"]["response"] == {"flag": 0.0123, "block": 0.0456}
    assert guard["overall"]["prompt"] == usual["overall"]["prompt"]
    assert answer["threshold"] == 0.0123


def test_a_stored_correction_says_what_was_said_of_its_content(graded_bundle, tmp_path):
    settings = Settings(bundle=graded_bundle.path, feedback=str(tmp_path / "feedback.sqlite"))
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        body = {"input": DECLINED, "field": "response", "label": "safe"}
        assert client.post("/feedback", json=body).json()["agrees"]
    (kept,) = open_store(settings.feedback).read()
    assert kept.verdict is not None
    assert kept.verdict["severity"] == "safe"
    assert kept.verdict["fields"]["response"]["refusal"]["flagged"]
