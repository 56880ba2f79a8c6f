"""The cross-encoder: a rule and a text through one transformer, one logit out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.classifier.model import GuardClassifier


class InitError(ValueError):
    """A checkpoint that cannot be gone on from; the message says why."""


class RuleEncoder(nn.Module):
    """Says whether a text breaks a rule.

    The classifier's own body and pooling with one head, asked of the tokens of the text: they have
    read the rule by then, and those of the rule itself say nothing of the text.
    """

    split = 0
    """How many layers read rule and text alone: none."""

    def __init__(self, reader: GuardClassifier) -> None:
        super().__init__()
        self.reader = reader

    @classmethod
    def from_base(cls, path: Any, **load: Any) -> "RuleEncoder":
        """On a base as pretrained; raises as ``from_pretrained``."""
        return cls(GuardClassifier.from_base(path, 1, **load))

    @property
    def encoder(self) -> PreTrainedModel:
        """The transformer alone."""
        return self.reader.encoder

    def go_on_from(self, checkpoint: Path) -> None:
        """Take the body of a classifier's checkpoint, or all of a policy encoder's.

        Raises:
            InitError: where it is of another base.
        """
        state = torch.load(checkpoint / "model.pt", map_location="cpu", weights_only=True)
        if state["score.weight"].shape[0] > 1:
            state = {name: value for name, value in state.items() if name.startswith("encoder.")}
        try:
            missing = self.reader.load_state_dict(state, strict=False)
        except RuntimeError:
            raise InitError(f"init: {checkpoint} is of another base") from None
        if missing.unexpected_keys or any(n.startswith("encoder.") for n in missing.missing_keys):
            raise InitError(f"init: {checkpoint} is of another base")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits (B, 1) of pairs as ``tamis.rules`` lays them out; all arguments are (B, T)."""
        judged = token_type_ids * attention_mask
        found: Tensor = self.reader(input_ids, attention_mask, token_type_ids, judged).logits
        return found
