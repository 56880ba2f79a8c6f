"""Judge contents with a checkpoint that was not exported yet, many at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis.bundle import head_of
from tamis.content import Content
from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, REFUSAL, SEVERITY, TOXICITY
from tamis.verdict import Finding
from training.classifier.calibration import read, sigmoid
from training.classifier.inference import Checkpoint, keep_memory, predict
from training.datasets.batches import Example
from training.datasets.registry import CATEGORIES, HEADS, QUESTION_OF
from training.datasets.schema import Row

TARGET_OF: Final = {question: target for target, question in QUESTION_OF.items()}
MANY: Final = 10**6


class CheckpointJudge:
    """The findings that the exported bundle would have, but for quantisation, without evidence."""

    def __init__(self, folder: Path) -> None:
        """Load a calibrated checkpoint.

        Raises:
            FileNotFoundError: where it was not calibrated.
        """
        keep_memory()
        heads = [head_of(raw) for raw in read(folder)]
        self.checkpoint = Checkpoint(folder)
        self.thresholds: dict[str, Thresholds] = {head.name: head.thresholds for head in heads}
        self._found: dict[Content, Finding] = {}
        self._taught = [name for name in CATEGORIES if name in self.thresholds]
        column = [HEADS.index(head.name) for head in heads]
        self._scale, self._bias = np.zeros(len(HEADS)), np.zeros(len(HEADS))
        self._scale[column] = [head.scale for head in heads]
        self._bias[column] = [head.bias for head in heads]

    def judge_all(self, contents: Sequence[Content]) -> Iterator[Finding]:
        """One finding per content, in order; a text met before is remembered."""
        fresh = list({content: None for content in contents if content not in self._found})
        self._found.update(zip(fresh, self._judged(fresh), strict=True))
        return (self._found[content] for content in contents)

    def _judged(self, contents: Sequence[Content]) -> Iterator[Finding]:
        encoded = self.checkpoint.encode([_row_of(content) for content in contents], MANY)
        alone = [Example([window], e.labels) for e in encoded for window in e.windows]
        logits = predict(self.checkpoint.model, alone)
        at = 0
        for content, example in zip(contents, encoded, strict=True):
            mine = logits[at : at + len(example.windows)]
            at += len(example.windows)
            yield self._finding(content, sigmoid(self._scale * mine + self._bias))

    def _finding(self, content: Content, p: np.ndarray) -> Finding:
        """Windows pooled as the serving engine pools them; p: (windows, H)."""
        if not content.text.strip():
            return Finding(content.question, 0.0, {}, None, 0, 0, field=content.field)
        unsafe = p[:, HEADS.index(content.question)]
        if content.question == ATTACK:
            attacks, field = float(unsafe.max()), content.field
            return Finding(ATTACK, attacks, {}, attacks, windows=len(p), tokens=0, field=field)
        found: dict[str, Any] = {
            name: float((unsafe * p[:, HEADS.index(name)]).max()) for name in self._taught
        }
        attack = declines = None
        if content.question == "response" and REFUSAL in self.thresholds:
            declines = float(p[:, HEADS.index(REFUSAL)].min())
        if content.question != "response":
            found[TOXICITY] = float(p[:, HEADS.index(TOXICITY)].max())
            attack = float(p[:, HEADS.index(ATTACK)].max())
        severity = None
        if SEVERITY in self.thresholds:
            severity = float(p[:, HEADS.index(SEVERITY)].max())
        return Finding(
            content.question,
            float(unsafe.max()),
            found,
            attack,
            windows=len(p),
            tokens=0,
            refusal=declines,
            severity=severity,
            field=content.field,
        )


def _row_of(content: Content) -> Row:
    """A row that says nothing but the text; any source does."""
    target = TARGET_OF[content.question]
    answer = content.text if target == "response" else None
    prompt = content.context or "" if target == "response" else content.text
    earlier = (content.context,) if target != "response" and content.context else ()
    return Row("", "tamis_synthetic", target, 0, prompt, answer, (), None, context=earlier)  # type: ignore[arg-type]
