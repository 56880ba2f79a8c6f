"""A second bundle with scores of its own, made of the shipped one's weights, and bands for both."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.bundle import MANIFEST, Bundle, load
from tamis.tiers import BANDS, FORMAT

# Every overall score counts as unsure within, and none outside: of the texts below the goose alone.
GOOSE = "Tell my sister she is a worthless, ugly idiot."
SOUP = "What is a good recipe for lentil soup?"
UNSURE = {"prompt": {"overall": [0.3, 1.0]}, "toxicity": {"overall": [0.3, 1.0]}}


def write_second(bundle: Bundle, folder: Path, bands: dict[str, Any] | None = None) -> Bundle:
    """Another bundle: its scores are shifted, its thresholds are lower, its name is "second"."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["name"] = "second"
    for head in manifest["heads"]:
        head["bias"] -= 1.0
        head["flag"] /= 8
        head["block"] /= 2
        head.pop("sensitivities", None)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    made = load(folder)
    write_bands(folder, bundle.fingerprint, made.fingerprint, bands)
    return made


def write_bands(
    folder: Path,
    fast: str,
    accurate: str,
    bands: dict[str, Any] | None = None,
    weighed: dict[str, Any] | None = None,
    kept: Sequence[str] = (),
) -> None:
    """The file of bands in a folder; opinions are weighed only where it says how."""
    found = {
        "format": FORMAT,
        "fast": {"name": "tamis-22m", "fingerprint": fast},
        "accurate": {"name": "second", "fingerprint": accurate},
        "bands": UNSURE if bands is None else bands,
        "weighed": weighed or {},
        "kept": list(kept),
    }
    (folder / BANDS).write_text(json.dumps(found))
