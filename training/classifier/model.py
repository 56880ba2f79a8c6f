"""The classifier: a transformer encoder with token-level scores pooled into each head."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from training.classifier import pooling
from training.classifier.pooling import Spans


class Scores(NamedTuple):
    """What the classifier says of a batch; B texts, T tokens, H heads."""

    logits: Tensor
    """(B, H): one logit per head."""
    token_logits: Tensor
    """(B, T, H): what each token says by itself."""
    attention: Tensor
    """(B, T, H): how much each token counts; sums to 1 over the judged tokens that speak."""


class GuardClassifier(nn.Module):
    """Additive attention pooling, a multiple-instance learner over tokens.

    Each token gets a logit per head and each head a softmax attention over the judged tokens; a
    head's logit is the attention-weighted mean of its token logits (attention-based MIL, Ilse et
    al. 2018, in the additive form of Javed et al. 2022). The sum *is* the explanation: a token's
    share of a verdict is attention * token logit, known from the same forward pass.

    Attention starts at zero, so training begins from mean pooling, which is how the default base
    was pretrained.

    What was taught so is read more closely where ``read_spans`` says it: once trained, a short run
    of tokens may speak for a window (``pooling``). In training it may not: labels are of whole
    texts.
    """

    def __init__(self, encoder: PreTrainedModel, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.score = nn.Linear(encoder.config.hidden_size, heads)
        self.attend = nn.Linear(encoder.config.hidden_size, heads)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)
        nn.init.zeros_(self.attend.weight)
        nn.init.zeros_(self.attend.bias)
        self.typed = "token_type_ids" in inspect.signature(encoder.forward).parameters
        self._radius: int | None = None
        # Of the pooling, not of the weights: which one was calibrated stands in ``training.json``.
        self.register_buffer("_margins", torch.zeros(heads), persistent=False)

    @classmethod
    def from_base(cls, path: Any, heads: int, **load: Any) -> "GuardClassifier":
        """Load a base without dropout.

        Dropout costs a third of a CPU step (attention dropout also rules out the fused kernel:
        4.7k against 8.2k tokens/s at 32 x 128 in bf16), and at two or three epochs there is
        little to regularise. Without it a run draws no random numbers but the order of its data.
        """
        encoder = AutoModel.from_pretrained(path, attn_implementation="eager", **load)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(encoder.config, name):
                setattr(encoder.config, name, 0.0)
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return cls(encoder, heads)

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and so many of the lowest layers as pretrained.

        Whatever all layers share (MPNet's relative positions) stays as well: one gradient for it
        would have to pass through every layer.

        Raises:
            ValueError: where the encoder has fewer layers.
        """
        stack = max(
            (module for module in self.encoder.modules() if isinstance(module, nn.ModuleList)),
            key=len,
        )
        if layers > len(stack):
            raise ValueError(f"the encoder has {len(stack)} layers, fewer than {layers}")
        self.encoder.requires_grad_(False)
        stack[layers:].requires_grad_(True)

    def read_spans(self, spans: Spans | None, heads: Sequence[str]) -> None:
        """Let runs of tokens speak for a window, or (None) the whole alone; ``heads`` by name."""
        self._radius = spans and spans.radius
        if spans is not None:
            self._margins = spans.of(heads).to(self.score.weight.device)

    def keep_heads(self, kept: list[int]) -> None:
        """Drop all other heads, in place."""
        self._margins = self._margins[kept]
        for name in ("score", "attend"):
            full: nn.Linear = getattr(self, name)
            few = nn.Linear(full.in_features, len(kept))
            with torch.no_grad():
                few.weight.copy_(full.weight[kept])
                few.bias.copy_(full.bias[kept])
            setattr(self, name, few)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, judged: Tensor
    ) -> Scores:
        """Score a batch.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T) 1 for tokens, 0 for padding.
            token_type_ids: (B, T) 1 for a response behind its prompt; ignored by untyped bases.
            judged: (B, T) 1 for the tokens that are pooled: neither special nor context.
        """
        typed = {"token_type_ids": token_type_ids} if self.typed else {}
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, **typed
        ).last_hidden_state
        return self.pooled(hidden, judged)

    def pooled(self, hidden: Tensor, judged: Tensor) -> Scores:
        """Score a batch by its last states (B, T, width); ``judged`` as in ``forward``."""
        # Pooling in fp32: bf16 has too few digits for a softmax over hundreds of tokens.
        hidden = hidden.float()
        with torch.autocast(hidden.device.type, enabled=False):
            token_logits = self.score(hidden)
            found = pooling.whole(token_logits, self.attend(hidden), judged)
            if self._radius is not None and not self.training:
                found = pooling.best_run(token_logits, judged, found, self._radius, self._margins)
        return Scores(found.logits, token_logits, found.attention)
