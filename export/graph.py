"""Checkpoint → fp32 ONNX graph with dynamic batch and length."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from training.classifier.model import GuardClassifier
from training.datasets.batches import INPUTS

OUTPUTS = ("logits", "token_logits", "attention")


def to_onnx(model: GuardClassifier, out: Path, max_tokens: int) -> None:
    """Write the fp32 graph: inputs (batch, tokens) int64, outputs as in ``model.Scores``."""
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in INPUTS)
    batch, tokens = Dim("batch", min=1, max=1024), Dim("tokens", min=2, max=max_tokens)
    with _plain_masks(model.encoder), warnings.catch_warnings():
        # One notice per input that the axis names are shared, which is what is wanted; and torch
        # warns of its own use of its own deprecated class.
        warnings.filterwarnings("ignore", message=".*axis name.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        torch.onnx.export(
            model,
            example,
            out,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple({0: batch, 1: tokens} for _ in INPUTS),
            dynamo=True,
            external_data=False,
            opset_version=20,
            verbose=False,
        )
    graph = onnx.load(out)
    # The shapes the exporter noted contradict those the quantiser infers ("(384) vs (14)").
    del graph.graph.value_info[:]
    # Stack traces of the exporting machine are nobody's business, and a tenth of the file.
    for node in graph.graph.node:
        del node.metadata_props[:]
    onnx.save(graph, out)


@contextmanager
def _plain_masks(encoder: nn.Module) -> Iterator[None]:
    """Give a decoder-shaped base its mask ready made, by comparisons.

    transformers looks the padding up by pairs of indices, which becomes a GatherND of booleans.
    CUDA has none: the mask would be made on the CPU in every run, and no CUDA graph be captured.
    """
    if not any(getattr(module, "is_causal", False) for module in encoder.modules()):
        yield
        return
    hook = encoder.register_forward_pre_hook(_with_causal_mask, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _with_causal_mask(
    _: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The encoder's arguments with 0 for the tokens that each one sees; no window slides."""
    mask: Tensor = given["attention_mask"]
    place = torch.arange(mask.shape[1])
    seen = (place[None, :] <= place[:, None]) & (mask[:, None, None, :] == 1)
    lowest = torch.finfo(torch.float32).min
    return args, {**given, "attention_mask": torch.where(seen, 0.0, lowest)}
