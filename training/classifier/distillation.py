"""Soft targets: what other classifiers say of the rows that a smaller one learns from.

Hinton et al. 2015, with sigmoids instead of a softmax and no temperature: heads are questions of
their own, and a mean over teachers is already softer than any of them.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def soft_targets(
    teachers: Sequence[Path], rows: Sequence[Row], wanted: np.ndarray, cache: Path
) -> np.ndarray:
    """The teachers' mean probability per head, (rows, H).

    NaN for rows that are not ``wanted``, and for those in languages that a teacher cannot read. A
    teacher may have another base and tokenizer. ``wanted`` holds row numbers; the answer is kept in
    ``cache``, since asking a large teacher takes longer than a small student's training, and taken
    from there where rows and teachers are the same.

    Raises:
        ValueError: where a teacher has other heads.
    """
    if any(_english(folder) for folder in teachers):
        wanted = np.array([i for i in wanted if rows[i].english], dtype=int)
    asked_of = _identity(teachers, rows)
    if cache.exists():
        with cache.open("rb") as stream:
            if np.array_equal(np.load(stream), asked_of):
                found: np.ndarray = np.load(stream)
                if not np.isnan(found[wanted]).any():
                    return found
    mean = np.zeros((len(wanted), len(HEADS)), dtype=np.float32)
    asked = [rows[i] for i in wanted]
    for folder in tqdm(teachers, desc="ask teachers", unit="teacher"):
        teacher = Checkpoint(folder)
        if tuple(teacher.training["heads"]) != HEADS:
            raise ValueError(f"teacher {folder.name} has other heads than this version")
        mean += 1 / (1 + np.exp(-teacher.logits(asked))) / len(teachers)
    found = np.full((len(rows), len(HEADS)), np.nan, dtype=np.float32)
    found[wanted] = mean
    # Whole or not at all: of half an answer nothing could be gone on from.
    unfinished = cache.with_name(f"{cache.name}.part")
    with unfinished.open("wb") as stream:
        np.save(stream, asked_of)
        np.save(stream, found)
    unfinished.replace(cache)
    return found


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
