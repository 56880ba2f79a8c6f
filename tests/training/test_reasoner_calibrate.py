import json
from pathlib import Path

import numpy as np
import pytest

from service.engine.reasoner.reasoner import Reasoner
from service.settings import Settings
from tamis.cli import main
from tamis.content import prompt
from tamis.reasoner import bundle as bundles
from tamis.reasoner.protocol import Guideline
from tests.conftest import write_rows
from tests.training.reasoner_world import make_rows
from training.reasoner.calibrate import Judged, expected_error, figures, fit, report
from training.reasoner.examples import Example, write_examples
from training.reasoner.sft import HELD_OUT


def squash(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


def world(count: int = 4000) -> list[Judged]:
    """Odds of which the truth is known: half as large, and shifted; categories too sure by half."""
    rng = np.random.default_rng(0)
    found = []
    for odds in rng.normal(0, 4, count):
        unsafe = rng.random() < squash(0.5 * odds - 1)
        log = rng.normal(0, 1, 3)
        true = np.exp(log) / np.exp(log).sum()
        sure = np.exp(2 * log) / np.exp(2 * log).sum()
        truth = int(rng.choice(3, p=true)) if unsafe else None
        found.append(Judged(squash(odds), sure.tolist(), truth, f"policy {len(found) // 8}"))
    return found


def test_the_fit_finds_what_was_done_to_the_odds():
    found = fit(world())
    assert found.fitted
    assert found.scale == pytest.approx(0.5, abs=0.05)
    assert found.bias == pytest.approx(-1, abs=0.1)
    assert found.temperature == pytest.approx(2, abs=0.25)


def test_the_report_is_of_halves_that_were_not_fitted_on():
    found = report(world())
    assert found["after"]["ece"] < 0.03 < found["before"]["ece"]
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert found["after"]["category_ece"] < found["before"]["category_ece"]
    assert found["after"]["category_accuracy"] == found["before"]["category_accuracy"]


@pytest.mark.parametrize("policies", [("a", "a"), ("a", "b")])
def test_halves_of_one_label_say_nothing_of_after(policies: tuple[str, str]):
    unsafe = [Judged(0.9 - n / 99, [0.5, 0.5], 0, policies[0]) for n in range(20)]
    safe = [Judged(0.4 + n / 99, [0.5, 0.5], None, policies[1]) for n in range(20)]
    found = report([*unsafe, *safe])
    assert found["after"] is None
    assert found["calibration"]["fitted"]
    assert found["before"]["accuracy"] < 1


def test_errors_are_counted_by_hand():
    said, came = np.array([0.95, 0.95, 0.15, 0.15]), np.array([1.0, 0.0, 0.0, 0.0])
    assert expected_error(said, came) == pytest.approx((abs(1.9 - 1) + 0.3) / 4)


def test_a_policy_of_one_category_leaves_no_choice_to_calibrate():
    alone = [Judged(0.9, [1.0], 0), Judged(0.2, [1.0], None)]
    assert fit(alone).temperature == 1.0
    assert figures(alone)["category_accuracy"] is None
    with pytest.raises(ValueError, match="safe and unsafe"):
        fit(alone[:1])


def test_the_command_calibrates_a_bundle_and_refuses_one_that_is(
    tiny_reasoner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    policy = (Guideline("Cheating", "Tricks people."), Guideline("Rudeness"))
    rows = [
        Example(
            str(n), f"v{n % 2}", "manners", policy, prompt(text), category, "", "a magazine", "own"
        )
        for n, (text, category) in enumerate(
            [("cheat at cards", "Cheating"), ("call uncle a goose", "Rudeness")] * 4
            + [("bake bread", None), ("water the roses", None)] * 4
        )
    ]
    write_examples(tmp_path / HELD_OUT, [rows])
    command = ["train", "reasoner-calibrate", "--data", str(tmp_path), "--adapter", str(tmp_path)]
    assert main([*command, "--bundle", str(tiny_reasoner), "--json", str(tmp_path / "r.json")]) == 0
    said = json.loads((tmp_path / "calibration.json").read_text())
    assert bundles.Calibration(**said).fitted
    assert json.loads((tmp_path / "r.json").read_text())["examples"] == len(rows)
    assert "goose" not in capsys.readouterr().out

    made = tmp_path / "calibrated"
    made.mkdir()
    for file in tiny_reasoner.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(manifest | {"calibration": said}))
    assert main([*command, "--bundle", str(made)]) == 1
    assert "made with a calibration" in capsys.readouterr().err


def test_a_bundle_is_measured_as_it_is_served(
    tiny_reasoner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    explain, most = Reasoner.explain, set()

    def counted(self, policy, contents, pause, max_reason):
        most.add(max_reason)
        return explain(self, policy, contents, pause, max_reason)

    monkeypatch.setattr(Reasoner, "explain", counted)
    write_rows(tmp_path / "rows.jsonl.gz", make_rows())
    out = tmp_path / "served.json"
    command = ["evaluate-reasoner", "--data", str(tmp_path), "--served", str(tiny_reasoner)]
    assert main([*command, "--most", "3", "--only", "bank", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["about"]["mode"] == "served"
    assert found["about"]["adapter"].startswith(f"{bundles.load(tiny_reasoner).name}@")
    assert found["sets"]["bank"]["n"] == 40
    assert most == {Settings(bundle=tiny_reasoner).reasoner_max_tokens}
    # Random weights write no answer, and none is guessed for them.
    assert found["sets"]["bank"]["parsed"] == 0.0
