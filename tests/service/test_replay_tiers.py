"""The audit log of each tier: decided again from the log alone, and judged again given texts."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import service.moderation.arrival
from service.settings import Settings
from tamis.bundle import MANIFEST, Bundle, load
from tamis.cli import main
from tamis.tiers import BANDS, load_bands
from tests.encoders import BY_VERDICT, write_encoder
from tests.service.observed import lines_of, post, running, until, verdicts_of
from tests.service.test_multilingual import BOTH, EVERYTHING, GERMAN
from tests.service.test_replay import ITEMS, TEXTS, rewrite
from tests.service.test_rules import BANK, BUY
from tests.service.tiers import GOOSE, SOUP, write_bands, write_second

EXCHANGE = {"prompt": GOOSE, "response": "I am sorry to hear that."}
UNSURE = dict.fromkeys(("prompt", "response", "toxicity"), EVERYTHING)
KEPT = ("harassment", "violence")
STRICT = {
    "name": "strict",
    "sensitivity": "strict",
    "overall": {},
    "categories": {"harassment": {}},
}


def weights(bias: float = 0.1) -> dict[str, Any]:
    """How opinions are weighed, no head as another."""
    heads = ("prompt", "response", "toxicity", "attack", "refusal", "severity")
    return {
        head: {
            "first": 0.5 + n / 20,
            "second": 0.6 - n / 20,
            "bias": bias,
            "flag": 0.3 + n / 50,
            "block": 0.6 + n / 50,
            "sensitivities": {
                "strict": {"flag": 0.1 + n / 50, "block": 0.4 + n / 50},
                "loose": {"flag": 0.5 + n / 50, "block": 0.8 + n / 50},
            },
        }
        for n, head in enumerate(heads)
    }


@pytest.fixture
def accurate(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that a cascade asks of everything."""
    made = write_second(bundle, tmp_path / "accurate")
    write_bands(made.path, bundle.fingerprint, made.fingerprint, UNSURE, weights(), KEPT)
    return made


@pytest.fixture
def settings(bundle: Bundle, accurate: Bundle, tmp_path: Path) -> Settings:
    audit = str(tmp_path / "audit.jsonl")
    return Settings(bundle=bundle.path, tier="cascade", accurate=accurate.path, audit=audit)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    more = [EXCHANGE, *({"text": text} for text in (GOOSE, SOUP, GERMAN, BOTH, BUY))]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*TEXTS, *more)))
    return path


