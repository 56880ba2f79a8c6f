"""What an operator sets, seen from outside."""

import http.client
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from benchmarks.server import free_port
from service.access import new_key
from service.observing.metrics.exposition import bury_dead
from service.settings import Settings
from tests.service.observed import running

INSULT = {"text": "Tell my sister she is a worthless, ugly idiot."}
POLICIES = {
    "quiet": {"mode": "score", "categories": {"toxicity": {"flag": 0.1, "block": 0.2}}},
    "live": {"shadow": "trial", "categories": {"toxicity": {"flag": 0.1, "block": 1}}},
    "trial": {"categories": {"toxicity": {"flag": 0.1, "block": 0.2}}},
}
Start = Callable[..., TestClient]


@pytest.fixture
def start(bundle, tmp_path: Path) -> Iterator[Start]:
    """Starts applications with these policies and the settings given."""
    folder = tmp_path / "policies"
    folder.mkdir()
    for name, policy in POLICIES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name} | policy))
    with ExitStack() as stack:

        def started(**settings: Any) -> TestClient:
            own = Settings(bundle=bundle.path, policies=folder, **settings)
            return stack.enter_context(running(own))

        yield started


def keys(path: Path, **scopes: list[str]) -> dict[str, dict[str, str]]:
    """Writes a file of keys; gives the header for each."""
    made = {name: new_key(name, scopes=which) for name, which in scopes.items()}
    path.write_text(yaml.safe_dump([entry for _, entry in made.values()]))
    return {name: {"authorization": f"Bearer {key}"} for name, (key, _) in made.items()}


def sample(text: str, name: str) -> float:
    found = [line for line in text.splitlines() if line.startswith(name)]
    assert found, f"no {name}"
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_a_policy_that_scores_says_what_it_withholds(start: Start):
    client = start()
    answer = client.post("/moderate", json={"input": INSULT, "policy": "quiet"}).json()
    assert answer["action"] == "allow"
    assert answer["flagged"] is False
    assert answer["withheld"] == "block"
    assert answer["categories"]["toxicity"]["flagged"] is False
    assert answer["categories"]["toxicity"]["score"] > answer["categories"]["toxicity"]["threshold"]
    text = client.get("/metrics").text
    assert sample(text, 'tamis_verdicts_total{action="block",mode="score"}') == 1
    assert "withheld" not in client.post("/moderate", json={"input": INSULT}).json()


def test_a_service_that_only_scores(start: Start):
    client = start(mode="score")
    answer = client.post("/v1/moderations", json={"input": INSULT["text"]}).json()["results"][0]
    assert answer["flagged"] is False
    assert not any(answer["categories"].values())
    assert max(answer["category_scores"].values()) > 0.5


def test_a_shadow_is_counted_and_not_seen(start: Start):
    client = start()
    answer = client.post("/moderate", json={"input": [INSULT, "hello"], "policy": "live"}).json()
    assert [result["action"] for result in answer["results"]] == ["flag", "allow"]
    assert all(result["policy"].startswith("live@") for result in answer["results"])
    text = client.get("/metrics").text
    name = (
        'tamis_shadow_verdicts_total{action="%s",policy="live",shadow="trial",shadow_action="%s"}'
    )
    assert sample(text, name % ("flag", "block")) == 1
    assert sample(text, name % ("allow", "allow")) == 1
    # The verdicts of the policy in force are counted once.
    assert sample(text, "tamis_verdicts_total") == 2


def test_policies_are_listed_with_the_thresholds_that_hold(start: Start):
    client = start()
    listed = client.get("/policies").json()
    assert listed["default"] == "default"
    offered = {policy["name"]: policy for policy in listed["policies"]}
    assert set(offered) == {"default", *POLICIES}
    assert offered["live"]["shadow"] == "trial"
    assert offered["live"]["overall"] is None
    assert offered["quiet"]["mode"] == "score"
    toxicity = offered["live"]["categories"]["toxicity"]
    assert (toxicity["flag"], toxicity["block"]) == (0.1, 1)
    assert "Rude" in toxicity["definition"]
    default = offered["default"]
    answer = client.post("/moderate", json={"input": "hello"}).json()
    assert default["overall"]["prompt"]["flag"] == pytest.approx(answer["threshold"], abs=1e-4)
    for name, category in default["categories"].items():
        taught = name in answer["categories"] or name == "attack"
        assert (category["flag"] is not None) == taught


