"""The first runs: kernels and memory made ready, and the machine measured while at it."""

import math
import time
from dataclasses import dataclass
from typing import Final

from service.engine.classifier import Classifier
from tamis.content import Content
from tamis.windows import Window

LENGTHS: Final = (16, 64, 128, 256)
REPEATS: Final = 5
# A run on all threads must be faster by this much to be worth the other cores.
GAIN: Final = 0.92


@dataclass(frozen=True, slots=True)
class Pace:
    """What warm-up measured."""

    speed: float
    """Tokens per second of one worker."""
    wide_from: float
    """From so many tokens on, all threads finish a lone window sooner than one does."""


def warm_up(classifier: Classifier) -> Pace:
    """Run windows of all lengths on one thread and on all, keeping the best time of each.

    A fifth of a second on two cores. On Zen 5 two threads gain nothing up to 64 tokens and
    15 % at 128, which no constant would get right for the next machine.
    """
    limit = classifier.bundle.shape.max_tokens
    lengths = sorted({min(n, limit) for n in LENGTHS})
    modes = (False, True) if classifier.runtime.threads > 1 else (False,)
    times = {n: _best(classifier, _window(classifier, n), modes) for n in lengths}
    wide_from = math.inf
    for tokens in reversed(lengths):
        narrow, wide = times[tokens][0], times[tokens][-1]
        if wide > GAIN * narrow:
            break
        wide_from = tokens
    # The paths around the runtime: evidence, and a response behind its prompt.
    # A word that is none has the tables of reading loaded: 50 ms once.
    classifier.judge(Content("response", "helo", context="hello"), evidence=True)
    return Pace(max(n / spent[0] for n, spent in times.items()), wide_from)


def _window(classifier: Classifier, tokens: int) -> Window:
    shape = classifier.bundle.shape
    ids = [shape.cls, *[shape.sep] * (tokens - 1)]
    return Window(ids=ids, types=[0] * tokens, lead=1, first=0, count=tokens - 2)


def _best(classifier: Classifier, window: Window, modes: tuple[bool, ...]) -> list[float]:
    """The best time of each mode; in turns, so that what else the machine does falls on all."""
    best = [math.inf] * len(modes)
    for _ in range(REPEATS):
        for mode, wide in enumerate(modes):
            began = time.perf_counter()
            classifier.score([window], wide)
            best[mode] = min(best[mode], time.perf_counter() - began)
    return best
