"""What a classifier says of a text, as a policy encoder reads it while it is taught."""

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np

from tamis.content import Content
from tamis.rules import Hints

Hinted = Callable[[Content], Hints]
# A classifier is nearly always right about the rows that it was trained on, and less so of others:
# of so many texts it says nothing while the encoder learns, and of so many what it said of another.
SILENT: Final = 0.15
WRONG: Final = 0.1
# Those whose hints others may be given.
RECENT: Final = 512
# Texts whose hints are kept: most are drawn more than once.
KEPT: Final = 1 << 16


def no_hints(content: Content) -> Hints:  # noqa: ARG001
    """What is said where nobody is asked."""
    return ()


class Noisy:
    """A classifier's hints as if it had not been trained on these texts."""

    def __init__(self, hinted: Hinted, seed: int) -> None:
        self._hinted = lru_cache(KEPT)(hinted)
        self._rng = np.random.default_rng([seed, 2])
        self._recent: deque[Hints] = deque(maxlen=RECENT)

    def __call__(self, content: Content) -> Hints:
        """Hints of a text, of another one, or none."""
        found = self._hinted(content)
        self._recent.append(found)
        luck = self._rng.random()
        if luck < SILENT:
            return ()
        if luck < SILENT + WRONG:
            return self._recent[int(self._rng.integers(len(self._recent)))]
        return found
