"""Public base and committed delta → a bundle of a companion, the same byte for byte."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from export.delta import BESIDE, decoded, encode, read_index
from export.kinds import Made, load
from export.tracing import Matrix
from tamis.building import building, replacing
from tamis.bundle import BundleError, sha256_of
from tamis.tiers import BANDS
from training.classifier import bases
from training.classifier.bases import BaseMismatchError

__all__ = ["BaseMismatchError", "build", "write_delta"]

# Beside the files of the delta.
STEPS: Final = 2


class Tensors(Mapping[str, Matrix]):
    """The tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = cast("Any", safe_open(path, framework="numpy"))
        self._names: list[str] = list(self._file.keys())

    def __getitem__(self, name: str) -> Matrix:
        return np.asarray(self._file.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def build(out: Path, delta: Path, *, progress: bool = True, if_needed: bool = False) -> Made:
    """Write the bundle, all at once when it is complete and verified.

    One process builds at a time. ``if_needed`` leaves alone a bundle that is there and whole, and
    brings it the bands of the delta where those are new.

    Raises:
        BundleError, BaseMismatchError: where delta or base cannot be used.
    """
    index = read_index(delta)
    if if_needed and (made := _made(out, index)) is not None:
        _bring_bands(delta, made.path)
        return made
    out.parent.mkdir(parents=True, exist_ok=True)
    with building(out):
        if if_needed and (made := _made(out, index)) is not None:
            return made
        files = [file["name"] for file in index["files"]]
        with (
            replacing(out) as new,
            tqdm(
                total=len(files) + STEPS, desc=index["name"], disable=not progress, unit="step"
            ) as bar,
        ):
            bar.set_postfix_str("base")
            base = _base(index["base"])
            for name in files:
                bar.update()
                bar.set_postfix_str(name)
                (new / name).write_bytes(decoded(delta, base, name))
            for name in (*BESIDE, BANDS):
                if (delta / name).is_file():
                    shutil.copyfile(delta / name, new / name)
            bar.update()
            bar.set_postfix_str("checked")
            found = load(new)  # the checksums of every file
            if found.fingerprint != index["fingerprint"]:
                raise BundleError(f"{delta}: its manifest is not the one that it was made with")
            bar.update()
    return load(out)


def write_delta(bundle: Path, out: Path) -> int:
    """Write the delta of a bundle from the base that its manifest names; returns its bytes.

    Raises:
        BundleError, BaseMismatchError: where bundle or base cannot be used.
    """
    said = load(bundle).manifest["training"]["base"]
    origin, source = bases.resolve(said["name"])
    weights = Path(source) / origin.weights
    about = {"name": said["name"], "licence": origin.licence, "sha256": sha256_of(weights)}
    return encode(bundle, Tensors(weights), about, out)


def _base(said: Mapping[str, Any]) -> Tensors:
    origin, source = bases.resolve(said["name"])
    weights = Path(source) / origin.weights
    # A pinned base was verified when it was resolved.
    found = origin.sha256 or sha256_of(weights)
    if found != said["sha256"]:
        raise BaseMismatchError(
            f"{said['name']}: {origin.weights} has sha256 {found}, not {said['sha256']}"
        )
    return Tensors(weights)


def _made(out: Path, index: Mapping[str, Any]) -> Made | None:
    """The bundle that is there, where it is the very one."""
    try:
        found = load(out)
    except BundleError:
        return None
    return found if found.fingerprint == index["fingerprint"] else None


def _bring_bands(delta: Path, out: Path) -> None:
    """Bands may be chosen anew for the same two bundles."""
    mine, theirs = out / BANDS, delta / BANDS
    if not theirs.is_file() or (mine.is_file() and mine.read_bytes() == theirs.read_bytes()):
        return
    unfinished = out / f".{BANDS}"
    shutil.copyfile(theirs, unfinished)
    unfinished.replace(mine)
