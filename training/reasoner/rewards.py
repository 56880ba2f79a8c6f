"""GSPR's reward (arXiv 2509.24418, section 3.3; ``safety_checklist_box.py`` of the authors' code).

    score = scale * gate * (0.55 * safety correct + 0.45 * category correct)

The gate is the format: the strict parser that serves (layout, known labels, no contradiction, no
5-gram ten times), where the authors ask for three marks in order and for no Chinese. ``scale`` is
0.5 where an answer is over-long. Theirs compares the whole with the thoughts; a reason here has a
limit of its own, so the limit decides.

Where the verdict is given, a reason has one of its own (``reason_reward``), of checks that need no
model (``reasons.py``): a model that judged reasons would be the one that is learnt from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tamis.reasoner.protocol import Format, MalformedError, parse
from training.reasoner.examples import Example
from training.reasoner.reasons import MOST_WORDS, check

SAFETY: Final = 0.55
CATEGORY: Final = 0.45
OVER_LONG: Final = 0.5
# Of a reason. Quotes that stand can be had by copying alone, so its own words count as much.
QUOTES: Final = 0.5
RULE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Reward:
    """A score in [0, 1] and its parts."""

    total: float
    parsed: bool
    safety: bool
    category: bool
    words: int


def reward(
    text: str, finished: bool, category: str | None, names: Sequence[str], form: Format
) -> Reward:
    """The reward of one generation.

    Args:
        text: what was written, without the end of the turn.
        finished: whether the turn was ended.
        category: the right one under the policy, None where the text is safe.
        names: the policy's categories.
        form: the layout.
    """
    words = len(text.split())
    try:
        if not finished:
            raise MalformedError("layout")
        said = parse(text, names, form)
    except MalformedError:
        return Reward(0.0, False, False, False, words)
    safety = (said.safety == "safe") == (category is None)
    right = said.category == category
    scale = 1.0 if len(said.reason.split()) <= MOST_WORDS else OVER_LONG
    return Reward(scale * (SAFETY * safety + CATEGORY * right), True, safety, right, words)


@dataclass(frozen=True, slots=True)
class ReasonReward:
    """The score of a reason alone in [0, 1] and its parts."""

    total: float
    parsed: bool
    quotes: bool
    rule: bool
    words: int


def reason_reward(text: str, finished: bool, example: Example) -> ReasonReward:
    """The reward of a reason whose verdict was given.

        score = scale * gate * (0.5 * quotes stand + 0.5 * it speaks of its own rule)

    ``scale`` is 0.5 where it has fewer or more words than a reason has. A safe text's reason may
    speak of any rule.

    Args:
        text: what was written, without the end of the turn.
        finished: whether the turn was ended.
        example: the text, its policy and its verdict.
    """
    found = check(text, example)
    gate = finished and found.written
    rule = found.own is not False and not found.foreign
    scale = 1.0 if found.fits else OVER_LONG
    total = scale * (QUOTES * found.stands + RULE * rule) if gate else 0.0
    return ReasonReward(total, gate, gate and found.stands, gate and rule, found.words)
