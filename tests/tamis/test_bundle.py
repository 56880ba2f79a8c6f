import json
import shutil
from pathlib import Path

import pytest

from tamis import bundle as bundles
from tamis.bundle import Bundle, BundleError, head_of, load
from tamis.policy import Thresholds


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(bundle.path, tmp_path / "copy")
    return tmp_path / "copy"


def change(path: Path, **fields: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.update(fields)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_the_shipped_bundle_is_whole_small_and_permissive(bundle: Bundle):
    size = sum(f.stat().st_size for f in bundle.path.iterdir())
    assert size <= 25_000_000
    assert bundle.manifest["licence"] == "Apache-2.0"
    assert bundle.manifest["training"]["recipe"]["variant"] == "permissive"
    assert bundle.manifest["parity"]["fp32 to int8"]["flip_rate"] < 0.005


def test_a_changed_byte_is_refused(copy: Path):
    graph = copy / "model.int8.onnx"
    blob = bytearray(graph.read_bytes())
    blob[len(blob) // 2] ^= 1
    graph.write_bytes(bytes(blob))
    with pytest.raises(BundleError, match=r"model.int8.onnx: sha256 is"):
        load(copy)


def test_a_missing_file_is_named(copy: Path):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json: listed in the manifest"):
        load(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "tamis.classifier/9"}, "format is 'tamis.classifier/9'"),
        ({"graph": "other.onnx"}, "not among the checksummed files"),
        ({"heads": []}, "head 'prompt' is missing"),
        ({"windows": {"cls": 1}}, "windows|missing|argument"),
        ({"files": {"../manifest.json": "0"}}, "own folder"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy: Path, fields: dict, message: str):
    change(copy, **fields)
    with pytest.raises(BundleError, match=message):
        load(copy)


def test_a_head_outside_the_taxonomy_is_refused(copy: Path, bundle: Bundle):
    heads = [dict(head) for head in bundle.manifest["heads"]]
    heads[-1]["name"] = "sarcasm"
    change(copy, heads=heads)
    with pytest.raises(BundleError, match="unknown category 'sarcasm'"):
        load(copy)


def test_no_bundle_and_no_json(tmp_path: Path):
    with pytest.raises(BundleError, match="no bundle at"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        load(tmp_path)


def test_the_environment_chooses_the_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TAMIS_BUNDLE", str(tmp_path))
    assert bundles.default_bundle() == tmp_path


def head(**more: object) -> dict[str, object]:
    return {"name": "prompt", "scale": 1, "bias": 0, "flag": 0.5, "block": 0.8} | more


def test_a_head_may_know_a_set_of_thresholds_for_each_sensitivity():
    sets = {"strict": {"flag": 0.3, "block": 0.6}, "loose": {"flag": 0.7, "block": 0.9}}
    found = head_of(head(sensitivities=sets)).thresholds
    assert (found.flag, found.block) == (0.5, 0.8)
    assert found.at("strict") == Thresholds(0.3, 0.6)
    assert found.at("loose") == Thresholds(0.7, 0.9)
    # What is left out is the plain set.
    found = head_of(head(sensitivities={"strict": sets["strict"]})).thresholds
    assert found.at("loose") == Thresholds(0.5, 0.8)
    assert head_of(head()).thresholds.at("strict") == Thresholds(0.5, 0.8)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"harsh": {"flag": 0.3, "block": 0.6}}, "unknown sensitivity 'harsh'"),
        ({"balanced": {"flag": 0.3, "block": 0.6}}, "unknown sensitivity 'balanced'"),
        ({"strict": {"flag": 0.6, "block": 0.8}}, "must not fall from strict to balanced"),
        ({"loose": {"flag": 0.6, "block": 0.7}}, "must not fall from strict to balanced"),
        ({"loose": {"flag": 0.9, "block": 0.8}}, "0 < flag <= block <= 1"),
        ({"strict": {"flag": 0.2}}, "block"),
    ],
)
def test_sets_that_make_no_sense_are_refused(sets: dict, message: str):
    with pytest.raises((ValueError, KeyError), match=message):
        head_of(head(sensitivities=sets))


def test_refusal_and_severity_are_questions_that_a_bundle_may_lack(copy: Path, bundle: Bundle):
    heads = [dict(head) for head in bundle.manifest["heads"]]
    lacking = {head["name"] for head in heads} & {"refusal", "severity"}
    further = [dict(heads[0], name=name) for name in {"refusal", "severity"} - lacking]
    change(copy, heads=heads + further)
    assert {"refusal", "severity"} <= set(load(copy).thresholds)
    change(copy, heads=[head for head in heads if head["name"] not in ("refusal", "severity")])
    assert not {"refusal", "severity"} & set(load(copy).thresholds)
    change(copy, heads=[head for head in heads if head["name"] != "attack"])
    with pytest.raises(BundleError, match="head 'attack' is missing"):
        load(copy)


def test_a_file_in_the_place_of_a_folder_is_no_bundle(copy: Path):
    for path in (copy / "manifest.json", copy / "nowhere"):
        with pytest.raises(BundleError, match=r"no bundle at .*: manifest.json is missing"):
            load(path)
