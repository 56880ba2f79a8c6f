"""Checkpoint → fp32 ONNX graph with dynamic batch and length."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.places import ready_made
from tamis import rules
from tamis.rules import PairShape
from training.classifier.model import GuardClassifier
from training.datasets.batches import INPUTS
from training.rules.model import RuleEncoder
from training.rules.split import SplitEncoder

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
    shapes = tuple({0: batch, 1: tokens} for _ in inputs)
    with ready_made(model.encoder, max_tokens):
        write(model, example, shapes, out, inputs, outputs)


def halves_to_onnx(model: SplitEncoder, states: Path, joint: Path, shape: PairShape) -> None:
    """Write both fp32 graphs of a split encoder, as ``tamis.rules`` says."""
    typed, width = model.reader.typed, model.encoder.config.hidden_size
    ids = torch.ones(1, 8, dtype=torch.int64)
    read, said = (torch.ones(1, tokens, width, dtype=torch.float16) for tokens in (5, 8))
    alone, rule, text = (
        Dim(name, min=2, max=most)
        for name, most in (
            ("tokens", shape.max_tokens),
            ("rule_tokens", shape.rule_tokens + 2),
            ("text_tokens", shape.max_tokens - shape.rule_tokens - 2),
        )
    )
    inputs = (rules.IDS, rules.TYPES) if typed else (rules.IDS,)
    with ready_made(model.encoder, shape.max_tokens, alone=True):
        write(
            _States(model).eval(),
            (ids, torch.zeros_like(ids)) if typed else (ids,),
            ({1: alone},) * len(inputs),
            states,
            inputs,
            (rules.STATES,),
        )
        write(
            _Joint(model).eval(),
            (read, said, ids),
            ({1: rule}, {1: text}, {1: text}),
            joint,
            rules.PARTS,
            (rules.OUTPUT,),
        )


class _States(nn.Module):
    """The lower layers, over one rule or text."""

    def __init__(self, model: SplitEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return self.model.states(input_ids, None, token_type_ids).half()


class _Joint(nn.Module):
    """The upper layers, over a rule and a text."""

    def __init__(self, model: SplitEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, rule: Tensor, text: Tensor, judged: Tensor) -> Tensor:
        both = torch.cat([rule.float(), text.float()], 1)
        return self.model.joint(both, None, judged)


def write(
    model: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple[dict[int, Any], ...],
    out: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write a module's graph, whose inputs are of dynamic shapes."""
    with warnings.catch_warnings():
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
            dynamic_shapes=shapes,
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
