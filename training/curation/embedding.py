"""Texts → unit vectors, by the sentence encoder that the classifier starts from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from tamis.tokens import plain_tokenizer
from training.classifier import bases
from training.classifier.inference import autocast, device, keep_memory
from training.datasets.batches import WIDTH_STEP

# What a text is about shows in its beginning; 128 tokens are what the encoder was trained on.
MAX_TOKENS: Final = 128
BATCH_TOKENS: Final = 4096
# So many texts are embedded at a time, and stored where a folder is given: that much is repeated
# at most after an interruption.
SHARD: Final = 2048


class SentenceEncoder:
    """Mean of the token vectors, scaled to length 1 (Sentence-BERT); dot products are cosines."""

    def __init__(self, base: str = bases.DEFAULT) -> None:
        keep_memory()
        self.base, path = bases.resolve(base)
        arguments = self.base.load_arguments()
        self._model = AutoModel.from_pretrained(path, attn_implementation="eager", **arguments)
        self._model = self._model.to(device()).eval()
        self._tokenizer = plain_tokenizer(bases.tokenizer_file(path))
        longest = getattr(self._model.config, "max_position_embeddings", MAX_TOKENS)
        self._tokenizer.enable_truncation(min(MAX_TOKENS, longest))
        self.width: int = self._model.config.hidden_size

    def embed(
        self, texts: Sequence[str], cache: Path | None = None, about: str | None = None
    ) -> np.ndarray:
        """Embed texts into (n, width) float32; with a folder, what it holds is not done again.

        ``about`` names the progress bar; without it there is none.
        """
        shards = [texts[at : at + SHARD] for at in range(0, len(texts), SHARD)]
        bar = tqdm(total=len(texts), desc=about, unit="text", disable=about is None)
        out = [np.zeros((0, self.width), dtype=np.float32)]
        for shard in shards:
            out.append(self._stored(shard, cache))
            bar.update(len(shard))
        bar.close()
        return np.concatenate(out)

    def _stored(self, texts: Sequence[str], cache: Path | None) -> np.ndarray:
        if cache is None:
            return self._embed(texts)
        digest = hashlib.sha256(f"{self.base.name} {self.base.sha256}".encode())
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        path = cache / f"{digest.hexdigest()[:24]}.npy"
        if path.exists():
            return np.load(path).astype(np.float32)
        found = self._embed(texts)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as stream:
            np.save(stream, found.astype(np.float16))
        unfinished.rename(path)
        # As it will be read: a resumed run must not differ in the fourth digit.
        return found.astype(np.float16).astype(np.float32)

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda n: -len(encoded[n].ids))
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        at = 0
        while at < len(order):
            width = -(-max(1, len(encoded[order[at]].ids)) // WIDTH_STEP) * WIDTH_STEP
            chosen = order[at : at + max(1, BATCH_TOKENS // width)]
            ids = np.zeros((len(chosen), width), dtype=np.int64)
            mask = np.zeros((len(chosen), width), dtype=np.int64)
            for line, n in enumerate(chosen):
                ids[line, : len(encoded[n].ids)] = encoded[n].ids
                mask[line, : len(encoded[n].ids)] = 1
            out[chosen] = self._pooled(torch.from_numpy(ids), torch.from_numpy(mask))
            at += len(chosen)
        return out

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        on = next(self._model.parameters()).device
        ids, mask = ids.to(on), mask.to(on)
        with autocast(on):
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        mean = (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
