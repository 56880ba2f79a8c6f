"""Questions of ``/v1/decisions`` as rules of a policy encoder, and its scores as answers."""

import math
from collections.abc import Mapping
from typing import Final

from service.engine.policy_encoder import RuleScore
from service.engine.reasoner.explanation import Explanation, Given, Reading
from service.moderation.explaining import Asked
from tamis.reasoner.protocol import Guideline

LIKELY: Final = 0.5
# Probabilities are taken apart into odds, and none is quite certain.
LEAST: Final = 1e-12


def rules_of(asked: Asked) -> tuple[Guideline, ...]:
    """A predicate's one rule, or an option's each: what it says, behind what is asked."""
    if asked.note is None:
        return asked.policy
    return tuple(
        Guideline(name, f"{asked.note} {text}" if text else asked.note)
        for name, text in asked.policy
    )


def answered(asked: Asked, scores: Mapping[Guideline, RuleScore]) -> Explanation:
    """What the scores of its rules answer to a question.

    Options exclude each other: given that just one holds, its probability is its odds' share.
    """
    found = [scores[rule] for rule in rules_of(asked)]
    names = [name for name, _ in asked.policy]
    likeliest = max(range(len(found)), key=lambda n: found[n].probability)
    probability = found[likeliest].probability
    odds = [_odds(score.probability) for score in found]
    holds = asked.note is not None or probability >= LIKELY
    reading = Reading(
        unsafe=probability,
        categories={name: one / sum(odds) for name, one in zip(names, odds, strict=True)},
        fault=None,
        tokens=sum(score.tokens for score in found),
        cached=sum(score.known for score in found),
        given=Given("unsafe" if holds else "safe", names[likeliest] if holds else None),
    )
    return Explanation(reading, "ok")


def _odds(probability: float) -> float:
    bounded = min(max(probability, LEAST), 1 - LEAST)
    return math.exp(math.log(bounded) - math.log1p(-bounded))
