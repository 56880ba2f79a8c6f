"""Bundles of either kind that are made of public bases: classifiers and policy encoders."""

import json
from pathlib import Path
from typing import TypeAlias

from tamis import bundle, rules
from tamis.bundle import MANIFEST, Bundle, BundleError
from tamis.rules import PolicyEncoder

Made: TypeAlias = Bundle | PolicyEncoder


def load(path: Path) -> Made:
    """Read a bundle of whatever kind its manifest says, and verify every file it lists.

    Raises:
        BundleError: naming the file or field that is missing, changed or not understood.
    """
    try:
        said = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["format"]
    except OSError as error:
        raise BundleError(f"no bundle at {path}: {MANIFEST}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path / MANIFEST}: not a manifest ({error})") from None
    return rules.load(path) if said == rules.FORMAT else bundle.load(path)
