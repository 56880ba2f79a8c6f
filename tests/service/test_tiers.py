import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from fastapi.testclient import TestClient

import service.moderation.arrival
from service.app import create_app
from service.engine.cascade import Cascade
from service.engine.classifier import Classifier, load_classifier
from service.engine.engine import Engine
from service.engine.memory import Memory
from service.engine.policy_encoder import Encoder
from service.engine.scheduler import DeadlineError
from service.engine.warmup import Pace
from service.observing.audit.replay import replay
from service.settings import Settings
from tamis import rules
from tamis.bundle import MANIFEST, Bundle, BundleError
from tamis.cli import main
from tamis.content import exchange, plain, prompt
from tamis.deciding import decide
from tamis.policies.parsing import default_policy
from tamis.reasoner.protocol import Guideline
from tamis.tiers import BANDS, load_bands, second_of
from tamis.verdict import Provenance
from tests.encoders import write_encoder
from tests.service.observed import post, running, until, verdicts_of
from tests.service.test_operation import sample
from tests.service.tiers import GOOSE, SOUP, write_bands, write_second


@pytest.fixture(scope="module")
def second(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_second(bundle, tmp_path_factory.mktemp("tiers") / "second")


class Slow(Classifier):
    """A classifier whose every run takes a while."""

    seconds = 0.0

    def score(self, *args: Any, **more: Any) -> Any:
        time.sleep(self.seconds)
        return super().score(*args, **more)


@pytest.fixture(scope="module")
def accurate(second: Bundle) -> Slow:
    return Slow(second, load_classifier(second).runtime)


@pytest.fixture
def slow(accurate: Slow) -> Iterator[Callable[[float], None]]:
    yield lambda seconds: setattr(accurate, "seconds", seconds)
    accurate.seconds = 0.0


Make = Callable[..., Engine]


@pytest.fixture
def make(classifier: Classifier, accurate: Slow, second: Bundle) -> Iterator[Make]:
    made: list[Engine] = []

    def build(**options: Any) -> Engine:
        defaults: dict[str, Any] = {"workers": 2, "max_queued_tokens": 100_000, "max_wait": 10.0}
        engine = Engine(classifier, Pace(10_000, 128), **defaults | options)
        engine.consult(load_bands(second.path), accurate, Pace(2_000, 128))
        made.append(engine)
        return engine

    yield build
    for engine in made:
        engine.close()


async def test_only_what_is_unsure_is_asked_twice(
    make: Make, classifier: Classifier, accurate: Slow, second: Bundle
):
    (found,), timings = await make().judge([(plain(GOOSE), prompt(SOUP), plain(""))], True)
    whole = replace(accurate.judge(plain(GOOSE), True), second=second_of(second))
    own = classifier.bundle.thresholds
    assert found[0] == load_bands(second.path).settle(
        classifier.judge(plain(GOOSE), True), whole, own
    )
    assert found[0].overall == whole.overall
    assert found[0].overall != classifier.judge(plain(GOOSE)).overall
    assert found[0].evidence
    assert found[1:] == [classifier.judge(prompt(SOUP), True), classifier.judge(plain(""), True)]
    assert timings.total >= timings.queue + timings.infer


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_load_changes_no_score_and_nobody_is_refused_a_second_opinion(
    make: Make, classifier: Classifier, accurate: Slow, second: Bundle, cache_bytes: int
):
    # The queue has room for the first opinions alone, and no time at all for a wait.
    engine = make(cache_bytes=cache_bytes, max_queued_tokens=1_000, max_wait=5.0)
    texts = [f"{GOOSE} {n % 5}" for n in range(20)]
    cascade = Cascade(classifier, accurate, load_bands(second.path))
    alone = [cascade.judge(plain(text)) for text in texts]
    assert all(finding.second for finding in alone)
    together = await asyncio.gather(*(engine.judge([(plain(text),)]) for text in texts))
    assert [findings[0][0] for findings, _ in together] == alone
    assert engine.scheduler.queued_tokens == 0


async def test_who_wants_one_opinion_needs_no_room_for_a_second(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    engine, wanted = make(), list[int]()
    monkeypatch.setattr(engine.scheduler, "check_patience", wanted.append)
    ((found,),), _ = await engine.judge([(plain(GOOSE),)], alone=True)
    assert (found.second, wanted) == (None, [])
    ((found,),), _ = await engine.judge([(plain(GOOSE),)])
    assert found.second is not None
    assert min(wanted) > 0


async def test_a_deadline_leaves_the_first_opinion_and_says_so(make: Make, classifier, slow):
    slow(4)
    engine, began = make(), time.perf_counter()
    ((found,),), _ = await engine.judge([(plain(GOOSE),)], deadline=2)
    assert time.perf_counter() - began < 3
    assert found == replace(classifier.judge(plain(GOOSE)), missed="deadline")
    # With time enough it is given: what was cut short was not remembered.
    slow(0)
    ((found,),), _ = await engine.judge([(plain(GOOSE),)], deadline=30)
    assert found.second is not None
    with pytest.raises(DeadlineError):
        await engine.judge([(plain(SOUP * 200),)], deadline=0.001)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_second_opinion_that_fails_leaves_the_first(
    make: Make, classifier, accurate, monkeypatch: pytest.MonkeyPatch, caplog, cache_bytes: int
):
    def score(*_: Any, **__: Any) -> Any:
        raise FloatingPointError(GOOSE)

    engine = make(cache_bytes=cache_bytes)
    monkeypatch.setattr(accurate, "score", score)
    ((goose, soup),), _ = await engine.judge([(plain(GOOSE), prompt(SOUP))])
    assert goose == replace(classifier.judge(plain(GOOSE)), missed="failed")
    assert soup == classifier.judge(prompt(SOUP))
    (grown,), _, _ = await engine.judge_growing([(plain(GOOSE), Memory())], whole=True)
    assert grown.missed == "failed"
    assert "no second opinion: FloatingPointError\n" in caplog.text
    assert GOOSE not in caplog.text
    monkeypatch.undo()
    ((found,),), _ = await engine.judge([(plain(GOOSE),)])
    assert found.second is not None


async def test_rules_are_judged_whether_or_not_a_second_opinion_is_in_time(
    make: Make, slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder = Encoder(rules.load(write_encoder(tmp_path)))
    score = encoder.score
    monkeypatch.setattr(encoder, "score", lambda *pair: (time.sleep(0.3), score(*pair))[1])
    engine, asked = make(), (Guideline("tea or milk"),)
    engine.rule_by(encoder, 10_000)
    ((given,),), _ = await engine.judge([(plain(GOOSE),)], rules=asked)
    assert given.second is not None
    slow(4)
    ((found,),), _ = await engine.judge([(plain(GOOSE),)], deadline=2, rules=asked)
    assert found.missed == "deadline"
    assert found.ruled is not None
    assert found.ruled == given.ruled
    grown = [(plain(GOOSE), Memory())]
    (found,), _, _ = await engine.judge_growing(grown, 2, whole=True, rules=asked)
    assert (found.missed, found.ruled) == ("deadline", given.ruled)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_stream_is_asked_twice_at_its_end(
    make: Make, classifier: Classifier, accurate: Slow, second: Bundle, cache_bytes: int
):
    engine, memory = make(cache_bytes=cache_bytes), Memory()
    grown = [(plain(GOOSE), memory)]
    (early,), _, (work,) = await engine.judge_growing(grown)
    assert (early, work.windows, work.run) == (classifier.judge(plain(GOOSE)), 1, 1)
    (last,), _, (work,) = await engine.judge_growing(grown, whole=True)
    who = replace(second_of(second), cascade=load_bands(second.path).version)
    assert last == replace(accurate.judge(plain(GOOSE)), second=who)
    assert (work.windows, work.run) == (1, 0)
    ((again,),), _ = await engine.judge([(plain(GOOSE),)])
    assert again == last


async def test_no_second_classifier_yet(make: Make, accurate: Slow, second: Bundle, classifier):
    engine = make()
    engine.consult(load_bands(second.path))
    ((goose, soup),), _ = await engine.judge([(plain(GOOSE), prompt(SOUP))])
    assert goose == replace(classifier.judge(plain(GOOSE)), missed="not_ready")
    assert soup.missed is None
    engine.consult(None)
    ((goose,),), _ = await engine.judge([(plain(GOOSE),)])
    assert goose.missed is None


def test_every_content_is_held_against_its_own_bundles_thresholds(
    classifier: Classifier, accurate: Slow, second: Bundle, bundle: Bundle
):
    contents = exchange(GOOSE, "I am sorry to hear that.")
    first = [classifier.judge(content) for content in contents]
    other = replace(accurate.judge(contents[0]), second=second_of(second))
    policy = default_policy()
    who = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
    before = decide(first, policy, bundle.thresholds, who)
    after = decide([other, first[1]], policy, bundle.thresholds, who)
    assert after.threshold == second.thresholds["prompt"].flag
    assert after.score == other.overall
    assert after.provenance == replace(who, model="second", bundle=second.fingerprint)
    assert before.provenance == who
    assert (before.second_opinion, after.second_opinion) == (None, "given")
    assert after.categories["toxicity"].threshold == second.thresholds["toxicity"].flag
    # The one that decides names the bundle.
    quiet = replace(other, overall=0.0)
    calm = decide([quiet, replace(first[1], overall=0.9)], policy, bundle.thresholds, who)
    assert calm.provenance == who
    late = replace(first[1], missed="deadline")
    assert decide([other, late], policy, bundle.thresholds, who).second_opinion == "deadline"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "tamis.cascade/0"}, "this release reads"),
        ({"bands": {"prompt": {"overall": [0.9, 0.1]}}}, "not within"),
        ({"bands": {"prompt": [0.1]}}, "cascade.json"),
        ({"fast": {}}, "'fingerprint' is missing"),
    ],
)
def test_bands_that_cannot_be_used_say_why(second: Bundle, tmp_path: Path, change, said: str):
    found = json.loads((second.path / BANDS).read_text())
    (tmp_path / BANDS).write_text(json.dumps(found | change))
    with pytest.raises(BundleError, match=said):
        load_bands(tmp_path)