@contextmanager
def cascade(settings: Settings) -> Iterator[TestClient]:
    """The service, as soon as both bundles are ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.moderation.arrival, "LOOK", 0.02)
        with running(settings) as client:
            until(lambda: client.get("/health/ready").json()["accurate"] == "ready")
            yield client


Run = list[str]


@pytest.fixture
def command(settings: Settings) -> Run:
    return ["audit", "replay", str(settings.audit)]


@pytest.fixture
def judging(command: Run, bundle: Bundle, accurate: Bundle, texts: Path) -> Run:
    """The command that judges again by the cascade."""
    given = {"--texts": texts, "--bundle": bundle.path, "--accurate": accurate.path}
    return [*command, *(str(word) for option in given.items() for word in option)]


def test_a_prompt_and_an_answer_that_were_both_asked_twice(
    settings, accurate: Bundle, command: Run, judging: Run, capsys
):
    with cascade(settings) as client:
        asked = post(client, input=[EXCHANGE, EXCHANGE["prompt"]])["results"]
    assert [one["second_opinion"] for one in asked] == ["given", "given"]
    log = Path(str(settings.audit))
    # What is shared stands there once.
    assert [line["type"] for line in lines_of(log)] == ["model", "model", "policy"] + 2 * [
        "verdict"
    ]
    _, model, *_ = lines_of(log)
    version = load_bands(accurate.path).version
    assert (model["fingerprint"], model["cascade"]) == (accurate.fingerprint, version)
    assert model["thresholds"]["prompt"] == [0.3, 0.6]
    assert model["strict"]["response"] == pytest.approx([0.12, 0.42])
    said = [content for line in verdicts_of(log) for content in line["contents"]]
    assert [content["cascade"] for content in said] == 3 * [version]
    for run in (command, judging):
        assert main(run) == 0
        assert capsys.readouterr().out.strip() == "2 verdicts: 2 same, 0 different"


def test_every_kind_of_item_and_policy_in_a_cascade(settings, command: Run, judging: Run, capsys):
    with cascade(settings) as client:
        # An opinion on each question comes first in turn.
        for item in ITEMS:
            post(client, input=item)
        post(client, input=ITEMS, policy=STRICT, explain="evidence")
    for run in (command, judging):
        assert main(run) == 0
        assert capsys.readouterr().out.strip() == "16 verdicts: 16 same, 0 different"


def test_what_the_cascade_did_not_ask_twice(
    settings, bundle: Bundle, accurate: Bundle, command: Run, judging: Run, tmp_path: Path, capsys
):
    narrow = {"prompt": {"overall": [0.3, 1.0]}, "toxicity": {"overall": [0.3, 1.0]}}
    write_bands(accurate.path, bundle.fingerprint, accurate.fingerprint, narrow, weights())
    with cascade(settings) as client:
        asked = post(client, input=[GOOSE, SOUP, EXCHANGE, ""])["results"]
    assert [one.get("second_opinion") for one in asked] == ["given", None, "given", None]
    # Without the bundle, what wanted a second opinion got none, and says so.
    absent = settings.model_copy(update={"accurate": tmp_path / "absent"})
    (tmp_path / "absent").mkdir()
    shutil.copy(accurate.path / BANDS, tmp_path / "absent")
    with running(absent) as client:
        assert post(client, input=GOOSE)["second_opinion"] == "not_ready"
    for run in (command, judging):
        assert main(run) == 0
        assert capsys.readouterr().out.strip() == "5 verdicts: 5 same, 0 different"


def test_a_score_that_both_opinions_do_not_give_is_found(settings, judging: Run, capsys):
    with cascade(settings) as client:
        post(client, input=[EXCHANGE, SOUP])

    def nudge(line: dict[str, Any]) -> None:
        if line["type"] == "verdict" and line["item"] == 0:
            line["contents"][1]["categories"]["harassment"] += 1e-9

    rewrite(Path(str(settings.audit)), nudge)
    assert main(judging) == 1
    said = capsys.readouterr().out
    assert "1 same, 1 different" in said
    assert "contents[1].categories: " in said


def test_another_cascade_of_the_same_bundles_is_told(
    settings, bundle: Bundle, accurate: Bundle, command: Run, judging: Run, tmp_path, capsys
):
    with cascade(settings) as client:
        post(client, input=[GOOSE, ""])
    before = load_bands(accurate.path).version
    others = bundle.fingerprint, accurate.fingerprint
    write_bands(accurate.path, *others, UNSURE, weights(bias=0.2), KEPT)
    after = load_bands(accurate.path).version
    out, given = tmp_path / "out.json", ["--accurate", str(accurate.path)]
    for run in ([*command, *given], judging):
        assert main([*run, "--json", str(out)]) == 1
        said = capsys.readouterr().out
        assert "2 verdicts: 1 same, 0 different" in said
        assert f"1 refused: settled by cascade {before}, which this is not" in said
        assert json.loads(out.read_text())["other_cascades"] == {before: 1}
    # A log may hold verdicts of both, each by its own thresholds.
    with cascade(settings) as client:
        post(client, input=GOOSE)
    models = [line.get("cascade") for line in lines_of(Path(settings.audit))]
    assert [name for name in models if name] == [before, after]
    assert main(command) == 0
    assert "3 same, 0 different" in capsys.readouterr().out
    assert main(judging) == 1
    assert "2 same, 0 different\n1 refused: settled by cascade" in capsys.readouterr().out
    # And a folder without bands settles nothing.
    (accurate.path / BANDS).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.tiers.models", lambda: tmp_path)
        assert main(judging) == 1
    said = capsys.readouterr().out
    assert before in said
    assert after in said


def test_a_log_from_before_cascades_were_named_is_replayed_as_it_was(
    settings, bundle: Bundle, accurate: Bundle, command: Run, judging: Run, capsys
):
    # Then the accurate bundle alone decided.
    write_bands(accurate.path, bundle.fingerprint, accurate.fingerprint, UNSURE)
    with cascade(settings) as client:
        post(client, input=[EXCHANGE, GOOSE])

    def older(line: dict[str, Any]) -> None:
        line.pop("cascade", None)
        for content in line.get("contents", ()):
            content.pop("cascade", None)

    rewrite(Path(str(settings.audit)), older)
    write_bands(accurate.path, bundle.fingerprint, accurate.fingerprint, UNSURE, weights(), KEPT)
    for run in (command, judging):
        assert main(run) == 0
        assert capsys.readouterr().out.strip() == "2 verdicts: 2 same, 0 different"


def test_the_accurate_tier(settings, accurate: Bundle, command: Run, texts: Path, capsys):
    alone = settings.model_copy(update={"tier": "accurate"})
    with cascade(alone) as client:
        assert post(client, input=EXCHANGE)["model"].startswith("second@")
    (accurate.path / BANDS).unlink()
    for option in ("--accurate", "--bundle"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tamis.tiers.models", lambda: texts.parent)
            patch.setenv("TAMIS_BUNDLE", str(accurate.path))
            assert main([*command, "--texts", str(texts), option, str(accurate.path)]) == 0
        assert capsys.readouterr().out.strip() == "1 verdicts: 1 same, 0 different"


@pytest.mark.parametrize("hints", [False, True])
def test_a_cascade_beside_other_languages_and_rules(
    settings, accurate: Bundle, judging: Run, command: Run, tmp_path: Path, capsys, hints: bool
):
    other = tmp_path / "other"
    shutil.copytree(accurate.path, other)
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"name": "multilingual"}))
    encoder = write_encoder(tmp_path / "encoder", hints=hints)
    rules = BANK["categories"] | BY_VERDICT
    more = {"multilingual": other, "policy_encoder": encoder}
    items = [GOOSE, GERMAN, BOTH, BUY, {"prompt": GERMAN, "response": "Boil the lentils."}]
    with cascade(settings.model_copy(update=more)) as client:
        until(lambda: client.get("/health/ready").json()["multilingual"] == "ready")
        post(client, input=items)
        post(client, input=items[:4], policy=BANK | {"overall": {}, "categories": rules})
    found = [c for line in verdicts_of(Path(settings.audit)) for c in line["contents"]]
    assert {content["role"] for content in found} == {"accurate", "multilingual"}
    # Nobody is asked twice of another language.
    assert all(("cascade" in content) == (content["role"] == "accurate") for content in found)
    assert all("rules" in content for content in found[-4:])
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == "9 verdicts: 9 same, 0 different"
    texts = Path(judging[judging.index("--texts") + 1])
    with texts.open("a") as stream:
        stream.write(json.dumps({"text": "Boil the lentils."}) + "\n")
    given = ["--multilingual", str(other), "--policy-encoder", str(encoder)]
    assert main([*judging, *given]) == 0
    assert capsys.readouterr().out.strip() == "9 verdicts: 9 same, 0 different"
    # A second one with the same scores is another all the same.
    assert load(other).fingerprint != accurate.fingerprint
    assert main(judging) == 1
    assert f"judged by bundle {load(other).fingerprint}" in capsys.readouterr().out
