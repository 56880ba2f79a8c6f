"""The split encoder: rule and text are read alone by the lower layers, and together by the rest.

A body of L layers is cut at layer k (DeFormer, Cao et al. 2020). Layers 0 … k-1 read a rule alone,
once per policy, and a text alone, once per request; layers k … L-1 read the states of both as one
sequence, once per pair. All weights are the body's own.

Rule and text have positions of their own, from 0. So either is read below as the body was
pretrained to read a sentence, opening token first, and no rule moves a text. Above, the parts are
told apart by what pretraining gave the body for it: BERT's token types, MPNet's relative positions,
which count over both, as if the text stood right behind the rule.

Two graphs can be made of it: ``states`` (tokens → states), and ``joint`` behind a concatenation
(states of a rule, states of a text → logit).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.classifier.model import GuardClassifier
from training.rules.model import RuleEncoder

# Bodies whose layers can be called one by one: the rest of them is embeddings alone.
BODIES: Final = frozenset({"bert", "mpnet"})


class SplitError(ValueError):
    """A body that cannot be cut there; the message says why."""


class SplitEncoder(RuleEncoder):
    """Says whether a text breaks a rule, ``split`` layers of either read before they meet."""

    def __init__(self, reader: GuardClassifier, split: int) -> None:
        """Cut a body.

        Raises:
            SplitError: where there is no such layer, or layers cannot be called one by one.
        """
        super().__init__(reader)
        body: Any = reader.encoder
        if body.config.model_type not in BODIES:
            raise SplitError(f"bodies of kind {body.config.model_type} cannot be cut")
        layers: nn.ModuleList = body.encoder.layer
        if not 0 < split < len(layers):
            raise SplitError(f"a body of {len(layers)} layers is cut at 1 to {len(layers) - 1}")
        self.split = split

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        """States (B, T, width) of rules or of texts, each read alone; all arguments are (B, T).

        Without padding no mask is needed, here and in ``joint``.
        """
        body: Any = self.encoder
        typed = {"token_type_ids": token_type_ids} if self.reader.typed else {}
        hidden = body.embeddings(input_ids=input_ids, **typed)
        return self._through(hidden, attention_mask, slice(0, self.split))

    def joint(self, states: Tensor, attention_mask: Tensor | None, judged: Tensor) -> Tensor:
        """Logits (P, 1) of pairs.

        Args:
            states: (P, T, width) of a rule, and of a text right behind it.
            attention_mask: (P, T) 1 for tokens, 0 for padding, which is behind both.
            judged: (P, T) 1 for the tokens of the text that are pooled; or of the text's own
                tokens alone, the last ones of all.
        """
        hidden = self._through(states, attention_mask, slice(self.split, None))
        return self.reader.pooled(hidden[:, -judged.shape[1] :], judged).logits

    def forward(  # type: ignore[override]
        self,
        alone: Sequence[Mapping[str, Tensor]],
        places: Tensor,
        attention_mask: Tensor,
        judged: Tensor,
    ) -> Tensor:
        """Logits (P, 1) of pairs, whose rules and texts are read once each.

        Args:
            alone: arguments of ``states``: some rules and texts of like lengths each.
            places: (P, T): of each token of a pair, where it is among all those of ``alone``.
            attention_mask: (P, T) 1 for tokens, 0 for padding.
            judged: (P, T) 1 for the tokens that are pooled.
        """
        flat = torch.cat([self.states(**parts).flatten(0, 1) for parts in alone])
        return self.joint(flat[places], attention_mask, judged)

    def _through(self, hidden: Tensor, attention_mask: Tensor | None, layers: slice) -> Tensor:
        """Some layers over a batch (B, T, width)."""
        stack: Any = self.encoder.encoder
        more = {}
        if attention_mask is not None:
            missing = (1 - attention_mask[:, None, None, :]).to(hidden.dtype)
            more["attention_mask"] = missing * torch.finfo(hidden.dtype).min
        if hasattr(stack, "compute_position_bias"):
            # The same for all rows: padding is behind every one of them.
            more["position_bias"] = stack.compute_position_bias(hidden[:1])
        for layer in stack.layer[layers]:
            found = layer(hidden, **more)
            hidden = found if isinstance(found, Tensor) else found[0]
        return hidden


def rule_encoder(path: Any, split: int, **load: Any) -> RuleEncoder:
    """A policy encoder on a base as pretrained, whole (0) or cut; raises as ``SplitEncoder``."""
    reader = GuardClassifier.from_base(path, 1, **load)
    return SplitEncoder(reader, split) if split else RuleEncoder(reader)