def test_bands_of_other_bundles_are_refused(second: Bundle, bundle: Bundle, classifier, accurate):
    bands = load_bands(second.path)
    bands.check(bundle, second)
    with pytest.raises(BundleError, match="was made for the bundle"):
        bands.check(second)
    with pytest.raises(BundleError, match="not for tamis-22m"):
        Cascade(accurate, classifier, replace(bands, fast=second.fingerprint))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.moderation.arrival, "LOOK", 0.02)


def cascade(bundle: Bundle, folder: Path, **more: Any) -> Settings:
    return Settings(bundle=bundle.path, tier="cascade", accurate=folder, **more)


def health(client: TestClient) -> dict[str, Any]:
    return client.get("/health/ready").json()


def test_whoever_waits_for_the_fast_bundle_is_told_so(tmp_path: Path):
    settings = Settings(bundle=tmp_path, tier="cascade", accurate=tmp_path / "accurate")
    with TestClient(create_app(settings)) as client:
        refused = client.post("/moderate", json={"input": SOUP})
        assert refused.json()["error"]["message"] == "the model is still loading"
        assert refused.headers["retry-after"] == "1"


def test_the_cascade_as_served(bundle, second: Bundle, tmp_path: Path, quick):
    folder, log = tmp_path / "accurate", tmp_path / "audit.jsonl"
    folder.mkdir()
    shutil.copy(second.path / BANDS, folder)
    with running(cascade(bundle, folder, audit=str(log))) as client:
        # The fast one answers alone, and what it is unsure of says so.
        until(lambda: health(client)["accurate"] == "absent")
        ready = health(client)
        assert (ready["status"], ready["tier"]) == ("ready", "cascade")
        assert "tamis export accurate" in ready["reason"]
        alone = post(client, input={"text": GOOSE})
        assert alone["second_opinion"] == "not_ready"
        assert alone["model"].startswith("tamis-22m@")
        assert "second_opinion" not in post(client, input=SOUP)

        shutil.rmtree(folder)
        shutil.copytree(second.path, tmp_path / "made")
        (tmp_path / "made").rename(folder)
        until(lambda: health(client)["accurate"] == "ready")
        assert "reason" not in health(client)
        asked = post(client, input=[{"text": GOOSE}, SOUP], explain="evidence")["results"]
        assert asked[0]["second_opinion"] == "given"
        assert asked[0]["model"] == f"second@{second.fingerprint[:12]}"
        assert asked[0]["score"] < alone["score"]
        assert asked[1]["model"].startswith("tamis-22m@")
        metrics = client.get("/metrics").text
    assert sample(metrics, 'tamis_answers_total{tier="fast"}') == 3
    assert sample(metrics, 'tamis_answers_total{tier="accurate"}') == 1
    assert sample(metrics, 'tamis_second_opinions_total{result="given"}') == 1
    assert sample(metrics, 'tamis_second_opinions_total{result="not_ready"}') == 1
    assert f'tamis_tier_info{{fingerprint="{second.fingerprint}",name="second"' in metrics

    first, _, twice, _ = verdicts_of(log)
    assert first["contents"][0]["missed"] == "not_ready"
    assert twice["bundle"] == bundle.fingerprint
    assert twice["contents"][0]["bundle"] == second.fingerprint
    report = replay([str(log)])
    assert report.good
    assert report.same == 4
    # Judged again, each by its own bundle; without the second one its record is refused.
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": GOOSE}) + "\n" + json.dumps({"text": SOUP}) + "\n")
    command = ["audit", "replay", str(log), "--texts", str(texts), "--bundle", str(bundle.path)]
    assert main([*command, "--accurate", str(folder)]) == 0
    assert main(command) == 1


