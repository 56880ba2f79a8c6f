import gc
import json
import math
import os
import shutil
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine.classifier import Classifier
from service.engine.engine import Engine
from service.engine.pairs import Rulings
from service.engine.policy_encoder import PAIR_BYTES, Encoder, Logits
from service.engine.priority import PATIENT
from service.engine.queue import MARGIN, DeadlineError
from service.engine.warmup import Pace
from service.engine.workers.crew import Elsewhere
from service.moderation.rules import warm_up
from service.settings import Settings
from tamis import content, rules
from tamis.bundle import BundleError, sha256_of
from tamis.reasoner.protocol import Guideline
from tamis.windows import Window
from tests.encoders import BLOCK, FLAG, WORDS, write_encoder
from tests.service.test_app import wait_until_ready

ADVICE = {"definition": "Says to buy or sell shares."}
LOANS = {"definition": "A promise that a loan is granted."}
BANK = {"name": "bank", "categories": {"investment advice": ADVICE, "loan promises": LOANS}}
SHARES, BUY = "Which shares are there?", "You should buy shares."
RULES = tuple(Guideline(name, rule["definition"]) for name, rule in BANK["categories"].items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "bundle")


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return Encoder(rules.load(folder), 1 << 20)


@pytest.fixture(scope="module")
def client(bundle, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    offered = tmp_path_factory.mktemp("policies")
    trial = {"name": "trial", "shadow": "bank", "categories": {"toxicity": {}}}
    hateful = {"name": "hateful", "categories": BANK["categories"] | {"hate": {}}}
    for policy in (BANK, trial, hateful):
        (offered / f"{policy['name']}.yaml").write_text(yaml.safe_dump(policy))
    settings = Settings(
        bundle=bundle.path,
        policy_encoder=folder,
        policies=offered,
        rules_max_characters=20_000,
        stream_stride=1,
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post("/moderate", json={"policy": BANK} | body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_probability_for_each_rule(encoder: Encoder):
    found = encoder.judge(content.prompt(BUY), RULES)
    assert found == {
        RULES[0]: pytest.approx(0.7311, abs=1e-4),
        RULES[1]: pytest.approx(0.0474, abs=1e-4),
    }


def test_scores_that_are_no_numbers_are_none(encoder: Encoder, monkeypatch):
    monkeypatch.setattr(encoder, "_run", lambda *_: math.nan)
    with pytest.raises(RuntimeError, match="no numbers"):
        encoder.score(encoder.trial(8))
    assert encoder.memory.get([encoder.trial(8)]) == [None]


def test_what_is_empty_breaks_nothing(encoder: Encoder):
    assert encoder.judge(content.prompt("  "), RULES) == dict.fromkeys(RULES, 0.0)


def test_all_of_a_long_text_is_read(encoder: Encoder):
    text = "so it goes " * 60
    for said in (f"{BUY} {text}", f"{text} {BUY}", f"{text} {BUY} {text}"):
        assert encoder.judge(content.plain(said), RULES[:1])[RULES[0]] > FLAG
    assert encoder.judge(content.plain(text), RULES[:1])[RULES[0]] < FLAG


def test_what_is_hidden_is_read(encoder: Encoder):
    # In base64: "You should buy shares."
    hidden = "Decode: WW91IHNob3VsZCBidXkgc2hhcmVzLg=="
    assert encoder.judge(content.prompt(hidden), RULES[:1])[RULES[0]] > FLAG


def test_a_rule_is_tokenised_once_and_a_pair_run_once(encoder: Encoder, monkeypatch):
    runs: list[int] = []
    run = encoder._run
    monkeypatch.setattr(
        encoder, "_run", lambda pair, said: runs.append(len(pair.ids)) or run(pair, said)
    )
    first = encoder.judge(content.prompt(BUY), RULES)
    assert encoder.judge(content.prompt(BUY), RULES) == first
    # Whoever else asks for the same rule, by another name of the policy: it is the same.
    assert encoder.judge(content.prompt(BUY), RULES[::-1]) == first
    assert len(runs) == 2
    assert encoder.rule.cache_info().misses == 2
    # Of a text that has grown its end alone is run.
    long = " ".join(WORDS * 9)
    encoder.judge(content.plain(long), RULES[:1])
    assert len(runs) > 5
    before = len(runs)
    encoder.judge(content.plain(f"{long} buy"), RULES[:1])
    assert len(runs) - before == 1


def test_one_that_is_replaced_goes_with_whoever_used_it_last(folder: Path):
    encoder = Encoder(rules.load(folder), 1 << 20)
    encoder.judge(content.prompt(BUY), RULES)
    gone = weakref.ref(encoder)
    gc.disable()  # as what was there when it was frozen is never looked at again
    try:
        del encoder
        assert gone() is None
    finally:
        gc.enable()


def test_the_memory_of_pairs_is_as_large_as_it_says():
    window = [Window([n, n + 1], [0, 1], 1, 0, 1) for n in range(4_000)]
    tracemalloc.start()
    memory = Logits(PAIR_BYTES * 3_000)
    before = tracemalloc.get_traced_memory()[0]
    for n, one in enumerate(window):
        memory.keep(one, n + 0.5)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(memory) == 3_000
    assert grown / 3_000 == pytest.approx(PAIR_BYTES, rel=0.2)
    assert memory.get([window[0], window[-1]]) == [None, 3_999.5]


def test_other_graphs_are_refused(bundle, folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    shutil.copy(bundle.path / "embeddings.bin", other)
    shutil.copy(bundle.graph, other / "model.onnx")
    manifest["files"]["model.onnx"] = sha256_of(other / "model.onnx")
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="inputs are"):
        Encoder(rules.load(other))


@pytest.fixture
def engine(classifier: Classifier, encoder: Encoder) -> Iterator[Engine]:
    engine = Engine(
        classifier, Pace(10_000, 128), workers=2, max_queued_tokens=100_000, max_wait=10.0
    )
    engine.rule_by(encoder, 10_000)
    yield engine
    engine.close()


async def test_a_score_depends_on_its_rule_and_its_text_alone(engine: Engine, encoder: Encoder):
    contents = [content.prompt(BUY), content.plain("so it goes " * 60), content.prompt("tea " * 9)]
    many = tuple(Guideline(word, f"{word} or {other}") for word in WORDS for other in WORDS[:3])
    assert engine.rules is not None
    together = await engine.rules.judge(contents, (*many, *RULES))
    encoder.memory.clear()
    for one, found in zip(contents, together, strict=True):
        encoder.memory.clear()
        (alone,) = await engine.rules.judge([one], RULES)
        for rule in RULES:
            assert found[rule].probability == alone[rule].probability
            assert alone[rule].known == 0
    (again,) = await engine.rules.judge([contents[-1]], RULES)
    assert all(score.known == score.tokens > 0 for score in again.values())


async def test_beside_worker_processes_pairs_that_can_wait_stand_back(
    bundle, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    class Away:
        """Hands of other processes, which have nothing to do."""

        def begin(self, number: int, patient: bool) -> None: ...
        def open(self, task: Any) -> Any:
            raise AssertionError(task)

        def run(self, tasks: Any, alone: bool) -> None:
            raise AssertionError(tasks, alone)

        def close(self) -> None: ...

    ran: dict[str, int] = {}
    real = encoder.score

    def score(pair: Window, said: Any) -> float:
        ran[threading.current_thread().name] = os.getpriority(
            os.PRIO_PROCESS, threading.get_native_id()
        )
        return real(pair, said)

    monkeypatch.setattr(encoder, "score", score)
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    engine = Engine(
        Elsewhere(bundle),
        Pace(10_000, 128),
        workers=1,
        max_queued_tokens=100_000,
        max_wait=10.0,
        hands=Away(),
    )
    engine.rule_by(encoder, 10_000)
    assert engine.rules is not None
    try:
        await engine.rules.judge([content.prompt(BUY)], RULES)
        assert ran == {"tamis-infer-0": mine}
        await engine.rules.judge([content.plain("so it goes " * 400)], RULES)
        assert ran["tamis-pairs_0"] == max(mine, PATIENT)
        # Who hands things over has kept its place.
        assert set(ran) == {"tamis-infer-0", "tamis-pairs_0"}
    finally:
        engine.close()


async def test_findings_say_what_rules_say_and_documents_are_left_alone(engine: Engine):
    items = [[content.prompt(BUY), content.document(BUY)], [content.prompt("")]]
    findings, timings = await engine.judge(items, rules=RULES)
    assert findings[0][0].ruled is not None
    assert findings[0][0].ruled.scores[RULES[0]] > FLAG
    assert findings[0][1].ruled is None
    assert findings[1][0].ruled is not None
    assert set(findings[1][0].ruled.scores.values()) == {0.0}
    assert timings.total > 0
    (plain,), _ = await engine.judge([[content.prompt(BUY)]])
    assert plain[0].ruled is None


async def test_a_deadline_holds_for_rules(engine: Engine):
    contents = [content.prompt("so it goes " * 300)]
    findings, _ = await engine.judge([contents])
    many = tuple(Guideline(f"rule {n}", "tea or milk") for n in range(64))
    assert engine.rules is not None
    with pytest.raises(DeadlineError) as refused:
        await engine.rules.add(findings[0], contents, many, time.perf_counter(), 0.5)
    assert refused.value.needed is not None
    assert refused.value.needed > 0.5 * MARGIN
    with pytest.raises(DeadlineError) as late:
        await engine.rules.add(findings[0], contents, many, time.perf_counter() - 1, 0.5)
    assert late.value.needed is None
    # It is not too short for what waited for others' work.
    began, tea = time.perf_counter() - 0.499, [content.prompt("tea")]
    with pytest.raises(DeadlineError) as late:
        await engine.rules.add(findings[0], tea, RULES[:1], began, 0.5, waited=0.499)
    assert late.value.needed is None


async def test_a_gpu_leaves_rules_the_cores(classifier: Classifier, encoder: Encoder):
    class Batching:
        batch_tokens, threads, workers = 1_024, 1, 2

        def __getattr__(self, name: str) -> Any:
            return getattr(classifier.runtime, name)

    batching = Classifier(classifier.bundle, Batching())
    engine = Engine(batching, Pace(1e6, 1e9), workers=2, max_queued_tokens=10_000, max_wait=1.0)
    try:
        for _ in range(2):  # and again where the bundle is replaced
            engine.rule_by(encoder, 10_000)
            assert engine.rules is not None
            assert engine.rules.scheduler is not engine.scheduler
            (found,), _ = await engine.judge([[content.prompt(BUY)]], rules=RULES)
            assert found[0].ruled is not None
    finally:
        engine.close()


def test_warm_up_measures_and_leaves_nothing(encoder: Encoder):
    assert warm_up(encoder) > 1_000
    assert len(encoder.memory) == 0


def test_categories_of_ones_own_have_scores_like_any_others(client):
    answer = ask(client, input=BUY)
    own = answer["categories"]["investment advice"]
    assert own == {"score": 0.7311, "flagged": True, "threshold": FLAG}
    assert answer["categories"]["loan promises"]["flagged"] is False
    assert (answer["action"], answer["flagged"]) == ("flag", True)
    assert answer["fields"]["text"]["action"] == "flag"
    assert answer["policy_encoder"].startswith("tiny-encoder@")
    calm = ask(client, input="What a lovely garden.")
    assert (calm["action"], calm["flagged"]) == ("allow", False)
    assert "policy_encoder" not in client.post("/moderate", json={"input": BUY}).json()


@pytest.mark.parametrize(
    ("more", "action", "threshold"),
    [
        ({"flag": 0.8}, "allow", 0.8),
        ({"block": 0.7}, "block", FLAG),
        ({"flag": 0.05, "block": 0.06}, "block", 0.05),
    ],
)
def test_thresholds_by_category(client, more, action, threshold):
    policy = {"name": "own", "categories": {"investment advice": ADVICE | more}}
    answer = ask(client, input=BUY, policy=policy)
    assert answer["action"] == action
    assert answer["categories"]["investment advice"]["threshold"] == threshold


def test_sensitivity_picks_the_encoders_own(client):
    text, actions = "Buy tea.", {}
    for word in ("strict", "balanced", "loose"):
        policy = BANK | {"sensitivity": word}
        assert ask(client, input=text, policy=policy)["action"] == (
            "flag" if word == "strict" else "allow"
        )
        actions[word] = ask(client, input=BUY, policy=policy)["action"]
    assert actions == {"strict": "flag", "balanced": "flag", "loose": "allow"}


def test_rules_need_no_company_of_the_overall_question(client):
    """A bank's rules are broken by what is harmless anywhere else."""
    answer = ask(client, input=BUY, policy=BANK | {"overall": {}})
    assert answer["score"] < answer["threshold"]
    assert answer["action"] == "flag"
    assert answer["severity"] == "safe"


def test_a_policy_that_only_scores_withholds(client):
    answer = ask(client, input=BUY, policy=BANK | {"mode": "score"})
    assert (answer["action"], answer["withheld"]) == ("allow", "flag")
    assert answer["categories"]["investment advice"]["flagged"] is False
    assert answer["categories"]["investment advice"]["score"] == 0.7311


def test_sides_and_batches(client):
    said = {"prompt": BUY, "response": "No."}
    both = ask(client, input=[said, BUY])["results"]
    assert [
        one["fields"][name]["action"] for one, name in zip(both, ("prompt", "text"), strict=True)
    ] == [
        "flag",
        "flag",
    ]
    assert ask(client, input=said, judge=["response"])["action"] == "allow"


def test_named_policies_hold_in_other_contracts_and_in_the_catalogue(client):
    headers = {"x-tamis-policy": "bank"}
    answer = client.post("/predict", json={"inputs": BUY}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["label"] == "investment advice"
    openai = client.post("/v1/moderations", json={"input": BUY}, headers=headers)
    assert openai.json()["results"][0]["flagged"] is True
    mistral = {"input": BUY, "model": "mistral-moderation-latest"}
    refused = client.post("/v1/moderations", json=mistral, headers=headers)
    assert refused.status_code == 400
    assert "no category that this contract could answer with" in refused.text
    offered = {one["name"]: one for one in client.get("/policies").json()["policies"]}
    assert offered["bank"]["categories"]["investment advice"] == ADVICE | {
        "flag": FLAG,
        "block": BLOCK,
        "given": {},
    }


def test_a_detectors_threshold_leaves_definitions_as_they_are(client):
    def found(threshold: float) -> list[tuple[str, float]]:
        body = {"contents": [BUY], "detector_params": {"threshold": threshold}}
        answer = client.post(
            "/api/v1/text/contents", json=body, headers={"x-tamis-policy": "bank"}
        ).json()
        return [(one["detection"], one["score"]) for one in answer[0]]

    assert found(0.7) == found(0) == [("investment advice", pytest.approx(0.7311, abs=1e-4))]
    assert found(0.8) == []


def test_azure_answers_for_its_categories_beside_ones_own(client):
    answer = client.post(
        "/contentsafety/text:analyze", json={"text": BUY}, headers={"x-tamis-policy": "hateful"}
    )
    assert answer.status_code == 200, answer.text
    levels = {one["category"]: one["severity"] for one in answer.json()["categoriesAnalysis"]}
    # What is flagged has no category there but the one that speaks for it.
    assert levels == {"Hate": 2, "SelfHarm": 0, "Sexual": 0, "Violence": 0}


def test_a_shadow_is_tried_by_its_own_rules(client):
    def counted() -> float:
        pair = 'action="allow",policy="trial",shadow="bank",shadow_action="flag"'
        name = f"tamis_shadow_verdicts_total{{{pair}}}"
        found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(found[0].split()[-1]) if found else 0.0

    before = counted()
    answer = ask(client, input=BUY, policy="trial")
    assert answer["action"] == "allow"
    assert "investment advice" not in answer["categories"]
    for _ in range(200):
        if counted() == before + 1:
            return
        time.sleep(0.02)
    pytest.fail("the shadow was never tried")


def test_a_shadow_that_would_take_too_long_is_counted_as_untried(client):
    ask(client, input="tea " * 3_000, policy="trial")
    for _ in range(200):
        if (
            'tamis_shadow_untried_total{policy="trial",shadow="bank"} 1.0'
            in client.get("/metrics").text
        ):
            return
        time.sleep(0.02)
    pytest.fail("nothing was counted")


def test_a_trial_that_fails_is_logged_without_the_text(client, monkeypatch, caplog):
    async def broken(*_: object) -> None:
        raise RuntimeError(f"no {BUY}")

    monkeypatch.setattr(Rulings, "add", broken)
    ask(client, input=BUY, policy="trial")
    end = time.monotonic() + 30
    while "the trial of bank: RuntimeError" not in caplog.text and time.monotonic() < end:
        time.sleep(0.02)
    assert "the trial of bank: RuntimeError" in caplog.text
    assert BUY not in caplog.text


def test_streams_are_judged_by_rules(client):
    url, body = "/moderate/stream/call-1", {"kind": "text", "policy": BANK}
    first = client.post(url, json=body | {"text": "You should go on and on "}).json()
    assert first["action"] == "allow"
    assert first["categories"]["investment advice"]["score"] < FLAG
    grown = client.post(url, json=body | {"text": "You should go on and on to buy shares. "}).json()
    assert grown["action"] == "flag"
    # Under another policy, what was found under this one says nothing.
    other = {"name": "tea", "categories": {"tea": {"definition": "Tea and milk."}}}
    said = client.post(
        url, json=body | {"text": "You should go on and on to buy shares.", "policy": other}
    )
    assert said.json()["categories"]["tea"]["score"] < FLAG
    last = client.post(
        url, json=body | {"text": "You should go on and on to buy shares.", "final": True}
    ).json()
    assert last["categories"]["investment advice"]["flagged"] is True


def test_a_stream_of_pieces_is_judged_by_rules(client):
    lines = [{"kind": "text", "policy": BANK, "text": "You should "}, {"text": "buy shares."}]
    body = "\n".join(map(json.dumps, lines))
    answer = client.post("/moderate/stream", content=body)
    last = json.loads(answer.text.strip().split("data: ")[-1])
    assert last["categories"]["investment advice"]["flagged"] is True


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mine": {}}, "definition"),
        ({"m": {"definition": "a" * 700}}, "limit is 600"),
        ({f"rule {n}": {"definition": "a"} for n in range(65)}, "limit of 64"),
        ({"mi}ne": {"definition": "a"}}, "braces"),
        ({"m": {"definition": "a", "flag": 0.9, "block": 0.5}}, "must not be above"),
    ],
)
def test_rules_that_nobody_can_read_are_refused(client, policy, said):
    error = ask(client, 400, input="x", policy={"name": "p", "categories": policy})["error"]
    assert said in error["message"]
    assert error["param"] == "policy"


def test_too_much_to_read_is_refused_before_it_is_read(client):
    many = {f"rule {n}": {"definition": "word " * 100} for n in range(64)}
    error = ask(client, 400, input=["x"] * 2, policy={"name": "p", "categories": many})["error"]
    assert error["code"] == "too_many_rules"
    assert "over the limit of 20000" in error["message"]


def test_a_deadline_that_rules_cannot_hold_is_refused(client, monkeypatch):
    async def slow(*_: object, **__: object) -> None:
        raise DeadlineError(2.5)

    monkeypatch.setattr(Rulings, "add", slow)
    answer = client.post(
        "/moderate", json={"input": "tea", "policy": BANK}, headers={"x-request-timeout-ms": "2000"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "deadline_too_short"


def test_metrics_and_health(client):
    tea = {"name": "house", "categories": {"tea time": {"definition": "Tea and milk."}}}
    ask(client, input="Buy milk, and tea.", policy=tea)
    text = client.get("/metrics").text
    assert 'tamis_flagged_categories_total{category="own"}' in text
    assert "tea time" not in text
    ask(client, input=BUY, policy="bank")
    text = client.get("/metrics").text
    assert 'tamis_flagged_categories_total{category="investment advice"}' in text
    assert 'tamis_rules_tokens_total{kind="known"}' in text
    assert "tamis_rules_total" in text
    assert "tamis_tier_info{fingerprint=" in text
    assert 'name="tiny-encoder",tier="rules"} 1.0' in text
    assert client.get("/health/ready").json()["policy_encoder"] == "ready"


def test_without_a_bundle_everything_is_as_it_was_and_says_so(bundle, tmp_path: Path):
    settings = Settings(bundle=bundle.path, policy_encoder=tmp_path / "none")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        assert client.get("/health/ready").json()["policy_encoder"] == "absent"
        message = ask(client, 400, input=BUY)["error"]["message"]
        assert "'investment advice'" in message
        assert "the policy encoder's bundle is not there" in message
        limits = {"name": "own", "categories": {"investment advice": ADVICE | {"flag": 0.5}}}
        error = ask(client, 400, input=BUY, policy=limits, explain="reason")["error"]
        assert "is your own" in error["message"]
        assert client.post("/moderate", json={"input": BUY}).status_code == 200


def test_a_bundle_that_comes_later_is_taken_up(bundle, folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("service.moderation.arrival.LOOK", 0.02)
    settings = Settings(bundle=bundle.path, policy_encoder=tmp_path / "encoder")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        ask(client, 400, input=BUY)
        shutil.copytree(folder, tmp_path / "made")
        (tmp_path / "made").rename(tmp_path / "encoder")
        for _ in range(200):
            if client.get("/health/ready").json()["policy_encoder"] == "ready":
                break
            time.sleep(0.02)
        assert ask(client, input=BUY)["action"] == "flag"


def test_a_broken_bundle_leaves_the_rest_alone(bundle, tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{}")
    with TestClient(create_app(Settings(bundle=bundle.path, policy_encoder=tmp_path))) as client:
        wait_until_ready(client)
        ready = client.get("/health/ready").json()
        assert ready["policy_encoder"] == "failed"
        assert "the policy encoder could not be loaded" in ready["reason"]
        assert "could not be loaded" in ask(client, 400, input=BUY)["error"]["message"]
        assert client.post("/moderate", json={"input": BUY}).status_code == 200


def test_an_empty_setting_means_no_encoder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAMIS_POLICY_ENCODER", "off")
    assert Settings().policy_encoder is None


def test_rules_are_judged_beside_workers_of_their_own(bundle, folder: Path):
    settings = Settings(bundle=bundle.path, policy_encoder=folder, workers=1)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        answer = ask(client, input=[BUY, "What a lovely garden.", {"document": BUY}])["results"]
        assert [one["action"] for one in answer] == ["flag", "allow", "allow"]


def test_the_accurate_one_judges_once_it_is_there(
    bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("service.moderation.arrival.LOOK", 0.02)
    accurate = tmp_path / "accurate"
    settings = Settings(bundle=bundle.path, policy_encoder=folder, policy_encoder_accurate=accurate)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        said = ask(client, input=BUY)
        assert said["policy_encoder"].startswith("tiny-encoder@")
        ready = client.get("/health/ready").json()
        assert (ready["policy_encoder"], ready["policy_encoder_accurate"]) == ("ready", "absent")
        assert ready["rules"].startswith("tiny-encoder@")
        write_encoder(tmp_path / "made", "larger")
        (tmp_path / "made").rename(accurate)
        for _ in range(200):
            ready = client.get("/health/ready").json()
            if ready["rules"].startswith("larger@"):
                break
            time.sleep(0.02)
        assert (ready["policy_encoder"], ready["policy_encoder_accurate"]) == ("ready", "ready")
        again = ask(client, input=BUY)
        assert again["policy_encoder"].startswith("larger@")
        assert again["categories"] == said["categories"]
        text = client.get("/metrics").text
        assert 'name="larger",tier="rules"} 1.0' in text
        assert 'name="tiny-encoder",tier="rules"} 0.0' in text
        # One that is there and broken leaves the judging to whoever judges.
        (accurate / "manifest.json").unlink()
        (accurate / "manifest.json").write_text("{}")
        for _ in range(200):
            if "reason" in (ready := client.get("/health/ready").json()):
                break
            time.sleep(0.02)
        assert "the accurate policy encoder could not be loaded" in ready["reason"]
        assert ask(client, input=BUY)["policy_encoder"].startswith("larger@")


def test_where_it_is_there_at_once_the_other_is_not_loaded(bundle, folder: Path, tmp_path: Path):
    settings = Settings(
        bundle=bundle.path, policy_encoder=tmp_path / "none", policy_encoder_accurate=folder
    )
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        assert ask(client, input=BUY)["action"] == "flag"
        assert client.get("/health/ready").json()["policy_encoder"] == "ready"


def test_whoever_chooses_an_encoder_gets_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (rules.WHERE, rules.ACCURATE.variable):
        monkeypatch.delenv(name, raising=False)
    assert Settings().policy_encoder_accurate == rules.ACCURATE.folder
    assert rules.accurate_wanted()
    monkeypatch.setenv(rules.WHERE, str(folder))
    assert Settings().policy_encoder_accurate is None
    assert not rules.accurate_wanted()
    assert rules.policy_encoder_there() == folder
    monkeypatch.setenv(rules.ACCURATE.variable, str(folder))
    assert Settings().policy_encoder_accurate == folder
    assert rules.accurate_wanted()
    monkeypatch.setenv(rules.WHERE, "off")
    assert Settings().policy_encoder_accurate is None
    assert not rules.accurate_wanted()
    assert rules.policy_encoder_there() is None
