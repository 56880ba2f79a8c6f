from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModel, BertConfig, Gemma3TextConfig, MPNetConfig

from export import fuse
from export.graph import to_onnx
from export.products import (
    activations,
    by_activation,
    initializers,
    observe,
    products,
    session,
    set_array,
)
from export.quantize import best_int8, quantize, quantize_embeddings, range_of, round_weights
from export.rounding import compensated, nearest
from training.classifier.model import GuardClassifier
from training.datasets.batches import INPUTS

LAYERS = 2


@pytest.fixture(scope="module", params=[BertConfig, MPNetConfig], ids=lambda base: base.model_type)
def graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> onnx.ModelProto:
    """A graph with what makes BERT hard to quantise: a few channels much larger than all others."""
    torch.manual_seed(1)
    config = request.param(
        # Over 1,024 rows, so that the embedding table is quantised like a real one.
        vocab_size=1100,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=66,
    )
    model = GuardClassifier(AutoModel.from_config(config, attn_implementation="eager"), 5).eval()
    torch.nn.init.normal_(model.attend.weight)
    with torch.no_grad():
        for layer in model.encoder.encoder.layer:
            layer.intermediate.dense.bias[3] = 20
            layer.output.LayerNorm.weight[5] = 15
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    to_onnx(model, path, max_tokens=64)
    return onnx.load(path)


@pytest.fixture(scope="module")
def feeds() -> list[dict[str, np.ndarray]]:
    return [feed(30, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def int8(graph: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    return best_int8(graph, feeds)[0]


def feed(tokens: int, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ones = np.ones((batch, tokens), dtype=np.int64)
    ids = rng.integers(4, 1000, (batch, tokens))
    return dict(zip(INPUTS, (ids, ones, 0 * ones, ones), strict=True))


def logits_of(graph: onnx.ModelProto, given: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(session(graph).run(["logits"], given)[0])


def normed(graph: onnx.ModelProto) -> list[str]:
    return [name for name in by_activation(graph) if name.startswith("layer_norm")]


REWRITES: dict[str, Callable] = {
    "smooth": lambda g, seen: fuse.smooth(g, seen, 0.7, normed(g))[0],
    "smooth with channels aside": lambda g, seen: fuse.smooth(g, seen, 0.7, normed(g), normed(g))[
        0
    ],
    "smooth_context": lambda g, seen: fuse.smooth_context(g, seen)[0],
    "split_outliers": lambda g, seen: fuse.split_outliers(g, seen)[0],
    "merge": lambda g, _: fuse.merge(g),
}


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 2), (3, 40)])
def test_a_rewrite_changes_the_graph_and_not_its_function(
    graph, feeds, name: str, batch: int, tokens: int
):
    before = graph.SerializeToString()
    rewritten = REWRITES[name](graph, observe(graph, feeds))
    assert graph.SerializeToString() == before
    assert rewritten.SerializeToString() != before
    onnx.checker.check_model(rewritten)
    given = feed(tokens, seed=20, batch=batch)
    for one, other in zip(
        session(graph).run(None, given), session(rewritten).run(None, given), strict=True
    ):
        np.testing.assert_allclose(other, one, atol=2e-4)


def test_what_is_said_to_have_been_seen_is_what_the_rewritten_graph_shows(graph, feeds):
    split, seen = fuse.split_outliers(graph, observe(graph, feeds))
    context, seen = fuse.smooth_context(split, seen)
    smoothed, seen = fuse.smooth(context, seen, 0.7, normed(context), normed(context)[:1])
    shown = observe(smoothed, feeds)
    assert shown.keys() == seen.keys()
    for name, value in shown.items():
        np.testing.assert_allclose(value.peak, seen[name].peak, rtol=1e-2, atol=1e-4)
        np.testing.assert_allclose(value.moments, seen[name].moments, rtol=1e-2, atol=0.1)


def test_outliers_are_taken_aside_only_where_there_are_some(graph, feeds):
    seen = observe(graph, feeds)
    split, now = fuse.split_outliers(graph, seen)
    gelus = [name for name in by_activation(graph) if name.startswith("gelu")]
    assert all(len(now[name].most) == len(seen[name].most) - fuse.OUTLIERS for name in gelus)
    again, _ = fuse.split_outliers(split, now)
    assert len(again.graph.node) == len(split.graph.node)


def test_every_layer_is_quantised_whole(graph, int8):
    """Query, key and value as one product; what attention returns; two feed-forward ones."""
    kinds = [node.op_type for node in int8.graph.node]
    assert len(products(fuse.merge(graph))) == 4 * LAYERS
    assert kinds.count("MatMulIntegerToFloat") == 4 * LAYERS
    assert sum(kind == "Softmax" for kind in kinds) == LAYERS + 1
    # Whatever depends on the places alone is made once, before the layers.
    assert not {"Log", "CumSum", "GatherND"} & set(kinds)


def test_all_products_of_a_decoder_are_quantised(feeds, tmp_path: Path):
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=1100,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=128,
    )
    model = GuardClassifier(AutoModel.from_config(config, attn_implementation="eager"), 5).eval()
    to_onnx(model, tmp_path / "fp32.onnx", max_tokens=64)
    decoder = onnx.load(tmp_path / "fp32.onnx")
    small, _ = best_int8(decoder, feeds)
    # Query, key, value, what attention returns, gate, up and down.
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 7 * LAYERS
    for given in feeds:
        np.testing.assert_allclose(logits_of(small, given), logits_of(decoder, given), atol=0.02)


def test_compensated_rounding_is_nearer_in_the_product_than_nearest():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 96)) @ rng.standard_normal((96, 96))
    weight = rng.standard_normal((96, 32)).astype(np.float32)

    def error(steps: np.ndarray, scale: np.ndarray) -> float:
        return float(np.square(x @ (steps * scale - weight)).mean())

    assert error(*compensated(weight, x.T @ x)) < 0.5 * error(*nearest(weight))


