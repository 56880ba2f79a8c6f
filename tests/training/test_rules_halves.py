"""A split encoder's bundle: two graphs that say what was trained, made again of base and delta."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from export import rules as exporting
from service.app import create_app
from service.engine.classifier import Classifier
from service.engine.engine import Engine
from service.engine.split import SplitEncoder, encoder_of
from service.engine.warmup import Pace
from service.settings import Settings
from tamis import rules
from tamis.bundle import Bundle
from tamis.cli import main
from tamis.content import plain, prompt, response
from tamis.reasoner.protocol import Guideline
from tamis.rules import PolicyEncoder
from tests.conftest import write_rows
from tests.service.test_app import wait_until_ready
from tests.training.reasoner_world import make_library, make_rows
from tests.training.rules_world import RULES, make_base, named, write_clubs
from tests.training.test_rules_training import recipe
from tests.training.tiny import write_bert, write_mpnet
from training.rules import evaluation
from training.rules.judge import Checkpoint, Judge
from training.rules.trainer import train

POLICY = tuple(Guideline(name, about) for name, (about, _) in RULES.items())
WORDS = [word for _, word in RULES.values()]
HELD = "tamis_rules_states_bytes"
TEXTS = [
    *(prompt(f"tell number 3 about {word}") for word in WORDS),
    response(f"{WORDS[0]} it is", f"and {WORDS[1]}?"),
    plain(" ".join(WORDS * 40)),
]


@pytest.fixture(scope="module", params=[write_bert, write_mpnet])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def checkpoint(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_rows(folder / "rows.jsonl.gz", make_rows())
    kinds = ("prompt", "response", "text")
    chosen = [pair for p in ("train", "dev") for pair in zip(named(p, 3), kinds, strict=True)]
    clubs = write_clubs(folder / "clubs", chosen)
    asked = recipe(base, split=1, frozen_layers=1)
    train([folder], [clubs], folder / "checkpoint", asked, make_library())
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def halves(checkpoint: Path) -> PolicyEncoder:
    data, out = checkpoint.parent, checkpoint.parent / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "CALIBRATION_ROWS", 32)
        clubs = data / "clubs"
        report = exporting.build(checkpoint, [data], [clubs], out, "tiny", make_library())
    assert report["torch to fp32"]["max_difference"] < 0.01
    assert report["torch to fp32"]["flips"] <= 1
    assert report["fp32 to int8"]["flip_rate"] < 0.05
    assert report["fp32 to int8"]["rows"] > 100
    assert set(report["smoothing"]) == {"states", "joint"}
    return rules.load(out)


def test_a_bundle_of_two_graphs_says_what_its_checkpoint_says(
    halves: PolicyEncoder, checkpoint: Path, base: Path
):
    layers = 3 if "mpnet" in (base / "config.json").read_text() else 2
    assert (halves.manifest["kind"], halves.split, halves.layers) == (rules.SPLIT, 1, layers)
    asked = [(text, POLICY) for text in TEXTS]
    served = evaluation.probabilities(Judge.of_bundle(halves, 1), halves, asked)
    trained = Checkpoint(checkpoint).judge(fast=False).logits(asked)
    for (content, _), one, other in zip(asked, served, trained, strict=True):
        head = halves.head(content.question)
        expected = 1 / (1 + np.exp(-(head.scale * other + head.bias)))
        np.testing.assert_allclose(one, expected, atol=0.1)
    said = (halves.path / "README.md").read_text()
    assert f"1 of its {layers} layers read a rule alone" in said
    assert halves.manifest["files"]["joint.int8.onnx"][:12] in said


def test_the_service_says_what_is_measured(halves: PolicyEncoder):
    asked = [(text, POLICY) for text in TEXTS]
    measured = evaluation.probabilities(Judge.of_bundle(halves, 1), halves, asked)
    encoder = encoder_of(halves, 0, 1 << 20)
    for (content, policy), expected in zip(asked, measured, strict=True):
        found = encoder.judge(content, policy)
        np.testing.assert_allclose([found[rule] for rule in policy], expected, atol=1e-4)


@pytest.fixture
def engine(classifier: Classifier) -> Iterator[Engine]:
    engine = Engine(
        classifier, Pace(10_000, 128), workers=2, max_queued_tokens=100_000, max_wait=60.0
    )
    yield engine
    engine.close()


async def test_a_pair_comes_to_the_same_whatever_stands_beside_it(
    engine: Engine, halves: PolicyEncoder, monkeypatch: pytest.MonkeyPatch
):
    more = tuple(Guideline(f"{word} {n}", "It is so.") for word in WORDS for n in range(5))
    reads: list[int] = []
    encoder = encoder_of(halves, 0, 1 << 20)
    assert isinstance(encoder, SplitEncoder)
    alone = encoder._alone

    def counted(ids: Sequence[int], types: Sequence[int]) -> np.ndarray:
        reads.append(len(ids))
        return alone(ids, types)

    monkeypatch.setattr(encoder, "_alone", counted)
    engine.rule_by(encoder, 10_000)
    assert engine.rules is not None
    together = await engine.rules.judge(TEXTS, (*more, *POLICY))
    windows = sum(len(encoder.pairs(POLICY[:1], encoder.texts(text))[0]) for text in TEXTS)
    assert windows > len(TEXTS)
    # Two workers may read a rule at once.
    assert windows + 18 <= len(reads) <= windows + 2 * 18
    before = len(reads)
    warm = await engine.rules.judge(TEXTS, POLICY)
    assert len(reads) - before == windows
    # A policy that is read anew for each pair.
    engine.rule_by(encoder_of(halves, 0, 0), 10_000)
    cold = [(await engine.rules.judge([text], POLICY[::-1]))[0] for text in TEXTS]
    called = [encoder_of(halves).judge(text, POLICY) for text in TEXTS]
    for many, few, bare, one in zip(together, warm, cold, called, strict=True):
        for rule in POLICY:
            expected = one[rule]
            assert many[rule].probability == expected
            assert few[rule].probability == expected
            assert bare[rule].probability == expected


def test_it_is_served_and_says_what_it_keeps(bundle: Bundle, halves: PolicyEncoder):
    categories = {name: {"definition": about} for name, (about, _) in RULES.items()}
    body = {"input": TEXTS[0].text, "policy": {"name": "club", "categories": categories}}

    def kept(client: TestClient) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(HELD))

    served = []
    for states in (1 << 20, 0):
        settings = Settings(
            bundle=bundle.path, policy_encoder=halves.path, rules_states_bytes=states
        )
        with TestClient(create_app(settings)) as client:
            wait_until_ready(client)
            assert kept(client) == 0
            answer = client.post("/moderate", json=body).json()
            assert (kept(client) > 3 * 64 * 2 * 3) == (states > 0)
            assert kept(client) <= states
        assert answer["policy_encoder"].startswith("tiny@")
        assert answer["categories"]["Biscuits"]["flagged"] is True
        served.append(answer["categories"])
    assert served[0] == served[1]


def test_a_bundle_comes_back_byte_by_byte_of_its_base(
    halves: PolicyEncoder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    delta, made = tmp_path / "delta", tmp_path / "made"
    assert main(["export", "delta", "--bundle", str(halves.path), "--out", str(delta)]) == 0
    assert len(json.loads((delta / "delta.json").read_text())["recipes"]) > 6
    command = ["export", "policy-encoder", "--delta", str(delta), "--if-needed"]
    assert main([*command, "--out", str(made)]) == 0
    assert f"tiny@{halves.fingerprint[:12]}" in capsys.readouterr().out
    for name in (*halves.manifest["files"], "manifest.json", "README.md"):
        assert (made / name).read_bytes() == (halves.path / name).read_bytes()
    # Once is enough, and where nobody wants it, once is too much.
    before = made.stat().st_ino
    assert main([*command, "--out", str(made)]) == 0
    assert made.stat().st_ino == before
    place = tmp_path / "place"
    monkeypatch.setenv(rules.ACCURATE.variable, str(place))
    monkeypatch.setenv(rules.WHERE, "off")
    assert main(command) == 0
    assert "no accurate policy encoder is wanted" in capsys.readouterr().err
    assert not place.exists()
    monkeypatch.delenv(rules.WHERE)
    assert main(command) == 0
    assert rules.policy_encoder_there() == place
    with monkeypatch.context() as patch:
        patch.setattr("tamis.tiers.models", lambda: tmp_path / "none")
        assert main(["export", "policy-encoder", "--if-needed"]) == 0
        assert "no accurate policy encoder to make" in capsys.readouterr().err
    (delta / "delta.bin").write_bytes(b"another")
    assert main(["export", "policy-encoder", "--delta", str(delta)]) == 1
    assert "no policy-encoder bundle" in capsys.readouterr().err
