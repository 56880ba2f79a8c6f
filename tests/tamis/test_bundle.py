import json
import shutil
from pathlib import Path

import pytest

from tamis import bundle as bundles
from tamis.bundle import Bundle, BundleError, load


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