def test_bands_for_another_bundle_ask_nobody(bundle, second: Bundle, tmp_path: Path, quick):
    folder = tmp_path / "accurate"
    shutil.copytree(second.path, folder)
    write_bands(folder, "0" * 64, second.fingerprint)
    with running(cascade(bundle, folder)) as client:
        until(lambda: health(client)["accurate"] == "ready")
        assert "made for the bundle 000000000000" in health(client)["reason"]
        assert "second_opinion" not in post(client, input={"text": GOOSE})


def test_who_is_asked_no_more_is_no_tier(bundle, second: Bundle, tmp_path: Path, quick):
    folder, tier = tmp_path / "accurate", 'name="second",tier="accurate"'
    shutil.copytree(second.path, folder)
    with running(cascade(bundle, folder)) as client:
        until(lambda: health(client)["accurate"] == "ready")
        served = f'tamis_tier_info{{fingerprint="{second.fingerprint}",{tier}}}'
        assert sample(client.get("/metrics").text, served) == 1
        # It is built anew, and its bands are for a fast bundle that is not served.
        write_bands(folder, "0" * 64, second.fingerprint)
        (folder / MANIFEST).touch()
        until(lambda: "no second opinions" in health(client).get("reason", ""))
        assert sample(client.get("/metrics").text, served) == 0


