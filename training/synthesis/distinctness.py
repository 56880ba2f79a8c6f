"""How varied a set of texts is; a collapsed generator shows here first."""

import zlib
from collections.abc import Sequence
from typing import Final

from training.datasets.contamination import words

# Longer texts repeat themselves whatever they say, so shares are taken over a like amount of text.
SAMPLE: Final = 2000


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams (Li et al. 2016), between 0 and 1."""
    total, seen = 0, set()
    for text in texts:
        found = words(text)
        grams = [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else 0.0


def compression_ratio(texts: Sequence[str]) -> float:
    """Size over compressed size: about 3 for varied English, far more for repetition."""
    raw = "\n".join(texts).encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else 0.0


def variety(texts: Sequence[str]) -> dict[str, float]:
    """The figures of a report, over ``SAMPLE`` texts spread evenly."""
    step = max(1, len(texts) // SAMPLE)
    sample = texts[::step][:SAMPLE]
    figures = {f"distinct_{n}": distinct_n(sample, n) for n in (1, 2, 3)}
    figures["compression_ratio"] = compression_ratio(sample)
    return {name: round(value, 4) for name, value in figures.items()}
