"""Completions → rewards: the pure parts of ``rewards``, fed by the models that know the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.adversarial import rewards
from training.adversarial.rewards import Novelty, Parts
from training.curation.judge import Judge
from training.datasets.contamination import words
from training.datasets.schema import Row
from training.synthesis.filters import Candidate, Checks
from training.synthesis.plan import Item
from training.synthesis.seeds import SOURCE


class RewardError(ValueError):
    """Weights of a reward that make no sense."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What bounds the parts of a reward."""

    gate: float = 0.5
    # Nats per token under SmolLM2-135M-Instruct: of 160 short real prompts nine in ten have less
    # than 5.03 (median 3.9); with their words shuffled nine in ten have more than 7.1.
    easy: float = 5.0
    hard: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.gate <= 1:
            raise RewardError("--gate must be between 0 and 1")
        if not 0 < self.easy < self.hard:
            raise RewardError("fluency: 0 < easy < hard nats per token")


class Fluency:
    """How surprising a message is to the frozen base, when a user says it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer

    @torch.inference_mode()
    def nats(self, texts: Sequence[str]) -> np.ndarray:
        """(n,): mean negative log-likelihood per token; infinite for an empty text."""
        opening = self._ids("<|im_start|>user\n")
        told = [self._ids(text) for text in texts]
        width = len(opening) + max((len(ids) for ids in told), default=0)
        batch = torch.zeros(len(texts), width, dtype=torch.int64)
        mask = torch.zeros_like(batch)
        for n, ids in enumerate(told):
            both = opening + ids
            batch[n, : len(both)] = torch.tensor(both)
            mask[n, : len(both)] = 1
        on = next(self._model.parameters()).device
        out = np.full(len(texts), np.inf)
        if not any(told):
            return out
        logits = self._model(input_ids=batch.to(on), attention_mask=mask.to(on)).logits
        for n, ids in enumerate(told):
            if ids:
                at = logits[n, len(opening) - 1 : len(opening) - 1 + len(ids)].float()
                target = torch.tensor(ids, device=on)
                out[n] = torch.nn.functional.cross_entropy(at, target).item()
        return out

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True, slots=True)
class Scored:
    """What a batch of completions is worth."""

    parts: list[Parts]
    reasons: list[str | None]
    """Why a text is not valid, as the filters of synthetic rows say it."""
    agreed: np.ndarray
    """(n,): whether the judge holds the intended label for likelier; of texts that say anything."""


class Scorer:
    """Scores what a generator wrote for items of the planner."""

    def __init__(
        self,
        classifier: Judge,
        judge: Judge,
        fluency: Fluency,
        checks: Checks,
        worth: Worth,
    ) -> None:
        self._classifier, self._judge = classifier, judge
        self._fluency, self._checks, self._worth = fluency, checks, worth
        self.novelty = Novelty()

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scored:
        """The parts of each text's reward; every text counts as written from here on."""
        candidates = [candidate_of(item, text) for item, text in zip(items, texts, strict=True)]
        reasons = self._checks.reasons(candidates)
        rows = [row_of(candidate) for candidate in candidates]
        classified, judged = self._classifier.unsafe(rows), self._judge.unsafe(rows)
        nats = self._fluency.nats(texts)
        parts, agreed = [], []
        for n, (row, text) in enumerate(zip(rows, texts, strict=True)):
            judge = rewards.of_label(float(judged[n]), row.label)
            parts.append(
                Parts(
                    complexity=rewards.complexity(
                        rewards.of_label(float(classified[n]), row.label)
                    ),
                    consistency=rewards.consistency(judge, self._worth.gate),
                    fluency=rewards.fluency(float(nats[n]), self._worth.easy, self._worth.hard),
                    freshness=1 - rewards.repetition(text),
                    novelty=self.novelty.of(text),
                    validity=0.0 if reasons[n] else 1.0,
                )
            )
            if words(text):
                agreed.append(judge >= 0.5)
        return Scored(parts, reasons, np.array(agreed, dtype=bool))


def candidate_of(item: Item, text: str) -> Candidate:
    """A completion as the filters read it."""
    return Candidate(item.leaf, text, item.message.phrase, item.message.text, True)


def row_of(candidate: Candidate) -> Row:
    """A completion as classifiers and judges read it, with the label that it was asked to have."""
    leaf = candidate.leaf
    return Row("", SOURCE, leaf.target, leaf.label, candidate.text, None, leaf.names, "permissive")
