import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export import bundle as exporting
from export.graph import to_onnx
from export.products import products, session
from export.quantize import best_int8
from service.engine.classifier import load_classifier
from tamis import bundle as bundles
from tamis import content
from training.classifier import trainer
from training.classifier.model import GuardClassifier
from training.classifier.pooling import SPANS, Spans
from training.classifier.recipe import Recipe
from training.datasets.batches import INPUTS
from training.evaluation.checkpoint import CheckpointJudge


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> GuardClassifier:
    torch.manual_seed(1)
    model = GuardClassifier.from_base(tiny_base, 5).eval()
    torch.nn.init.normal_(model.attend.weight)
    # Two heads of the five listen to runs of seven tokens.
    model.read_spans(Spans(3, {"a": 0.0, "b": 0.2}), ["a", "b", "c", "d", "e"])
    return model


def test_weights_that_learnt_of_users_texts_are_not_ours_to_license():
    def licence(variant: str, **rows: int) -> str:
        return exporting.licence_of({"recipe": {"variant": variant}, "rows": rows})

    assert licence("permissive", train=9) == licence("permissive", feedback=0) == "Apache-2.0"
    assert licence("all").startswith("research only")
    assert licence("permissive", feedback=1) == licence("all", feedback=1) == exporting.OWN


@pytest.fixture(scope="module")
def graph(model: GuardClassifier, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    to_onnx(model, path, max_tokens=64)
    return onnx.load(path)


def feed(tokens: int, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ones = np.ones((batch, tokens), dtype=np.int64)
    ids = rng.integers(4, 1000, (batch, tokens))
    return dict(zip(INPUTS, (ids, ones, 0 * ones, ones), strict=True))


@pytest.mark.parametrize(("batch", "tokens"), [(1, 2), (1, 17), (3, 40), (2, 64)])
def test_the_graph_says_what_the_model_says_at_any_shape(model, graph, batch: int, tokens: int):
    given = feed(tokens, batch=batch)
    with torch.inference_mode():
        expected = model(**{k: torch.from_numpy(v) for k, v in given.items()})
    for name, value in zip(expected._fields, session(graph).run(None, given), strict=True):
        np.testing.assert_allclose(value, getattr(expected, name).numpy(), atol=1e-5)
    assert b".py" not in graph.SerializeToString()
    if tokens > 7:
        model.read_spans(None, ["a", "b", "c", "d", "e"])
        with torch.inference_mode():
            plain = model(**{k: torch.from_numpy(v) for k, v in given.items()})
        model.read_spans(Spans(3, {"a": 0.0, "b": 0.2}), ["a", "b", "c", "d", "e"])
        louder = (expected.logits > plain.logits + 1e-6).any(dim=0)
        assert louder.tolist() == [True, True, False, False, False]


def test_quantisation_takes_the_large_products_and_leaves_the_heads(graph):
    assert len(products(graph)) == 12
    int8, errors = best_int8(graph, [feed(30, seed) for seed in range(8)])
    kinds = [node.op_type for node in int8.graph.node]
    # Query, key and value are one product.
    assert kinds.count("MatMulIntegerToFloat") == 8
    assert len(errors) == 3
    given = feed(30, seed=9)
    before, after = (session(g).run(["logits"], given)[0] for g in (graph, int8))
    assert np.abs(after - before).max() < 0.1


def test_from_data_to_a_served_bundle(
    graded_data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = graded_data
    monkeypatch.setattr(exporting, "CALIBRATION_ROWS", 32)
    checkpoint = trainer.train([data], tmp_path / "checkpoint", recipe)
    trainer.calibrate([data], checkpoint)
    report = exporting.build(checkpoint, [data], tmp_path / "bundle", "tiny")
    assert report["torch to fp32"]["flips"] == 0
    assert report["fp32 to int8"]["rows"] > 0

    bundle = bundles.load(tmp_path / "bundle")
    names = {head.name for head in bundle.heads}
    assert {"prompt", "response", "toxicity", "attack", "refusal", "severity"} <= names
    # No source in this data can teach these, so they are not offered.
    assert not names & {"sexual/minors", "misinformation"}
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["training"]["data_sha256"]
    assert manifest["pooling"] == asdict(SPANS)
    by_name = {head.name: head.thresholds for head in bundle.heads}
    assert by_name["prompt"].at("strict").flag <= by_name["prompt"].flag
    (told,) = (head for head in manifest["heads"] if head["name"] == "prompt")
    assert set(told["sensitivities"]) == {"strict", "loose"}
    said = (bundle.path / "README.md").read_text()
    assert f"| {told['alarms']:.3f} | {told['sensitivities']['strict']['flag']:.3f} |" in said

    classifier = load_classifier(bundle)
    kind, rude = (
        classifier.judge(content.plain(text)).overall
        for text in ("what a lovely garden", "you silly goose")
    )
    assert rude > 0.5 > kind

    # A short core in a long calm text is pooled alike before the export and behind it, and evidence
    # lies in what spoke.
    calm = "what a lovely garden number 7 " * 2
    long = content.plain(f"{calm} you silly goose {calm}")
    served = classifier.judge(long, evidence=True)
    (trained,) = CheckpointJudge(checkpoint).judge_all([long])
    assert served.overall == pytest.approx(trained.overall, abs=0.05)
    encoded = classifier.encode(long, evidence=True)
    (scored,) = classifier.score(encoded.windows)
    column = [head.name for head in bundle.heads].index("toxicity")
    heard = np.flatnonzero(scored.attention[:, column])
    assert len(heard) <= 2 * SPANS.radius + 1 or len(heard) == scored.window.count
    assert encoded.views[0].encoding is not None
    offsets = encoded.views[0].encoding.offsets
    for found in served.evidence:
        if found.category == "unsafe":
            assert offsets[heard[0]][0] <= found.start < found.end <= offsets[heard[-1]][1]

    report = exporting.build(checkpoint, [data], tmp_path / "half", "tiny", "fp16")
    assert report["fp32 to fp16"]["flips"] == 0
    half = bundles.load(tmp_path / "half")
    assert half.graph.name == "model.fp16.onnx"

    def stop(_: object) -> str:
        raise InterruptedError

    # What is there is replaced as a whole, and nothing but a bundle is.
    before = bundles.load(tmp_path / "bundle").fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(exporting.card, "render", stop)
        with pytest.raises(InterruptedError):
            exporting.build(checkpoint, [data], tmp_path / "bundle", "other", "fp16")
    assert bundles.load(tmp_path / "bundle").fingerprint == before
    with pytest.raises(ValueError, match="something else than a bundle"):
        exporting.build(checkpoint, [data], checkpoint, "other", "fp16")
    assert (checkpoint / "model.pt").is_file()
    for text in ("what a lovely garden", "you silly goose"):
        one, other = (
            served.judge(content.plain(text)).overall
            for served in (classifier, load_classifier(half))
        )
        assert one == pytest.approx(other, abs=0.05)
