from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MPNetConfig,
    PretrainedConfig,
)

from export.graph import to_onnx
from export.half import to_half
from export.products import session
from service.engine.classifier import INPUTS as SERVED
from service.engine.cuda import CudaRuntime
from service.engine.runtime import OUTPUTS
from training.classifier.model import GuardClassifier
from training.classifier.pooling import Spans
from training.datasets.batches import INPUTS

TOKENS = 400
BASES: list[type[PretrainedConfig]] = [
    BertConfig,
    LlamaConfig,
    MistralConfig,
    MPNetConfig,
    Gemma3TextConfig,
]


def feed(tokens: int, batch: int = 1, padding: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(tokens).integers(4, 1000, (batch, tokens))
    mask = np.ones((batch, tokens), dtype=np.int64)
    mask[0, tokens - padding :] = 0
    judged = mask.copy()
    judged[:, 0] = 0
    return dict(zip(INPUTS, (ids, mask, 0 * mask, judged), strict=True))


@pytest.fixture(scope="module", params=BASES, ids=lambda base: base.model_type)
def model(request: pytest.FixtureRequest) -> GuardClassifier:
    torch.manual_seed(1)
    more = {} if request.param in (BertConfig, MPNetConfig) else {"num_key_value_heads": 2}
    config = request.param(
        vocab_size=1100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512,
        **more,
    )
    model = GuardClassifier(AutoModel.from_config(config, attn_implementation="eager"), 5).eval()
    torch.nn.init.normal_(model.attend.weight)
    model.read_spans(Spans(3, {"a": 0.0, "b": 0.2}), ["a", "b", "c", "d", "e"])
    with torch.no_grad():
        # A channel whose square is beyond fp16, as large decoders have them.
        next(model.encoder.parameters())[:, 3] = 300
    return model


@pytest.fixture(scope="module")
def fp32(model: GuardClassifier, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    to_onnx(model, path, max_tokens=TOKENS)
    return onnx.load(path)


@pytest.fixture(scope="module")
def half(fp32: onnx.ModelProto) -> onnx.ModelProto:
    return to_half(fp32)


@pytest.mark.parametrize(("batch", "tokens", "padding"), [(1, 2, 0), (1, 17, 0), (3, TOKENS, 50)])
def test_bases_of_all_shapes_export(model, fp32, batch: int, tokens: int, padding: int):
    given = feed(tokens, batch, padding)
    with torch.inference_mode():
        expected = model(**{k: torch.from_numpy(v) for k, v in given.items()})
    for name, value in zip(expected._fields, session(fp32).run(None, given), strict=True):
        np.testing.assert_allclose(value, getattr(expected, name).numpy(), atol=1e-4)


def test_half_says_what_the_whole_says(fp32, half):
    for given in (feed(17), feed(TOKENS, 3, padding=50)):
        (*whole, attended), (*halved, other) = (
            session(graph).run(OUTPUTS, given) for graph in (fp32, half)
        )
        for one, two in zip(whole, halved, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-2)
        # Of two runs of tokens that say the same to three digits, either may speak.
        assert (np.abs(attended - other).max(axis=1) < 1e-2).mean() > 0.9


def test_half_is_half_but_for_its_ends(fp32, half):
    assert half.graph.input == fp32.graph.input
    assert half.graph.output == fp32.graph.output
    kinds = {i.data_type for i in half.graph.initializer if np.prod(i.dims) >= 64 * 64}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert half.ByteSize() < 0.6 * fp32.ByteSize()


def test_a_gpu_has_all_its_operators(half):
    """Each of those that stayed behind would copy to the CPU and back in every run."""
    kinds = {node.op_type for node in half.graph.node}
    # Norms are one operator, and the mask is made by comparisons.
    assert not kinds & {"GatherND", "Pow", "Reciprocal", "ReduceMean"}


def test_in_batches_windows_are_scored_as_alone(half, tmp_path: Path):
    onnx.save(half, tmp_path / "model.fp16.onnx")
    runtime = CudaRuntime(tmp_path / "model.fp16.onnx", device="cpu")
    assert runtime.inputs == SERVED
    together = feed(40, batch=5, padding=13)
    found = runtime.run(together)
    for row in range(5):
        tokens = together["attention_mask"][row].sum()
        alone = runtime.run({k: v[row : row + 1, :tokens] for k, v in together.items()})
        np.testing.assert_allclose(found.logits[row], alone.logits[0], atol=5e-3)
        np.testing.assert_allclose(found.attention[row, :tokens], alone.attention[0], atol=5e-3)
