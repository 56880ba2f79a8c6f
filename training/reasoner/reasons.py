"""What can be told of a reason without a model: its layout and length, its quotes, its rule.

A reason speaks of its own rule where no other rule of the policy shares more of its words with it:
so it is of 88 % of the reasons that people wrote, who name a rule's point and hardly ever its name.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tamis.reasoner.protocol import Guideline, MalformedError, check_reason
from tamis.reasoner.quotes import Source, quotes, unquoted
from training.reasoner.examples import Example

MOST_WORDS: Final = 35
# People's have 12 and more; what is shorter quotes, and says nothing.
LEAST_WORDS: Final = 8
# Words are compared by their beginnings: "sells" and "selling" are the same here.
STEM: Final = 4
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one reason."""

    words: int
    written: bool
    """Whether the service takes it for a reason (``protocol.check_reason``)."""
    quoted: bool
    stands: bool
    """Whether all it quotes stands in the text, and it quotes something where that is unsafe."""
    own: bool | None
    """Whether it speaks of its own rule; None of a safe text, which has none."""
    foreign: bool
    """Whether it calls another rule by its name; of a safe text it may."""

    @property
    def fits(self) -> bool:
        """Whether it is as long as a reason is."""
        return LEAST_WORDS <= self.words <= MOST_WORDS

    @property
    def sound(self) -> bool:
        """Whether it is neither malformed, nor misquotes, nor contradicts its verdict."""
        return self.written and self.fits and self.stands and not self.foreign


def check(reason: str, example: Example) -> Checked:
    """Check a reason of an example's verdict; the example's own is not looked at."""
    category, source = example.category, Source.of(example.content)
    try:
        reason, written = check_reason(reason), True
    except MalformedError:
        written = False
    quoted = bool(quotes(reason))
    return Checked(
        words=len(reason.split()),
        written=written,
        quoted=quoted,
        stands=source.bears(reason) and (quoted or category is None),
        own=None if category is None else _own(reason, category, example.policy),
        foreign=category is not None and _foreign(reason, category, example.policy),
    )


def _own(reason: str, category: str, policy: Sequence[Guideline]) -> bool:
    said = _stems(unquoted(reason))
    rules = {name: _stems(f"{name} {definition or ''}") for name, definition in policy}
    known = Counter(stem for stems in rules.values() for stem in stems)
    shares = {
        # What all rules say tells none from the others.
        name: sum(math.log((len(policy) + 1) / known[stem]) for stem in stems & said)
        for name, stems in rules.items()
    }
    return shares[category] == max(shares.values()) > 0


def _foreign(reason: str, category: str, policy: Sequence[Guideline]) -> bool:
    said = unquoted(reason).casefold().replace(category.casefold(), " ")
    names = (name.casefold() for name, _ in policy if name != category)
    return any(re.search(rf"\b{re.escape(name)}\b", said) for name in names)


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in _WORD.findall(text.casefold()) if len(word) >= STEM}
