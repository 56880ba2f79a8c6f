import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.classifier import inference, pooling, trainer
from training.classifier.model import GuardClassifier
from training.classifier.pooling import SPANS, Pooled, Spans
from training.classifier.recipe import Recipe
from training.datasets.registry import HEADS

RADIUS = 2
MARGINS = torch.tensor([0.0, 0.5, -pooling.MASKED])


def batch(tokens: int, lead: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Token logits, weights and judged tokens behind a lead of others."""
    draw = torch.Generator().manual_seed(seed)
    logits, weights = (3 * torch.randn(1, tokens, 3, generator=draw) for _ in range(2))
    judged = torch.ones(1, tokens)
    judged[:, :lead] = judged[:, -1] = 0
    return logits, weights, judged


def pooled(logits: Tensor, weights: Tensor, judged: Tensor) -> Pooled:
    found = pooling.whole(logits, weights, judged)
    return pooling.best_run(logits, judged, found, RADIUS, MARGINS)


@pytest.mark.parametrize(("tokens", "lead"), [(3, 1), (4, 1), (9, 4), (40, 1), (40, 17)])
def test_a_head_is_the_whole_or_its_best_run_less_a_margin(tokens: int, lead: int):
    for seed in range(20):
        logits, weights, judged = batch(tokens, lead, seed)
        found = pooled(logits, weights, judged)
        places = np.flatnonzero(judged[0])

        def share(of: np.ndarray, head: int, logits=logits, weights=weights) -> float:
            each = np.exp(weights[0, of, head].numpy())
            return float(each @ logits[0, of, head].numpy() / each.sum())

        for head, margin in enumerate(MARGINS.tolist()):
            runs = [places[abs(places - middle) <= RADIUS] for middle in places]
            best = max(share(run, head) for run in runs) - margin
            expected = max(share(places, head), best)
            assert found.logits[0, head].item() == pytest.approx(expected, abs=1e-4)
            # What counts explains the logit, and lies where it was found.
            attention = found.attention[0, :, head]
            assert attention.sum().item() == pytest.approx(1, abs=1e-5)
            said = (attention * logits[0, :, head]).sum().item()
            ran = best > share(places, head)
            assert said == pytest.approx(expected + margin * ran, abs=1e-4)
            assert not attention[judged[0] == 0].any()
            if ran:
                assert np.ptp(np.flatnonzero(attention)) <= 2 * RADIUS


def test_padding_changes_nothing():
    logits, weights, judged = batch(13, 3)
    alone = pooled(logits, weights, judged)
    wide = [torch.nn.functional.pad(t, (0, 0, 0, 30), value=7.0) for t in (logits, weights)]
    found = pooled(*wide, torch.nn.functional.pad(judged, (0, 30)))
    torch.testing.assert_close(found.logits, alone.logits)
    torch.testing.assert_close(found.attention[:, :13], alone.attention)


def test_a_window_with_nothing_to_judge_has_no_runs():
    logits, weights, judged = batch(6, 1)
    found = pooled(logits, weights, 0 * judged)
    assert torch.equal(found.logits, pooling.whole(logits, weights, 0 * judged).logits)


def test_a_short_core_is_not_outweighed_by_calm_tokens():
    logits = torch.full((1, 60, 3), -3.0)
    logits[:, 30:35] = 3.0
    weights, judged = torch.zeros(1, 60, 3), torch.ones(1, 60)
    assert (pooling.whole(logits, weights, judged).logits < -2).all()
    found = pooled(logits, weights, judged)
    assert found.logits[0].tolist() == pytest.approx([3.0, 2.5, -2.5])
    assert np.flatnonzero(found.attention[0, :, 0]).tolist() == [30, 31, 32, 33, 34]


def test_refusals_and_severity_are_of_the_whole():
    margins = dict(zip(HEADS, SPANS.of(HEADS).tolist(), strict=True))
    assert {name for name, margin in margins.items() if margin > 100} == {"refusal", "severity"}


def test_training_and_older_checkpoints_know_the_whole_alone(tiny_base: Path):
    torch.manual_seed(1)
    model = GuardClassifier.from_base(tiny_base, 3)
    torch.nn.init.normal_(model.attend.weight)
    given = {
        "input_ids": torch.arange(4, 44).unsqueeze(0),
        "attention_mask": torch.ones(1, 40, dtype=torch.int64),
        "token_type_ids": torch.zeros(1, 40, dtype=torch.int64),
        "judged": torch.ones(1, 40, dtype=torch.int64),
    }
    before = model.eval()(**given).logits
    model.read_spans(Spans(RADIUS, {"a": 0.0, "b": 0.0}), ["a", "b", "c"])
    after = model(**given).logits
    assert (after[0, :2] > before[0, :2]).all()
    assert after[0, 2] == before[0, 2]
    assert torch.equal(model.train()(**given).logits, before)
    model.eval().keep_heads([2, 1])
    assert model(**given).logits[0].tolist() == after[0, [2, 1]].tolist()
    model.read_spans(None, ["c", "b"])
    assert model(**given).logits[0].tolist() == before[0, [2, 1]].tolist()


def test_a_checkpoint_is_pooled_as_it_was_calibrated(data: Path, recipe: Recipe, tmp_path: Path):
    folder = trainer.train([data], tmp_path, recipe)
    report = json.loads((folder / "training.json").read_text())
    assert Spans.read(report["pooling"]) == SPANS
    # As it was written before there was a choice.
    del report["pooling"]
    (folder / "training.json").write_text(json.dumps(report))
    assert inference.load_model(folder)._radius is None
    trainer.calibrate([data], folder)
    assert json.loads((folder / "training.json").read_text())["pooling"] == asdict(SPANS)
    model = inference.load_model(folder)
    assert model._radius == SPANS.radius
    assert torch.equal(model._margins, SPANS.of(HEADS))
