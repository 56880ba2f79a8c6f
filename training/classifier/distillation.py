"""Soft targets: what other classifiers say of the rows that a smaller one learns from.

Hinton et al. 2015, with sigmoids instead of a softmax and no temperature: heads are questions of
their own, and a mean over teachers is already softer than any of them.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from tamis.bundle import sha256_of
from training.classifier import bases
from training.classifier.inference import Checkpoint
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS, QUESTIONS
from training.datasets.schema import Row

# Rows whose answers are kept together: some three minutes of a 110M teacher on two cores.
AT_A_TIME: Final = 4096


def soft_targets(
    teachers: Sequence[Path], rows: Sequence[Row], wanted: np.ndarray, cache: Path
) -> np.ndarray:
    """The teachers' mean probability per head, (rows, H).

    NaN for rows that are not ``wanted``, and for those in languages that a teacher cannot read. A
    teacher may have another base and tokenizer. ``wanted`` holds row numbers. Asking a large
    teacher takes longer than a small student's training, so what was said is kept in ``cache``,
    some rows at a time, and taken from there where rows and teachers are the same.

    Raises:
        ValueError: where a teacher has other heads.
    """
    if any(_english(folder) for folder in teachers):
        wanted = np.array([i for i in wanted if rows[i].english], dtype=int)
    asked_of = _identity(teachers, rows)
    found = _kept(cache, asked_of)
    if found is None:
        found = np.full((len(rows), len(HEADS)), np.nan, dtype=np.float32)
    missing = wanted[np.isnan(found[wanted]).any(axis=1)]
    loaded = [_teacher(folder) for folder in teachers] if len(missing) else []
    with tqdm(total=len(missing), desc="ask teachers", unit="row", disable=not loaded) as bar:
        for at in range(0, len(missing), AT_A_TIME):
            part = missing[at : at + AT_A_TIME]
            asked = [rows[i] for i in part]
            said = [1 / (1 + np.exp(-teacher.logits(asked))) for teacher in loaded]
            found[part] = np.mean(said, axis=0)
            _keep(cache, asked_of, found)
            bar.update(len(part))
    return found


def _teacher(folder: Path) -> Checkpoint:
    teacher = Checkpoint(folder)
    if tuple(teacher.training["heads"]) != HEADS:
        raise ValueError(f"teacher {folder.name} has other heads than this version")
    return teacher


def _kept(cache: Path, asked_of: np.ndarray) -> np.ndarray | None:
    """What was kept, where it answers the same."""
    if not cache.exists():
        return None
    with cache.open("rb") as stream:
        if not np.array_equal(np.load(stream), asked_of):
            return None
        found: np.ndarray = np.load(stream)
        return found


def _keep(cache: Path, asked_of: np.ndarray, found: np.ndarray) -> None:
    """Whole or not at all: of half a file nothing could be gone on from."""
    unfinished = cache.with_name(f"{cache.name}.part")
    with unfinished.open("wb") as stream:
        np.save(stream, asked_of)
        np.save(stream, found)
    unfinished.replace(cache)


def _identity(teachers: Sequence[Path], rows: Sequence[Row]) -> np.ndarray:
    """SHA-256 of all that an answer depends on: (32,) bytes."""
    digest = hashlib.sha256()
    for folder in teachers:
        digest.update(f"{sha256_of(folder / 'model.pt')} {_report(folder).get('pooling')}".encode())
    for row in rows:
        digest.update(json.dumps([row.target, row.judged, row.behind]).encode())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _english(folder: Path) -> bool:
    return bases.english(_report(folder)["recipe"]["base"])


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def soft_loss(
    logits: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, category_weight: float
) -> torch.Tensor:
    """Cross-entropy to the teachers over all heads, per row. logits, targets, labels: (B, H).

    Heads that a row's source says nothing of are taught, too: that is what a teacher adds. A row
    without targets (NaN) is taught by its labels.
    """
    targets = torch.where(targets.isnan(), labels.to(targets), targets)
    known = targets != UNKNOWN
    weight = torch.full((len(HEADS),), category_weight, device=logits.device)
    weight[: len(QUESTIONS)] = 1.0
    each = binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
    return (each * known * weight).sum() / len(targets)
