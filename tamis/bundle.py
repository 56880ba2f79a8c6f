"""A model on disk: a manifest, a graph, a tokenizer, and the checksums that hold them together."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tamis.policy import CalibratedThresholds, Thresholds
from tamis.taxonomy import REFUSAL, SEVERITY, taxonomy
from tamis.windows import WindowShape

MANIFEST: Final = "manifest.json"
FORMAT: Final = "tamis.classifier/1"
# Heads that every bundle has, and questions that a bundle may be able to answer; all other heads
# are categories.
REQUIRED: Final = ("prompt", "response", "toxicity", "attack")
QUESTIONS: Final = (*REQUIRED, REFUSAL, SEVERITY)


class BundleError(RuntimeError):
    """A bundle that is missing, corrupted, or not of the format this release reads."""


@dataclass(frozen=True, slots=True)
class Head:
    """One output of the graph: p = sigmoid(scale * logit + bias), and the thresholds on p.

    A category head answers "given that it is unsafe, is it this?"; its thresholds apply to the
    product with the overall probability, which is the score that verdicts carry. ``thresholds``
    knows a set for each sensitivity where the manifest does.
    """

    name: str
    scale: float
    bias: float
    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. ``heads`` are in the order of the graph's outputs."""

    path: Path
    name: str
    fingerprint: str
    heads: tuple[Head, ...]
    shape: WindowShape
    graph: Path
    tokenizer: Path
    manifest: Mapping[str, Any]

    @property
    def thresholds(self) -> dict[str, Thresholds]:
        """The bundle's own thresholds by head."""
        return {head.name: head.thresholds for head in self.heads}


def default_bundle() -> Path:
    """The bundle to serve: ``TAMIS_BUNDLE``, else the one that ships with the package."""
    if chosen := os.environ.get("TAMIS_BUNDLE"):
        return Path(chosen)
    return models() / "tamis-22m"


def models() -> Path:
    """The folder of what ships: within the package, else of the source tree."""
    packaged = Path(__file__).parent / "models"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "models"


def load(path: Path) -> Bundle:
    """Read a classifier's bundle and verify every file it lists.

    Raises:
        BundleError: naming the file or field that is missing, changed or not understood.
    """
    manifest, fingerprint = read_manifest(path, FORMAT)
    with understanding(path):
        bundle = Bundle(
            path=path,
            name=str(manifest["name"]),
            fingerprint=fingerprint,
            heads=tuple(head_of(raw) for raw in manifest["heads"]),
            shape=WindowShape(**manifest["windows"]),
            graph=path / listed(manifest, "graph"),
            tokenizer=path / listed(manifest, "tokenizer"),
            manifest=manifest,
        )
    _check_heads(bundle)
    return bundle


def read_manifest(path: Path, form: str) -> tuple[dict[str, Any], str]:
    """A manifest of that format, whose files were verified, and its fingerprint.

    Raises:
        BundleError: naming the file or field that is missing, changed or not understood.
    """
    manifest_path = path / MANIFEST
    try:
        blob = manifest_path.read_bytes()
        manifest: dict[str, Any] = json.loads(blob)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"no bundle at {path}: {MANIFEST} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{manifest_path}: not JSON ({error})") from None
    with understanding(path):
        if manifest["format"] != form:
            raise BundleError(
                f"{manifest_path}: format is {manifest['format']!r}, this release reads {form!r}"
            )
        check_names(manifest["files"], manifest_path)
        for name, digest in manifest["files"].items():
            _verify(path / name, digest)
    return manifest, hashlib.sha256(blob).hexdigest()


def check_names(names: Iterable[str], listed: Path) -> None:
    """Refuse files that would lie anywhere but in the folder of who lists them.

    Raises:
        BundleError: naming the file.
    """
    for name in names:
        if Path(name).name != name or name in ("", ".."):
            raise BundleError(f"{listed}: {name!r} is not a file of its own folder")


@contextmanager
def understanding(path: Path) -> Iterator[None]:
    """What goes wrong with a manifest's fields, as errors that name the manifest."""
    try:
        yield
    except KeyError as error:
        raise BundleError(f"{path / MANIFEST}: field {error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: {error}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(manifest: Mapping[str, Any], role: str) -> str:
    """The file of a role, which must be among those that were verified."""
    name = str(manifest[role])
    if name not in manifest["files"]:
        raise ValueError(f"the {role} {name!r} is not among the checksummed files")
    return name


def _verify(path: Path, digest: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise BundleError(f"{path}: listed in the manifest, but {error.strerror}") from None
    if found != digest:
        raise BundleError(f"{path}: sha256 is {found}, the manifest says {digest}")


def head_of(raw: Mapping[str, Any]) -> Head:
    """One head of a manifest.

    Raises:
        KeyError, ValueError: where a field is missing or the thresholds are out of order.
    """
    return Head(str(raw["name"]), float(raw["scale"]), float(raw["bias"]), thresholds_of(raw))


def thresholds_of(raw: Mapping[str, Any]) -> Thresholds:
    """A head's own thresholds: ``flag`` and ``block``, and under ``sensitivities`` further sets.

    A set that is not there is the plain one.

    Raises:
        KeyError, ValueError: where a threshold is missing or out of order.
    """
    plain, more = _set_of(raw, raw), raw.get("sensitivities") or {}
    if not more:
        return plain
    if stray := set(more) - {"strict", "loose"}:
        raise ValueError(f"head {raw['name']!r}: unknown sensitivity {min(stray)!r}")
    strict, loose = (_set_of(more.get(name, raw), raw) for name in ("strict", "loose"))
    for one, other in pairwise((strict, plain, loose)):
        if one.flag > other.flag or one.block > other.block:
            raise ValueError(
                f"head {raw['name']!r}: thresholds must not fall from strict to balanced to loose"
            )
    return CalibratedThresholds(plain.flag, plain.block, strict, loose)


def _set_of(raw: Mapping[str, Any], head: Mapping[str, Any]) -> Thresholds:
    found = Thresholds(float(raw["flag"]), float(raw["block"]))
    if not 0 < found.flag <= found.block <= 1:
        raise ValueError(f"head {head['name']!r}: thresholds must satisfy 0 < flag <= block <= 1")
    return found


def _check_heads(bundle: Bundle) -> None:
    names = [head.name for head in bundle.heads]
    if missing := [q for q in REQUIRED if q not in names]:
        raise BundleError(f"{bundle.path / MANIFEST}: head {missing[0]!r} is missing")
    try:
        taxonomy().check(n for n in names if n not in QUESTIONS)
    except ValueError as error:
        raise BundleError(f"{bundle.path / MANIFEST}: {error}") from None
