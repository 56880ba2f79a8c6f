"""Findings on file are decided upon as their bundles would decide, and nothing is guessed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tamis.bundle import Bundle, BundleError
from tamis.cli import main
from tamis.content import plain, prompt, response
from tamis.policy import CalibratedThresholds, Thresholds
from tamis.tiers import Band, Bands
from tamis.verdict import Finding
from tests.conftest import row, write_rows
from tests.service.tiers import write_second
from training.evaluation import recorded
from training.evaluation.recorded import RecordedCascade


def evaluated(out: Path, *command: object) -> dict[str, Any]:
    assert main(["evaluate", "--json", str(out), *map(str, command)]) == 0
    results: dict[str, Any] = json.loads(out.read_text())
    return results


def test_a_cascade_of_two_files_is_the_cascade_of_two_bundles(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    second = write_second(bundle, tmp_path / "second")
    texts = ["you stupid goose", "a lovely garden", "what an ugly idiot", "where is the station"]
    rows = [row(n, "x", "text", n % 2 == 0, f"{t} {n}") for n, t in enumerate(3 * texts)]
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "posts.jsonl.gz", [r | {"label": int(r["label"])} for r in rows])
    fast, accurate, out = tmp_path / "fast", tmp_path / "accurate", tmp_path / "out.json"

    alone = evaluated(out, "--data", data, "--findings", fast)
    assert evaluated(out, "--data", data, "--recorded", fast)["sets"] == alone["sets"]
    own = ("--tier", "accurate", "--accurate", second.path)
    evaluated(out, "--data", data, *own, "--findings", accurate)
    both = ("--tier", "cascade", "--accurate", second.path)
    served = evaluated(out, "--data", data, *both)
    replayed = evaluated(
        out, "--data", data, "--recorded", fast, accurate, "--accurate", second.path
    )
    assert 0 < served["asked_twice"]["posts"] < 1
    assert replayed == served
    assert served["about"]["second"] == f"second@{second.fingerprint[:12]}"
    assert "goose" not in fast.read_text() + accurate.read_text()

    # Bands hold for the bundles that they were chosen for, and only for texts on file.
    capsys.readouterr()
    swapped = ["--recorded", str(accurate), str(fast), "--accurate", str(second.path)]
    assert main(["evaluate", "--data", str(data), *swapped]) == 1
    assert "was made for the bundle" in capsys.readouterr().err
    write_rows(data / "more.jsonl.gz", [row(1, "x", "text", 0, "a new text")])
    assert main(["evaluate", "--data", str(data), "--recorded", str(fast)]) == 1
    assert "record it on the same data" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(data), *both_of(second), "--findings", str(fast)]) == 1
    assert "of one bundle" in capsys.readouterr().err


def both_of(second: Bundle) -> list[str]:
    return ["--tier", "cascade", "--accurate", str(second.path)]


def test_what_is_written_is_what_is_read(tmp_path: Path):
    own = {
        "prompt": CalibratedThresholds(0.5, 0.9, Thresholds(0.3, 0.8), Thresholds(0.6, 0.95)),
        "toxicity": Thresholds(0.4, 0.9),
    }
    contents = [prompt("a"), response("a", "b"), plain("a")]
    findings = [
        Finding(
            content.question,
            0.1 + n / 3,
            {"hate": 0.1},
            None if n == 1 else 1 / 3,
            windows=1,
            tokens=2,
            refusal=0.7 if n == 1 else None,
            severity=0.2,
            field=content.field,
            transforms=("spaced",),
        )
        for n, content in enumerate(contents)
    ]
    path = tmp_path / "findings"
    with path.open("w") as out:
        out.write(json.dumps(recorded.head("m", "L", "f" * 64, own)) + "\n")
        assert list(recorded.recording(contents, findings, out)) == findings
    found = recorded.read(path)
    assert (found.name, found.fingerprint, found.thresholds) == ("m", "f" * 64, own)
    assert [found.judge(content) for content in contents] == findings

    other = tmp_path / "other"
    shutil.copyfile(path, other)
    bands = Bands("f" * 64, "f" * 64, {"prompt": Band(0, 1)})
    cascade = RecordedCascade(found, recorded.read(other), bands)
    assert [cascade.judge(c).second is not None for c in contents] == [True, False, False]


@pytest.mark.parametrize("text", ["", "{}\n", '{"format": "other"}\n', "no JSON\n"])
def test_other_files_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "findings"
    path.write_text(text)
    with pytest.raises(BundleError, match=path.name):
        recorded.read(path)
