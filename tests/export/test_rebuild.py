"""Bundles out of base and delta: the same bytes, whole or not at all, without torch."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from benchmarks.tiers import build_seconds
from export import rebuild
from export.rebuild import BaseMismatchError, build, write_delta
from tamis.building import replacing
from tamis.bundle import MANIFEST, Bundle, BundleError, load
from tamis.cli import main
from tamis.tiers import BANDS, load_bands
from tests.service.tiers import write_bands, write_second


@dataclass
class Made:
    base: Path
    bundle: Bundle
    delta: Path


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A base that the shipped bundle might come from, a bundle that names it, and its delta."""
    folder = tmp_path_factory.mktemp("accurate")
    rng = np.random.default_rng(0)
    tensors = {}
    for tensor in onnx.load(bundle.graph).graph.initializer:
        codes = numpy_helper.to_array(tensor)
        if codes.dtype == np.int8:
            moved = codes + rng.normal(0, 0.2, codes.shape)
            tensors[tensor.name] = (moved / 100).astype(np.float32)
    base = folder / "base"
    base.mkdir()
    save_file(tensors, base / "model.safetensors")
    shutil.copytree(bundle.path, folder / "bundle")
    manifest = json.loads((folder / "bundle" / MANIFEST).read_text())
    manifest["training"]["base"] = {"name": str(base)}
    (folder / "bundle" / MANIFEST).write_text(json.dumps(manifest))
    whole = load(folder / "bundle")
    size = write_delta(whole.path, folder / "delta")
    assert size < sum(path.stat().st_size for path in whole.path.iterdir()) / 4
    write_bands(folder / "delta", "f" * 64, whole.fingerprint)
    return Made(base, whole, folder / "delta")


@pytest.fixture
def delta(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.delta, tmp_path / "delta")


def test_base_and_delta_make_the_very_bundle(made: Made, delta: Path, tmp_path: Path):
    out = tmp_path / "models" / "accurate"
    found = build(out, delta, progress=False)
    assert found.fingerprint == made.bundle.fingerprint
    for path in made.bundle.path.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert load_bands(out).accurate == found.fingerprint
    assert {path.name for path in out.parent.iterdir()} == {"accurate", ".accurate.lock"}


def test_it_is_made_once_and_again_where_it_is_broken(delta: Path, tmp_path: Path):
    out = tmp_path / "accurate"

    def inode() -> int:
        build(out, delta, progress=False, if_needed=True)
        return out.stat().st_ino

    first = inode()
    assert inode() == first
    # Bands may be chosen anew; the bundle stays.
    write_bands(delta, "e" * 64, "d" * 64)
    assert inode() == first
    assert load_bands(out).fast == "e" * 64
    (out / "tokenizer.json").write_text("{}")
    assert inode() != first
    load(out)


def test_the_old_one_stays_where_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch):
    bundle, rename = tmp_path / "accurate", Path.rename

    def refused(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise PermissionError(to)
        return rename(path, to)

    bundle.mkdir()
    (bundle / MANIFEST).write_text("old")
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError), replacing(bundle) as new:
        (new / MANIFEST).write_text("new")
    assert (bundle / MANIFEST).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["accurate"]


