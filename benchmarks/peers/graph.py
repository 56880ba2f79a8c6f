"""Our bundle's graph the way a framework's user would serve it: pad a batch, run it once.

Session, tokenizer and scores are the service's own, so that what a framework adds is all that
differs. One window of the text only.
"""

import os
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from service.engine.runtime import OUTPUTS, cpu_session
from tamis import bundle as bundles


class Graph:
    """Texts → calibrated probabilities by head; as many threads as OMP_NUM_THREADS says."""

    def __init__(self) -> None:
        bundle = bundles.load(bundles.default_bundle())
        self._session = cpu_session(bundle.graph, int(os.environ["OMP_NUM_THREADS"]))
        self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
        self._tokenizer.enable_truncation(bundle.shape.max_tokens)
        self._tokenizer.enable_padding()
        self._names = [head.name for head in bundle.heads]
        self._scale = np.array([head.scale for head in bundle.heads])
        self._bias = np.array([head.bias for head in bundle.heads])

    def __call__(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Score one batch."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        logits, *_ = self._session.run(
            OUTPUTS,
            {
                "input_ids": np.array([e.ids for e in encodings]),
                "attention_mask": np.array([e.attention_mask for e in encodings]),
                "token_type_ids": np.array([e.type_ids for e in encodings]),
                "judged": 1 - np.array([e.special_tokens_mask for e in encodings]),
            },
        )
        scores = (1 / (1 + np.exp(-self._scale * logits - self._bias))).round(4)
        return [dict(zip(self._names, row, strict=True)) for row in scores.tolist()]
