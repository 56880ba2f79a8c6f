"""What a classifier says of rows: loading a checkpoint and running it, in training and after."""

import ctypes
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tamis.taxonomy import REFUSAL
from tamis.tokens import plain_tokenizer
from tamis.windows import WindowShape
from training.classifier import bases
from training.classifier.model import GuardClassifier
from training.classifier.pooling import Spans
from training.datasets import batches
from training.datasets.batches import INPUTS, Batch, Example
from training.datasets.registry import HEADS
from training.datasets.schema import Row


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def autocast(on: torch.device) -> Any:
    """bf16 where the hardware multiplies in it (2.2 times the steps/s on an AVX512-BF16 CPU)."""
    fast = on.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(on.type, torch.bfloat16, enabled=fast)


def to_tensors(batch: Batch, on: torch.device) -> dict[str, torch.Tensor]:
    """The model's arguments, by name."""
    return {name: torch.from_numpy(getattr(batch, name)).to(on) for name in INPUTS}


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the kernel after every tensor.

    Page faults of activations of ever new shapes cost a third of a CPU step: 0.85 s against 0.54 s.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 256 * 2**20)
        mallopt(m_mmap_max, 0)


@torch.inference_mode()
def predict(
    model: GuardClassifier, examples: list[Example], batch_tokens: int = 4096, fast: bool = True
) -> np.ndarray:
    """Logits of shape (rows, H), pooled over a row's windows as in serving.

    Within a window the model itself pools (``pooling``), as does the graph that is made of it; for
    its windows see ``speaking``. ``fast=False`` computes in fp32, for calibration and parity.
    """
    model.eval()
    on = next(model.parameters()).device
    picks = [(i, window) for i, example in enumerate(examples) for window in example.windows]
    picks.sort(key=lambda pick: len(pick[1].ids))
    out = np.full((len(examples), len(HEADS)), -np.inf, dtype=np.float32)
    sign = speaking(HEADS)
    for batch in batches.by_tokens(picks, batch_tokens):
        with autocast(on) if fast else torch.autocast(on.type, enabled=False):
            scores = model(**to_tensors(batches.collate(batch, examples), on))
        np.maximum.at(out, [i for i, _ in batch], sign * scores.logits.cpu().numpy())
    return np.where(np.isinf(out), out, sign * out)


def speaking(heads: Sequence[str]) -> np.ndarray:
    """(H,) by which window speaks for a row: 1 where the highest does, -1 where the lowest does.

    The lowest speaks for a refusal: an answer declines only where all of it does.
    """
    return np.where(np.array(heads) == REFUSAL, -1, 1).astype(np.float32)


def load_model(checkpoint: Path) -> GuardClassifier:
    """The trained model, in evaluation mode on the CPU, pooled as when it was calibrated."""
    report = json.loads((checkpoint / "training.json").read_text())
    base, path = bases.resolve(report["recipe"]["base"])
    model = GuardClassifier.from_base(path, len(report["heads"]), **base.load_arguments())
    state = torch.load(checkpoint / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model.read_spans(Spans.read(report.get("pooling")), report["heads"])
    return model.eval()


def shape_of(
    tokenizer: Tokenizer, *, max_tokens: int, overlap: int, context_tokens: int
) -> WindowShape:
    """Window sizes, in tokens, with the tokenizer's own special tokens.

    Its post-processor says which they are, where it has one: all-mpnet-base-v2 opens with ``<s>``,
    though its vocabulary has a ``[CLS]`` as well, which it never met.

    Raises:
        ValueError: where the tokenizer has none that can open and close a text.
    """

    def first_of(*names: str) -> int:
        ids = [tokenizer.token_to_id(name) for name in names]
        try:
            return next(i for i in ids if i is not None)
        except StopIteration:
            raise ValueError(f"the tokenizer has none of {', '.join(names)}") from None

    around = tokenizer.encode("").ids
    if len(around) == 2:
        cls, sep = around
    else:
        cls = first_of("[CLS]", "<s>", "<bos>", "<|im_start|>", "<|endoftext|>")
        sep = first_of("[SEP]", "</s>", "<eos>", "<|im_end|>", "<|endoftext|>")
    return WindowShape(
        cls=cls,
        sep=sep,
        max_tokens=max_tokens,
        overlap=overlap,
        context_tokens=context_tokens,
    )


class Checkpoint:
    """A finished checkpoint, ready to judge rows."""

    def __init__(self, folder: Path) -> None:
        self.training: dict[str, Any] = json.loads((folder / "training.json").read_text())
        self.model = load_model(folder).to(device())
        self.tokenizer = plain_tokenizer(folder / "tokenizer.json")

    def encode(self, rows: Sequence[Row], most: int = batches.HELD_OUT_WINDOWS) -> list[Example]:
        """Rows as its own tokens, in windows as it was trained on."""
        recipe = self.training["recipe"]
        sizes = {name: recipe[name] for name in ("max_tokens", "overlap", "context_tokens")}
        return batches.encode(rows, self.tokenizer, shape_of(self.tokenizer, **sizes), most)

    def logits(
        self, rows: Sequence[Row], most: int = batches.HELD_OUT_WINDOWS, fast: bool = True
    ) -> np.ndarray:
        """(rows, H): the highest over a row's first ``most`` windows."""
        return predict(self.model, self.encode(rows, most), fast=fast)