def test_the_accurate_tier_waits_for_its_bundle(bundle, second: Bundle, tmp_path: Path, quick):
    folder = tmp_path / "accurate"
    settings = Settings(bundle=bundle.path, tier="accurate", accurate=folder)
    with TestClient(create_app(settings)) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["tier"] == "accurate"
        refused = client.post("/moderate", json={"input": "hello"})
        assert refused.status_code == 503
        assert "tamis export accurate" in refused.json()["error"]["message"]
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        until(lambda: health(client)["accurate"] == "failed")
        assert "could not be loaded" in health(client)["reason"]
        assert sample(client.get("/metrics").text, "tamis_load_failed") == 1
        shutil.rmtree(folder)
        shutil.copytree(second.path, tmp_path / "made")
        (tmp_path / "made").rename(folder)
        until(lambda: client.get("/health/ready").status_code == 200)
        assert health(client)["model"] == "second"
        answer = post(client, input=SOUP)
        assert answer["model"].startswith("second@")
        assert "second_opinion" not in answer
        metrics = client.get("/metrics").text
    assert sample(metrics, 'tamis_answers_total{tier="accurate"}') == 1
    assert sample(metrics, "tamis_load_failed") == 0


@pytest.mark.parametrize("tier", ["fast", "cascade", "accurate"])
@pytest.mark.parametrize("there", [True, False])
async def test_one_of_several_processes_starts_in_every_tier(
    bundle: Bundle, second: Bundle, tmp_path: Path, quick, tier: Literal["fast"], there: bool
):
    accurate = second.path if there else tmp_path / "none"
    app = create_app(Settings(bundle=bundle.path, tier=tier, accurate=accurate, processes=2))
    async with asyncio.timeout(60), app.router.lifespan_context(app):
        serving = app.state.moderator.serving
        assert (serving.engine is not None) == (there or tier != "accurate")
        # What is looked for is looked for on.
        state = "off" if tier == "fast" else "ready" if there else "absent"
        while serving.tiers.state != state:
            await asyncio.sleep(0.01)


def test_the_command_line_judges_in_a_tier(bundle, second: Bundle, tmp_path: Path, capsys):
    chosen = ["--bundle", str(bundle.path), "--accurate", str(second.path)]
    models = {}
    for tier in ("fast", "accurate", "cascade"):
        assert main(["moderate", "--tier", tier, *chosen, "--json", GOOSE]) == 0
        models[tier] = json.loads(capsys.readouterr().out)["model"].partition("@")[0]
    assert models["fast"] == "tamis-22m"
    assert models["accurate"] == "second"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{json.dumps({'text': GOOSE})}\n{json.dumps({'text': SOUP})}\n")
    out = tmp_path / "out.parquet"
    command = ["moderate", "--input", str(rows), "--output", str(out), "--quiet"]
    assert main([*command, "--tier", "cascade", *chosen]) == 0
    import pyarrow.parquet as pq

    goose, soup = pq.read_table(out).to_pylist()
    assert (goose["second_opinion"], soup["second_opinion"]) == ("given", None)
    assert goose["model"].startswith("second@")


def test_without_bands_there_is_no_cascade(
    bundle, second: Bundle, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tamis.tiers.models", lambda: tmp_path)
    folder = tmp_path / "second"
    shutil.copytree(second.path, folder)
    (folder / BANDS).unlink()
    command = ["moderate", "--tier", "cascade", "--bundle", str(bundle.path)]
    assert main([*command, "--accurate", str(folder), "hello"]) == 1
    assert "nothing says when to ask twice" in capsys.readouterr().err
