"""Token scores → a window's logits: all of it at once, and the part that says most.

A softmax over all tokens of a window lets calm ones outweigh a short harmful core. So each head is
asked again of every short run of tokens, by the same attention, renormalised within the run: no
token is run twice. A head's logit is the larger of the whole's and the best run's less a margin,
which keeps a loud word alone from speaking for a calm text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from tamis.taxonomy import ATTACK, TOXICITY
from training.datasets.registry import CATEGORIES

# A finite "minus infinity": survives fp16 and never yields 0 * inf in a fully masked row.
MASKED = -1e4
# Below any attention that a run of judged tokens has; runs without one have none at all.
NOTHING = 1e-30


@dataclass(frozen=True, slots=True)
class Spans:
    """Which runs are asked, and by how many logits one has to beat the whole.

    A run is a judged token with ``radius`` tokens on either side. Heads without a margin are read
    from the whole alone.
    """

    radius: int
    margins: Mapping[str, float] = field(default_factory=dict)

    def of(self, heads: Iterable[str]) -> Tensor:
        """(H,): the margin of each head; ``-MASKED`` where no run can speak."""
        return torch.tensor([self.margins.get(head, -MASKED) for head in heads])

    @classmethod
    def read(cls, raw: Mapping[str, Any] | None) -> "Spans | None":
        """As ``dataclasses.asdict`` wrote it; None where nothing was written."""
        return None if raw is None else cls(int(raw["radius"]), dict(raw["margins"]))


# Chosen on 1,945 held-out rows of a MiniLM checkpoint, docs/robustness.md. Runs of 21 tokens hold a
# sentence; those of 33 and more are diluted again, and with those of 9 and 13 fewer harmful rows
# are found at the same false alarms. Smaller margins find a little more in long texts and cost
# average precision, that of answers and of severity first: what is borderline, and what declines,
# is a matter of the whole.
SPANS: Final = Spans(
    radius=10,
    margins={"prompt": 0.75, TOXICITY: 0.75, ATTACK: 0.75, "response": 1.0}
    | dict.fromkeys(CATEGORIES, 1.0),
)


class Pooled(NamedTuple):
    """What speaks for each window; B windows, T tokens, H heads."""

    logits: Tensor
    """(B, H)"""
    attention: Tensor
    """(B, T, H): how much each token counts, of the run where that speaks; sums to 1."""


def whole(token_logits: Tensor, weights: Tensor, judged: Tensor) -> Pooled:
    """Additive attention over all judged tokens.

    Args:
        token_logits: (B, T, H).
        weights: (B, T, H), attention before its softmax.
        judged: (B, T), 0 for tokens that do not count.
    """
    attention = weights.masked_fill(judged.unsqueeze(-1) == 0, MASKED).softmax(dim=1)
    return Pooled((attention * token_logits).sum(dim=1), attention)


def best_run(
    token_logits: Tensor, judged: Tensor, found: Pooled, radius: int, margins: Tensor
) -> Pooled:
    """The whole's answer, or that of the run that beats it by its margin.

    Sums over neighbours are averages here, of which only ratios matter: one cheap operator that
    every runtime has, whose answer does not depend on padding.

    Args:
        token_logits: (B, T, H).
        judged: (B, T).
        found: what ``whole`` says of the same.
        radius: tokens on either side of a run's middle.
        margins: (H,).
    """
    heads, width = token_logits.shape[2], 2 * radius + 1
    both = torch.cat([found.attention, found.attention * token_logits], dim=2).transpose(1, 2)
    near = avg_pool1d(both, width, stride=1, padding=radius).transpose(1, 2)
    share, worth = near[..., :heads].clamp(min=NOTHING), near[..., heads:]
    silent = (judged.unsqueeze(-1) == 0) | (share <= NOTHING)
    best = (worth / share).masked_fill(silent, MASKED).max(dim=1)
    logits = best.values - margins
    speaks = logits > found.logits
    middle = best.indices.unsqueeze(1)
    place = torch.arange(token_logits.shape[1], device=middle.device).view(1, -1, 1)
    within = ((place - middle).abs() <= radius).to(share.dtype)
    own = found.attention * within / (width * share.gather(1, middle))
    return Pooled(
        torch.where(speaks, logits, found.logits),
        torch.where(speaks.unsqueeze(1), own, found.attention),
    )
