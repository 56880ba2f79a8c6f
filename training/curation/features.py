"""What a small network reads of rows: frozen sentence embeddings, computed once and kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.curation.embedding import SentenceEncoder
from training.curation.stage import Entry


def features(
    entries: Sequence[Entry], encoder: SentenceEncoder, cache: Path | None = None
) -> np.ndarray:
    """(n, 2 d) float32 in units of about 1: a row's judged text, and the prompt of a response.

    For other targets the second half is 0. File by file, so that what ``cache`` holds of a file
    serves whatever else is read with it.
    """
    out = np.zeros((len(entries), 2 * encoder.width), dtype=np.float32)
    groups: dict[tuple[str, str], list[int]] = {}
    for n, entry in enumerate(entries):
        groups.setdefault((entry.file, entry.row.target), []).append(n)
    bar = tqdm(total=len(entries), desc="embed", unit="row")
    for (_, target), mine in groups.items():
        rows = [entries[n].row for n in mine]
        out[mine, : encoder.width] = encoder.embed([row.judged for row in rows], cache)
        if target == "response":
            out[mine, encoder.width :] = encoder.embed([row.prompt for row in rows], cache)
        bar.update(len(mine))
    bar.close()
    # Unit vectors of d numbers: each is about 1/sqrt(d), and layers like units of about 1.
    out *= np.sqrt(encoder.width, dtype=np.float32)
    return out
