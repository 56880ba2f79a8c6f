"""Thresholds anew, and nothing else of a bundle."""

import gzip
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from tamis.bundle import MANIFEST, Bundle, load
from tamis.cli import main


def thresholds(bundle: Bundle, data: Path, out: Path) -> dict[str, dict[str, float]]:
    given = ["--bundle", str(bundle.path), "--data", str(data), "--out", str(out)]
    assert main(["export", "thresholds", *given]) == 0
    return {head["name"]: head for head in load(out).manifest["heads"]}


def hash_of(row: dict[str, Any]) -> int:
    return zlib.crc32(row["id"].encode())


def test_the_same_rows_say_the_same_and_others_something_else(
    graded_bundle: Bundle, graded_data: Path, tmp_path: Path
):
    before = {head["name"]: head for head in graded_bundle.manifest["heads"]}
    same = thresholds(graded_bundle, graded_data, tmp_path / "same")
    assert same.keys() == before.keys()
    for name, head in same.items():
        assert (head["rows"], head["positives"]) == (
            before[name]["rows"],
            before[name]["positives"],
        )
        # The checkpoint was calibrated before int8 rounded it.
        assert head["flag"] == pytest.approx(before[name]["flag"], abs=0.1)

    data = shutil.copytree(graded_data, tmp_path / "data")
    (path,) = data.glob("*.jsonl.gz")
    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    with gzip.open(path, "wt") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows if hash_of(row) % 3)
    other = thresholds(graded_bundle, data, tmp_path / "other")
    assert 0 < other["prompt"]["rows"] < same["prompt"]["rows"]
    assert other["prompt"]["scale"] != same["prompt"]["scale"]


def test_the_graph_stays_and_what_was_made_for_old_scores_goes(
    graded_bundle: Bundle, graded_data: Path, tmp_path: Path
):
    given = shutil.copytree(graded_bundle.path, tmp_path / "given")
    (given / "perspective.json").write_text("{}")
    thresholds(load(given), graded_data, tmp_path / "out")
    out = load(tmp_path / "out")
    kept = json.loads((given / MANIFEST).read_text())["files"]
    assert out.manifest["files"] == kept
    assert {path.name for path in out.path.iterdir()} == {*kept, MANIFEST, "README.md"}
    flag = out.manifest["heads"][0]["flag"]
    assert f"| {flag:.3f} |" in (out.path / "README.md").read_text()
    assert out.fingerprint != graded_bundle.fingerprint


def test_a_corrupted_bundle_is_no_command_s_end(graded_bundle, graded_data, tmp_path, capsys):
    given = shutil.copytree(graded_bundle.path, tmp_path / "given")
    (given / "tokenizer.json").write_text("{}")
    options = ["--bundle", str(given), "--data", str(graded_data), "--out", str(tmp_path / "out")]
    assert main(["export", "thresholds", *options]) == 1
    assert "tokenizer.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
