"""What was scored of a text that grows: no window is run twice, however often the text comes."""

import hashlib
import secrets
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.engine.classifier import Scored
from tamis.windows import Window

# Measured with tracemalloc (tests/service/test_streams.py): logits of some twenty heads, their key,
# and their place.
WINDOW_BYTES: Final = 360
NOTHING: Final = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Work:
    """Windows, of which so many were run, and the tokens of those."""

    windows: int = 0
    run: int = 0
    tokens: int = 0


class Memory:
    """The logits of a text's windows, by what the windows hold.

    What another bundle said of the same ids is another thing: its fingerprint is part of the name.

    A window that is full stays as it is while the text grows, but for the last one, which is moved
    back to full size: so of a text that comes again longer, only its end is run. Since what a
    window holds is its name, nothing needs to be known of how texts are read, tokenised and cut.

    The text itself is not kept: names are BLAKE2b under a secret of their own.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self._logits: dict[bytes, NDArray[np.float32]] = {}
        self.characters = 0
        """How long the text was when it was last read."""

    @property
    def size(self) -> int:
        """Estimated bytes of what is kept."""
        return WINDOW_BYTES * len(self._logits)

    def get(self, window: Window, bundle: str) -> Scored | None:
        """What a window scored, without what evidence is made of."""
        logits = self._logits.get(self._name(window, bundle))
        return None if logits is None else Scored(window, logits, NOTHING, NOTHING)

    def keep(self, scored: Iterable[tuple[str, Scored]], characters: int) -> None:
        """Keep a text's windows by bundle, and none of earlier, shorter versions."""
        # A row of a batch's outputs would keep them all.
        self._logits = {self._name(s.window, bundle): s.logits.copy() for bundle, s in scored}
        self.characters = characters

    def _name(self, window: Window, bundle: str) -> bytes:
        digest = hashlib.blake2b(bundle.encode(), key=self._secret, digest_size=16)
        digest.update(array("i", [window.lead, window.count, len(window.ids)]))
        digest.update(array("i", window.ids))
        digest.update(bytes(window.types))
        return digest.digest()
