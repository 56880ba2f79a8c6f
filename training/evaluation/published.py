"""Figures that others published on the same sets (data: ``published.yaml``)."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def published() -> Sequence[Mapping[str, Any]]:
    """One mapping for each model: its name, and F1 of the unsafe class by set, in percent."""
    text = files("training.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    found: Sequence[Mapping[str, Any]] = yaml.safe_load(text)
    return found


def recall_of(f1: float) -> float:
    """Recall on a set that is all unsafe, from its F1 (precision is 1 there), both in percent."""
    return 100 * f1 / (200 - f1)
