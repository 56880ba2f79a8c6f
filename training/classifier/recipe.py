"""What decides a checkpoint, besides the code and the data, and how much it may be built upon."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from training.classifier import bases
from training.datasets import mixing
from training.datasets.registry import BORDERLINE


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the field and its limit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a checkpoint, besides the code and the data."""

    base: str = bases.DEFAULT
    variant: mixing.Variant = "permissive"
    # A finished checkpoint to go on from, instead of the bare base.
    init: str | None = None
    epochs: float = 2.0
    # So many optimiser steps, instead of epochs: how runs on unlike mixtures are compared.
    steps: int | None = None
    batch_tokens: int = 4096
    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    # The share of the steps over which the learning rate falls to zero, at their end. Below 1 it is
    # constant before: such a run can be prolonged by more steps, and nothing of it was in vain.
    cooldown: float = 1.0
    # A row of a rich taxonomy has up to nine known categories but only one overall label.
    category_weight: float = 0.2
    seed: int = 0
    max_tokens: int = 256
    overlap: int = 64
    context_tokens: int = 96
    # Word vectors stay as pretrained: words that the training data lacks keep their meaning next
    # to those it has, and half of the optimiser's work is saved.
    train_embeddings: bool = False
    # So many of the lowest layers stay as pretrained, too: no gradient is computed for them, and a
    # delta to the public base does not hold them.
    frozen_layers: int = 0
    check_every: int = 500
    # How unsafe a borderline row is to its question; 0 and 1 teach it as safe and as unsafe.
    borderline: float = BORDERLINE
    # Finished checkpoints to learn from, and how much their opinion counts beside the labels.
    teachers: tuple[str, ...] = ()
    teaching: float = 0.5

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise RecipeError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.epochs < math.inf:
            raise RecipeError(f"epochs must be above 0 and finite, not {self.epochs}")
        if not 0 < self.cooldown <= 1:
            raise RecipeError(f"cooldown must be a share above 0, not {self.cooldown}")
        if self.frozen_layers < 0:
            raise RecipeError(f"frozen_layers must be at least 0, not {self.frozen_layers}")
        if not 0 <= self.borderline <= 1:
            raise RecipeError(f"borderline must be between 0 and 1, not {self.borderline}")
        if not 0 <= self.teaching <= 1:
            raise RecipeError(f"teaching must be a share between 0 and 1, not {self.teaching}")

    def told(self) -> dict[str, Any]:
        """For reports: where a checkpoint lay is nobody's business; which one it was is."""
        named = {"teachers": [Path(teacher).name for teacher in self.teachers]}
        return asdict(self) | {"init": self.init and Path(self.init).name} | named


OPTIONS: Final = tuple(field.name for field in fields(Recipe))


def feedback_behind(init: Path, variant: mixing.Variant, name: str = "init") -> int:
    """How many rows of feedback a checkpoint has learnt from that is gone on from, or taught by.

    What its weights may be used for holds of whatever is made of them. ``name`` is the recipe's
    field.

    Raises:
        RecipeError: where it learnt from rows whose licence this variant keeps out.
    """
    report = json.loads((init / "training.json").read_text())
    if variant == "permissive" and report["recipe"]["variant"] != variant:
        raise RecipeError(
            f"{name}: {init.name} learnt from rows that the variant {variant!r} keeps out"
        )
    return int(report["rows"].get("feedback", 0))
