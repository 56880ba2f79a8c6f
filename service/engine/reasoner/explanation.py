"""What the reasoner makes of a text: a verdict of its own or one that was given, and a reason."""

from dataclasses import dataclass
from typing import Literal

from tamis.reasoner.protocol import Fault, Safety

Status = Literal["ok", "malformed", "unfinished", "late"]


@dataclass(frozen=True, slots=True)
class Given:
    """A verdict that others reached; the category is None where it is safe, or known to nobody."""

    safety: Safety
    category: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reasoner makes of a text before it says why.

    ``categories`` are P(category | unsafe), of sum 1. ``fault`` says that the model, left alone,
    would not have written a verdict at all; then the probabilities mean little.
    """

    unsafe: float
    categories: dict[str, float]
    fault: Fault | None
    tokens: int = 0
    prefix: int = 0
    """How many of them are the policy's."""
    cached: int = 0
    """How many of them were in the cache."""
    given: Given | None = None
    """The verdict, where it is another's: the probabilities are then, too, and sum to nothing."""

    @property
    def safety(self) -> Safety:
        """The label that was given, else the likelier one."""
        if self.given is not None:
            return self.given.safety
        return "unsafe" if self.unsafe >= 0.5 else "safe"

    @property
    def best(self) -> str:
        """The category that fits best, whether safe or not."""
        return max(self.categories, key=lambda name: self.categories[name])

    @property
    def category(self) -> str | None:
        """The category that was given, else the one that fits best; None where it is safe."""
        if self.given is not None:
            return self.given.category
        return None if self.safety == "safe" else self.best


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reading and its reason, None unless ``status`` is "ok" and a reason was asked for."""

    reading: Reading
    status: Status
    reason: str | None = None
    fault: Fault | None = None
    written: int = 0
    """Tokens of the reason."""
    verdict_seconds: float = 0.0
    reason_seconds: float = 0.0