def test_policies_are_listed_to_those_whose_policy_the_reasoner_judges(
    start: Start, tmp_path: Path
):
    loans = {"loan promises": {"definition": "Promises a loan."}, "hate": {}}
    bank = {"name": "bank", "categories": loans}
    (tmp_path / "policies" / "bank.yaml").write_text(yaml.safe_dump(bank))
    key, entry = new_key("app", policy="bank")
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    client = start(keys=tmp_path / "keys.yaml")
    answer = client.get("/policies", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["default"] == "bank"
    offered = {policy["name"]: policy for policy in answer.json()["policies"]}
    assert offered["bank"]["own"] == ["loan promises"]
    unscored = loans["loan promises"] | {"flag": None, "block": None, "given": {}}
    assert offered["bank"]["categories"]["loan promises"] == unscored
    assert offered["default"]["own"] == []


def test_keys_guard_everything_but_health(start: Start, tmp_path: Path):
    path = tmp_path / "keys.yaml"
    held = keys(path, app=["moderate"], prometheus=["metrics"], operator=["admin"])
    client = start(keys=path)
    for ask in (
        lambda h: client.post("/moderate", json={"input": "hello"}, headers=h),
        lambda h: client.post("/v1/moderations", json={"input": "hello"}, headers=h),
        lambda h: client.get("/policies", headers=h),
    ):
        assert ask(held["app"]).status_code == 200
        assert ask(held["prometheus"]).status_code == 403
        assert ask({}).status_code == 401
        assert ask({}).headers["www-authenticate"] == "Bearer"
    assert client.get("/metrics").status_code == 401
    text = client.get("/metrics", headers=held["prometheus"]).text
    assert sample(text, 'tamis_refused_total{reason="key"}') >= 3
    assert sample(text, 'tamis_refused_total{reason="scope"}') == 3
    assert client.post("/admin/reload", headers=held["app"]).status_code == 403
    answer = client.post("/admin/reload", headers=held["operator"]).json()
    assert answer["keys"] == 3
    assert set(answer["policies"]) == {"default", *POLICIES}


def test_a_reload_says_what_is_wrong_and_changes_nothing(start: Start, tmp_path: Path):
    path = tmp_path / "keys.yaml"
    held = keys(path, operator=["admin", "moderate"])["operator"]
    client = start(keys=path, reload_seconds=0)
    file = tmp_path / "policies" / "live.yaml"
    file.write_text("name: live\ncategories: {toxicity: {flag: 2}}\n")
    answer = client.post("/admin/reload", headers=held)
    assert answer.status_code == 409
    assert "live.yaml: category 'toxicity': 'flag' must be" in answer.json()["error"]["message"]
    file.write_text("name: live\ncategories: {toxicity: {flag: 1}}\n")
    ask = {"input": INSULT, "policy": "live"}
    assert client.post("/moderate", json=ask, headers=held).json()["flagged"]
    assert client.post("/admin/reload", headers=held).status_code == 200
    assert not client.post("/moderate", json=ask, headers=held).json()["flagged"]


def test_without_keys_nobody_may_reload_on_the_public_port(start: Start):
    assert start().post("/admin/reload").status_code == 404


def test_a_key_of_its_own_rate_is_told_when_to_come_back(start: Start, tmp_path: Path):
    path = tmp_path / "keys.yaml"
    key, entry = new_key("app", rate=0.001, burst=4)
    path.write_text(yaml.safe_dump([entry]))
    client = start(keys=path)
    header = {"x-api-key": key}
    assert client.post("/moderate", json={"input": ["a", "b", "c"]}, headers=header).is_success
    assert client.post("/moderate", json={"input": "d"}, headers=header).is_success
    refused = client.post("/moderate", json={"input": "e"}, headers=header)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limited"
    assert int(refused.headers["retry-after"]) > 1


def test_administration_on_a_port_of_its_own(start: Start):
    port = free_port()
    client = start(admin_port=port)
    assert client.get("/metrics").status_code == 404
    assert client.post("/admin/reload").status_code == 404
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for method, path, expected in (
            ("GET", "/metrics", b"tamis_ready 1.0"),
            ("GET", "/health/ready", b"ready"),
            ("POST", "/admin/reload", b'"quiet"'),
            ("POST", "/moderate", b"not_found"),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            assert expected in answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("named", ["https://app.example", "https://App.example/"])
def test_other_origins_are_let_in_only_where_named(start: Start, named: str):
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in start().options("/moderate", headers=asked).headers
    client = start(cors_origins=f"https://other.example, {named}")
    allowed = client.options("/moderate", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    answer = client.post("/moderate", json={"input": "x"}, headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    stranger = client.options("/moderate", headers=asked | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_two_who_are_scraped_at_once_may_bury_the_same_process(tmp_path: Path, monkeypatch):
    path, real = tmp_path / "gauge_livesum_999999999.db", os.remove
    path.touch()

    def late(file: str) -> None:
        real(file)  # the other was faster
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "remove", late)
        bury_dead(tmp_path)
    assert not path.exists()
