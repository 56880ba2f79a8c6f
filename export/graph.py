"""Checkpoint → fp32 ONNX graph with dynamic batch and length."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch.export import Dim

from export.places import ready_made
from training.classifier.model import GuardClassifier
from training.datasets.batches import INPUTS
from training.rules.model import RuleEncoder

OUTPUTS = ("logits", "token_logits", "attention")


def to_onnx(
    model: GuardClassifier | RuleEncoder,
    out: Path,
    max_tokens: int,
    inputs: Sequence[str] = INPUTS,
    outputs: Sequence[str] = OUTPUTS,
) -> None:
    """Write the fp32 graph: inputs (batch, tokens) int64, outputs as the model's ``forward``."""
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in inputs)
    batch, tokens = Dim("batch", min=1, max=1024), Dim("tokens", min=2, max=max_tokens)
    with ready_made(model.encoder, max_tokens), warnings.catch_warnings():
        # One notice per input that the axis names are shared, which is what is wanted; and torch
        # warns of its own use of its own deprecated class.
        warnings.filterwarnings("ignore", message=".*axis name.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        torch.onnx.export(
            model,
            example,
            out,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch, 1: tokens} for _ in inputs),
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
