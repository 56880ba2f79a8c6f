"""GSPR's reward (arXiv 2509.24418, section 3.3; ``safety_checklist_box.py`` of the authors' code).

    score = scale * gate * (0.55 * safety correct + 0.45 * category correct)

The gate is the format: the strict parser that serves (layout, known labels, no contradiction, no
5-gram ten times), where the authors ask for three marks in order and for no Chinese. ``scale`` is
0.5 where an answer is over-long. Theirs compares the whole with the thoughts; a reason here has a
limit of its own, so the limit decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tamis.reasoner.protocol import Format, MalformedError, parse

SAFETY: Final = 0.55
CATEGORY: Final = 0.45
OVER_LONG: Final = 0.5
MOST_WORDS: Final = 35


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