@pytest.mark.parametrize("per_token", [True, False])
def test_bytes_hold_every_value_that_was_seen(graph, feeds, per_token: bool):
    """With weights that int8 holds exactly, the error left is at most half a step per input."""
    exact = deepcopy(graph)
    for product in products(exact):
        tensor = initializers(exact)[product.weight]
        steps, scale = nearest(numpy_helper.to_array(tensor))
        set_array(tensor, steps * scale)
    seen = observe(exact, feeds)
    weights = round_weights(exact, seen)
    chosen = list(by_activation(exact)) if per_token else []
    name, found = next(iter(by_activation(exact).items()))
    x = next(values for a, values in activations(exact, feeds[:1]) if a == name)[0]
    one = quantize(exact, seen, weights, chosen, only=[name])
    out = found[0].node.output[0]
    # The bias is added within a product of constant scale.
    read = [n.output[0] for n in exact.graph.node if n.op_type == "Add" and out in n.input]
    before, after = (_tensor(g, read[0], feeds[0]) for g in (exact, one))
    step = np.abs(x).max(axis=1) / 127 if per_token else range_of(seen[name]).step
    weight = numpy_helper.to_array(initializers(exact)[found[0].weight])
    bound = 0.51 * np.max(step) * np.abs(weight).sum(axis=0).max()
    assert 0 < np.abs(after - before).max() < bound


def _tensor(graph: onnx.ModelProto, name: str, given: dict[str, np.ndarray]) -> np.ndarray:
    probe = deepcopy(graph)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return np.asarray(session(probe).run([name], given)[0])


def test_a_text_scores_the_same_alone_and_padded_beside_others(int8):
    """What one dynamic scale for a whole batch cannot do."""
    alone = feed(11, seed=3)
    batch = feed(40, seed=4, batch=3)
    for name, value in alone.items():
        batch[name][1] = 0
        batch[name][1, :11] = value
    np.testing.assert_allclose(logits_of(int8, batch)[1:2], logits_of(int8, alone), atol=1e-5)


def test_onnxruntime_does_not_fuse_the_slow_layer_norm(int8, tmp_path: Path):
    """SkipLayerNormalization takes six times as long as the Add and the LayerNormalization."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "SkipLayerNormalization" not in kinds
    assert "FusedMatMul" in kinds


def test_embeddings_keep_each_row_to_a_half_step(graph):
    small = quantize_embeddings(graph)
    assert small.ByteSize() < graph.ByteSize()
    given = feed(30)
    np.testing.assert_allclose(logits_of(small, given), logits_of(graph, given), atol=0.05)
