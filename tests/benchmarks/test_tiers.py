"""The tiers' benchmark measures what is there, says what is not, and counts second opinions."""

import json
from pathlib import Path
from statistics import median
from typing import Self, get_args

import pytest

from benchmarks import record, tiers
from service.engine.classifier import Classifier
from tamis.bundle import Bundle
from tamis.cli import main
from tamis.content import Question
from tamis.tiers import Companion, load_bands
from tests.service.tiers import write_second


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run of seconds, and where its results lie."""
    for name, value in {"LENGTHS": (16,), "TURNS": 1, "SECONDS": 0.0, "MIXED": 12}.items():
        monkeypatch.setattr(tiers, name, value)
    monkeypatch.setattr(tiers, "ACCURATE", Companion("none", "TAMIS_ACCURATE"))
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_every_tier_is_measured_beside_its_own_graph(
    bundle: Bundle, classifier: Classifier, tmp_path: Path, quick: Path
):
    contents, _ = tiers.mix(None)
    judged = [classifier.judge(content) for content in contents]
    middle = median(finding.overall for finding in judged)
    unsure = {question: {"overall": [middle, 1.0]} for question in get_args(Question)}
    second = write_second(bundle, tmp_path / "second", unsure)
    found = tiers.run(bundle.path, second.path, [("gone", tmp_path / "gone")], rounds=1)
    sizes, lengths, mixed = found.tables
    names = ["fast", "accurate", "cascade", tiers.ALWAYS]
    assert [row["tier"] for row in sizes] == [row["tier"] for row in mixed] == names
    assert [(row["tier"], row["tokens"]) for row in lengths] == [(name, 16) for name in names]
    for row in lengths:
        assert 0 < row["raw p50"] <= row["raw p95"]
        assert 0 < row["HTTP p50"] <= row["HTTP p95"]
        assert row["ratio p50"] == pytest.approx(row["HTTP p50"] / row["raw p50"], rel=0.05)
    memory = {row["tier"]: row["PSS when whole, MB"] for row in sizes}
    assert 50 < memory["fast"] < memory["cascade"]
    assert sizes[2]["bundles, MB"] == " + ".join(2 * [sizes[0]["bundles, MB"]])

    asked = sum(map(load_bands(second.path).unsure, judged)) / len(judged)
    assert 0.3 < asked < 0.8
    share = {row["tier"]: row["asked twice"] for row in mixed}
    assert share == dict.fromkeys(names, "0.0%") | {
        "cascade": f"{asked:.1%}",
        tiers.ALWAYS: "100.0%",
    }

    kept = json.loads((quick / "tiers.json").read_text())
    assert kept["command"] == "tamis bench tiers --also gone=gone"
    for one in (bundle, second):
        assert f"{one.name}@{one.fingerprint[:12]}" in kept["about"]["bundle"]
    assert any("gone is left out: no bundle at gone: " in note for note in kept["notes"])
    assert str(tmp_path) not in json.dumps(kept)
    page = record.render(kept)
    assert kept["about"]["date"] in page
    assert f"| {tiers.ALWAYS} | 16 |" in page


class Starting:
    """A server whose accurate bundle stands as it is told, one look after the other."""

    def __init__(self, *states: str | None) -> None:
        self.states = list(states)

    def __call__(self, _: Path, **settings: object) -> "Starting":
        self.settings = settings
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.states.append("left")

    def health(self) -> dict[str, str] | None:
        state = self.states.pop(0)
        return None if state is None else {"accurate": state, "reason": "it is spoilt"}


def test_a_cascade_is_asked_when_it_can_ask_twice(bundle: Bundle, monkeypatch):
    cascade = tiers.Tier(tiers.CASCADE, {"tier": tiers.CASCADE}, (bundle, bundle), (bundle,))
    server = Starting(None, "loading", "ready")
    monkeypatch.setattr(tiers, "Server", server)
    with cascade.start(workers=2):
        assert server.states == []
    assert server.settings == {"workers": 2, "tier": tiers.CASCADE}
    spoilt = Starting("loading", "failed")
    monkeypatch.setattr(tiers, "Server", spoilt)
    with pytest.raises(RuntimeError, match="it is spoilt"), cascade.start():
        pytest.fail("asked")
    assert spoilt.states == ["left"]


def test_bands_of_other_bundles_make_no_cascade(bundle: Bundle, tmp_path: Path):
    second = write_second(bundle, tmp_path / "second")
    found, missing = tiers.find(second.path, bundle.path, [("other", bundle.path)], tmp_path)
    assert [tier.name for tier in found] == ["fast", "accurate", tiers.ALWAYS, "other"]
    assert found[-1].met == (bundle,)
    assert missing[0].startswith("cascade is left out: ")


def test_a_rehearsal_without_the_accurate_bundle_says_so_and_keeps_nothing(
    tmp_path: Path, quick: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["bench", "tiers", "--accurate", str(tmp_path / "none"), "--rehearse"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "accurate and cascade are left out: no bundle at none: " in said
    assert "| fast | 16 |" in said
    assert not quick.exists()


def test_the_mix_asks_for_each_text_as_what_it_is():
    contents, about = tiers.mix(None)
    bodies = [tiers.body_of(content) for content in contents]
    assert about == f"{len(contents)} rows of the benign set (`tests/data/benign`)"
    assert {frozenset(body["input"]) for body in bodies} == {
        frozenset({"prompt"}),
        frozenset({"text"}),
        frozenset({"prompt", "response"}),
    }
    assert all(("judge" in body) == ("response" in body["input"]) for body in bodies)
