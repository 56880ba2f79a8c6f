"""What a small network reads of rows: frozen sentence embeddings, computed once and kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.curation.embedding import SentenceEncoder
from training.datasets.schema import Row


def features(
    rows: Sequence[Row], encoder: SentenceEncoder, cache: Path | None = None
) -> np.ndarray:
    """(n, 2 d) float32 in units of about 1: a row's prompt behind its judged text.

    Only a response has a prompt beside what is judged; for other targets that half is 0.
    """
    out = np.zeros((len(rows), 2 * encoder.width), dtype=np.float32)
    for target in sorted({row.target for row in rows}):
        mine = [n for n, row in enumerate(rows) if row.target == target]
        texts = [rows[n].judged for n in mine]
        out[mine, : encoder.width] = encoder.embed(texts, cache, f"embed {target}")
        if target == "response":
            prompts = [rows[n].prompt for n in mine]
            out[mine, encoder.width :] = encoder.embed(prompts, cache, "embed prompts")
    # Unit vectors of d numbers: each is about 1/sqrt(d), and layers like units of about 1.
    return out * np.sqrt(encoder.width, dtype=np.float32)
