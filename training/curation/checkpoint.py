"""A trained classifier, asked about rows: for judging them, and for what they cost it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import xlogy

from tamis.bundle import sha256_of
from training.classifier import calibration, inference
from training.classifier.calibration import sigmoid
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS, QUESTION_OF, QUESTIONS
from training.datasets.schema import Row


class CheckpointError(ValueError):
    """A folder that holds no checkpoint, or not all of one."""


class Checkpoint(inference.Checkpoint):
    """The model of a finished run, with what it is known by.

    Raises:
        CheckpointError: naming the file that is missing.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("training.json", "model.pt", "tokenizer.json"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is no checkpoint: {name} is missing")
        inference.keep_memory()
        self.name = folder.resolve().name
        self.sha256 = sha256_of(folder / "model.pt")
        super().__init__(folder)

    def losses(self, rows: Sequence[Row]) -> np.ndarray:
        """(n,): cross-entropy of each row's overall question, above what no prediction can avoid.

        A label of 0.4 costs .67 at the very best: left in, that would rank rows by how far their
        labels are from certain, and not by what the classifier makes of them. Where the source does
        not answer it (injections, say), the mean over the questions that it does answer; NaN where
        it answers none.
        """
        examples = self.encode(rows)
        logits = inference.predict(self.model, examples)
        labels = np.stack([example.labels for example in examples])
        logits, labels = logits[:, : len(QUESTIONS)], labels[:, : len(QUESTIONS)]
        known = labels != UNKNOWN
        # Labels lie between 0 and 1 where a row is borderline, or its source's label a share.
        p = np.where(known, labels, 0.0)
        each = p * np.logaddexp(0.0, -logits) + (1 - p) * np.logaddexp(0.0, logits)
        each = np.maximum(each + xlogy(p, p) + xlogy(1 - p, 1 - p), 0.0)
        own = np.array([QUESTIONS.index(QUESTION_OF[row.target]) for row in rows])
        at = np.arange(len(rows))
        only_own = np.zeros_like(known)
        only_own[at, own] = True
        used = np.where(known[at, own][:, None], only_own, known)
        count = used.sum(axis=1)
        total = np.where(used, each, 0.0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class CheckpointJudge:
    """A checkpoint's own answer to the question of each row's target, calibrated as in serving.

    Raises:
        CheckpointError: where it was never calibrated.
    """

    def __init__(self, folder: Path) -> None:
        self._checkpoint = Checkpoint(folder)
        try:
            found = calibration.read(folder)
        except FileNotFoundError:
            raise CheckpointError(f"{folder} is not calibrated") from None
        self._platt = {c["name"]: (c["scale"], c["bias"]) for c in found}
        self.name, self.sha256 = self._checkpoint.name, self._checkpoint.sha256
        # What a logit says is a matter of calibration and pooling, which may be made anew.
        said = json.dumps([self.sha256, found, self._checkpoint.training.get("pooling")])
        self.identity = hashlib.sha256(said.encode()).hexdigest()

    def unsafe(self, rows: Sequence[Row]) -> np.ndarray:
        """(n,): the probability that each row's judged text is unsafe."""
        questions = [QUESTION_OF[row.target] for row in rows]
        heads = [HEADS.index(question) for question in questions]
        scale, bias = np.array([self._platt[question] for question in questions]).T
        return sigmoid(scale * self._checkpoint.logits(rows)[np.arange(len(rows)), heads] + bias)


def epochs_of(folder: Path) -> float | None:
    """How many epochs a checkpoint has seen, those of the one it went on from included.

    A checkpoint names that one by its folder's name; it is looked for beside it. None where it was
    trained for so many steps, since then the epochs are not on record.
    """
    recipe = json.loads((folder / "training.json").read_text(encoding="utf-8"))["recipe"]
    if recipe.get("steps"):
        return None
    epochs = float(recipe["epochs"])
    if recipe.get("init"):
        before = folder.resolve().parent / Path(recipe["init"]).name
        if (before / "training.json").is_file() and before != folder.resolve():
            earlier = epochs_of(before)
            if earlier is None:
                return None
            epochs += earlier
    return round(epochs, 3)