def test_another_base_makes_nothing(made: Made, delta: Path, tmp_path: Path, monkeypatch):
    other = shutil.copytree(made.base, tmp_path / "other")
    with (other / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    index = json.loads((delta / "delta.json").read_text())
    index["base"]["name"] = str(other)
    (delta / "delta.json").write_text(json.dumps(index))
    with pytest.raises(BaseMismatchError, match="has sha256"):
        build(tmp_path / "accurate", delta, progress=False)
    assert not (tmp_path / "accurate").exists()
    (delta / MANIFEST).write_text((delta / MANIFEST).read_text() + "\n")
    index["base"]["name"] = str(made.base)
    (delta / "delta.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="its manifest is not"):
        build(tmp_path / "accurate", delta, progress=False)
    # What is there is left alone where something goes wrong.
    (tmp_path / "accurate").mkdir()
    monkeypatch.setattr(rebuild, "decoded", lambda *_: b"x")
    with pytest.raises(BundleError):
        build(tmp_path / "accurate", delta, progress=False)
    assert list((tmp_path / "accurate").iterdir()) == []
    assert not (tmp_path / ".accurate.building").exists()


def test_the_command_line(made: Made, tmp_path: Path, monkeypatch, capsys):
    delta, out = tmp_path / "delta", tmp_path / "accurate"
    assert main(["export", "delta", "--bundle", str(made.bundle.path), "--out", str(delta)]) == 0
    monkeypatch.setenv("TAMIS_ACCURATE", str(out))
    wanted = ["export", "accurate", "--if-needed", "--delta", str(delta)]
    monkeypatch.setenv("TAMIS_TIER", "fast")
    assert main(wanted) == 0
    assert "no accurate bundle is wanted" in capsys.readouterr().err
    assert not out.exists()
    # What a service is that nobody told.
    monkeypatch.setenv("TAMIS_TIER", "")
    assert main(wanted) == 0
    assert load(out).fingerprint == made.bundle.fingerprint
    assert main(["export", "accurate", "--delta", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "no delta at" in capsys.readouterr().err
    assert main(["export", "delta", "--out", str(delta)]) == 1
    assert "--checkpoint" in capsys.readouterr().err


def test_the_multilingual_bundle_is_made_by_the_same_command(
    made: Made, tmp_path: Path, monkeypatch, capsys
):
    models = tmp_path / "models"
    monkeypatch.setattr("tamis.tiers.models", lambda: models)
    out, command = tmp_path / "other", ["export", "multilingual", "--if-needed"]
    for chosen in ("off", ""):
        monkeypatch.setenv("TAMIS_MULTILINGUAL", chosen)
        assert main(command) == 0
        assert "no multilingual bundle is wanted" in capsys.readouterr().err
    # One that is committed whole has no delta, and there is nothing to do.
    monkeypatch.setenv("TAMIS_MULTILINGUAL", str(out))
    assert main(command) == 0
    assert "no multilingual bundle to make" in capsys.readouterr().err
    assert not out.exists()
    shutil.copytree(made.delta, models / "tamis-multilingual-delta")
    assert main(command) == 0
    inode = out.stat().st_ino
    assert load(out).fingerprint == made.bundle.fingerprint
    assert main(command) == 0
    assert out.stat().st_ino == inode
    assert main(["export", "multilingual", "--delta", str(tmp_path / "none")]) == 1
    assert "no multilingual bundle: no delta at" in capsys.readouterr().err


def test_building_takes_neither_torch_nor_onnx(delta: Path, tmp_path: Path):
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from export.rebuild import build\n"
            "build(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)\n"
            "print({'torch', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules))",
            str(tmp_path / "accurate"),
            str(delta),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "set()"


def test_the_time_that_a_build_takes_is_that_of_the_command(made: Made, tmp_path: Path):
    first, again = build_seconds(made.delta)
    assert min(first, again) > 0.1
    with pytest.raises(subprocess.CalledProcessError):
        build_seconds(tmp_path / "none")


def test_bands_are_chosen_for_two_bundles(bundle: Bundle, data: Path, tmp_path: Path, capsys):
    second = write_second(bundle, tmp_path / "second", {})
    out = tmp_path / "new" / "delta"
    command = ["export", "cascade", "--fast", str(bundle.path), "--accurate", str(second.path)]
    command += ["--data", str(data), "--out", str(out), "--rows", "60"]
    assert main([*command, "--share", "0.3"]) == 0
    load_bands(second.path).check(bundle, second)
    found = json.loads((out / BANDS).read_text())
    assert found == json.loads((second.path / BANDS).read_text())
    assert (found["share"], found["rows"]) == (0.3, 60)
    for measured in found["measured"].values():
        assert measured["asked_twice"] <= 0.3
    assert main([*command, "--share", "1.5"]) == 1
    assert "--share" in capsys.readouterr().err
