"""A reasoner on disk: a decoder graph, its tokenizer, the format of its answers, calibration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tamis.bundle import default_bundle, listed, read_manifest, understanding
from tamis.reasoner.protocol import Format

FORMAT: Final = "tamis.reasoner.bundle/1"
NAME: Final = "tamis-reasoner-135m"
# The variable that says where the bundle is; empty: there is to be none.
WHERE: Final = "TAMIS_REASONER"


def default_reasoner() -> Path:
    """Where the bundle is looked for: ``TAMIS_REASONER``, else beside the classifier's."""
    if chosen := os.environ.get(WHERE):
        return Path(chosen)
    return default_bundle().parent / NAME


@dataclass(frozen=True, slots=True)
class Calibration:
    """From the model's log odds to probabilities; the identity where nothing was fitted.

    P(unsafe) = sigmoid(scale * log odds + bias); category log-probabilities are divided by
    ``temperature`` before they are normalised.
    """

    scale: float = 1.0
    bias: float = 0.0
    temperature: float = 1.0
    fitted: bool = False

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.temperature <= 0:
            raise ValueError("calibration: scale and temperature must be above 0")


@dataclass(frozen=True, slots=True)
class ReasonerBundle:
    """A verified bundle. ``positions`` is the longest text in tokens, policy and answer in it."""

    path: Path
    name: str
    fingerprint: str
    graph: Path
    tokenizer: Path
    positions: int
    form: Format
    calibration: Calibration
    manifest: Mapping[str, Any]


def load(path: Path) -> ReasonerBundle:
    """Read a reasoner's bundle and verify every file it lists.

    Raises:
        BundleError: naming the file or field that is missing, changed or not understood.
    """
    manifest, fingerprint = read_manifest(path, FORMAT)
    with understanding(path):
        return ReasonerBundle(
            path=path,
            name=str(manifest["name"]),
            fingerprint=fingerprint,
            graph=path / listed(manifest, "graph"),
            tokenizer=path / listed(manifest, "tokenizer"),
            positions=int(manifest["positions"]),
            form=Format(**manifest["answers"]),
            calibration=Calibration(**manifest["calibration"]),
            manifest=manifest,
        )
