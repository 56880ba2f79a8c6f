import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors

from tamis.tokens import plain_tokenizer
from tests.conftest import row, write_rows
from training.classifier import inference, trainer
from training.classifier.model import GuardClassifier
from training.classifier.optimizer import optimizer_of
from training.classifier.recipe import Recipe, RecipeError
from training.datasets import batches
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS
from training.datasets.schema import parse_row


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
        if Path(path).name == "last.pt.part":
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


def test_a_prolonged_run_goes_on_from_before_its_learning_rate_fell(
    data: Path, recipe: Recipe, tmp_path: Path
):
    def run(steps: int, out: str) -> dict[str, torch.Tensor]:
        chosen = replace(recipe, steps=steps, cooldown=0.5, warmup=0.01, check_every=steps)
        folder = trainer.train([data], tmp_path / out, chosen)
        return torch.load(folder / "model.pt", weights_only=True)

    short = run(12, "prolonged")
    prolonged, whole = run(20, "prolonged"), run(20, "whole")
    assert all(torch.equal(prolonged[name], whole[name]) for name in whole)
    assert not all(torch.equal(short[name], whole[name]) for name in whole)


def test_a_prolonged_run_keeps_no_weights_that_a_shorter_one_chose(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reports = []
    for steps, quality in ((12, 0.9), (20, 0.1)):
        monkeypatch.setattr(trainer, "held_out_quality", lambda *_, quality=quality: quality)
        chosen = replace(recipe, steps=steps, cooldown=0.5, check_every=3)
        folder = trainer.train([data], tmp_path / "run", chosen)
        reports.append(json.loads((folder / "training.json").read_text()))
    assert [report["best"]["quality"] for report in reports] == [0.9, 0.1]


def test_a_run_is_gone_on_with_as_it_began(data: Path, recipe: Recipe, tmp_path: Path):
    short = replace(recipe, steps=4, init=None)
    out = trainer.train([data], tmp_path / "run", short)
    more = tmp_path / "more"
    more.mkdir()
    write_rows(more / "rows.jsonl.gz", [row(1, "aart", "prompt", 1, "how to steal a goose")])
    report = (out / "training.json").read_text()
    for folders, chosen, named in (
        ([data], replace(short, seed=5), "first batches: .* seed"),
        ([data], replace(short, encoder_lr=1e-4), "encoder_lr: "),
        ([data, more], short, "data: "),
        ([data], replace(short, steps=3), "steps: .* 4 of 4 steps"),
    ):
        with pytest.raises(RecipeError, match=named):
            trainer.train(folders, out, chosen)
    assert (out / "training.json").read_text() == report
    # Checkpoints of older versions do not say how they began.
    last = torch.load(out / "last.pt", weights_only=True)
    del last["run"]
    torch.save(last, out / "last.pt")
    trainer.train([data], out, replace(short, encoder_lr=1e-4))


def test_weights_are_kept_where_nothing_held_out_can_be_ranked(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer, "held_out_quality", lambda *_: float("nan"))
    out = trainer.train([data], tmp_path / "run", replace(recipe, steps=4, check_every=2))
    # Which is no number, and so nothing that JSON knows.
    assert json.loads((out / "training.json").read_text())["best"] == {"step": 4, "quality": None}
    assert (out / "model.pt").exists()


def test_every_step_has_a_batch_where_later_epochs_are_shorter(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    lengths = {0: 3, 1: 2, 2: 2}
    monkeypatch.setattr(
        batches, "epoch", lambda *given: [[(0, None)]] * lengths[given[-1] - recipe.seed]
    )
    rows = [parse_row(json.dumps(row(1, "written_prompts", "prompt", 0, "cookie")), "here")]
    for processes in (1, 2):
        plan = trainer._plan(rows, [], replace(recipe, steps=6 // processes), processes)
        assert [len(step) for step in plan] == [processes] * (6 // processes)
    with pytest.raises(RecipeError, match="no row"):
        trainer._plan([], [], replace(recipe, steps=6), 1)


def test_the_learning_rate_is_held_and_falls_at_the_end(tiny_base: Path, recipe: Recipe):
    model = GuardClassifier.from_base(tiny_base, len(HEADS))

    def rates(**chosen: float) -> list[float]:
        optimizer, schedule = optimizer_of(model, replace(recipe, **chosen), 20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"] / recipe.encoder_lr)
            optimizer.step()
            schedule.step()
        return found

    held = rates(warmup=0.1, cooldown=0.25)
    assert held[:2] == pytest.approx([0.5, 1.0])
    assert held[2:15] == pytest.approx([1.0] * 13)
    assert held[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates(warmup=0.1, cooldown=1.0)[11] == pytest.approx(0.5)


def test_lowest_layers_stay_as_pretrained(
    data: Path, tiny_base: Path, recipe: Recipe, tmp_path: Path
):
    folder = trainer.train([data], tmp_path, replace(recipe, steps=4, frozen_layers=1))
    trained = inference.load_model(folder).encoder.state_dict()
    pretrained = GuardClassifier.from_base(tiny_base, len(HEADS)).encoder.state_dict()
    moved = {name for name in trained if not torch.equal(trained[name], pretrained[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("embeddings.", "encoder.layer.0."))]
    with pytest.raises(RecipeError, match="frozen_layers must be"):
        replace(recipe, frozen_layers=-1)
    with pytest.raises(RecipeError, match="fewer than 99"):
        trainer.train([data], tmp_path / "deep", replace(recipe, steps=4, frozen_layers=99))


def test_how_unsafe_a_borderline_row_is_can_be_chosen(data: Path, recipe: Recipe, tmp_path: Path):
    soft = row(1, "written_prompts", "prompt", 0, "how to peek at cookie 1", severity=1)
    write_rows(tmp_path / "soft.jsonl.gz", [soft] * 40)
    runs = []
    for share in (0.0, 1.0):
        chosen = replace(recipe, steps=20, borderline=share, check_every=20)
        folder = trainer.train([data, tmp_path], tmp_path / str(share), chosen)
        runs.append(inference.Checkpoint(folder).logits([parse_row(json.dumps(soft), "here")]))
    assert runs[0][0, HEADS.index("prompt")] < runs[1][0, HEADS.index("prompt")]
    with pytest.raises(RecipeError, match="borderline must be"):
        replace(recipe, borderline=2.0)


def test_predictions_are_pooled_over_windows_as_in_serving(tiny_base: Path, recipe: Recipe):
    model = GuardClassifier.from_base(tiny_base, len(HEADS)).eval()
    tokenizer = plain_tokenizer(tiny_base / "tokenizer.json")
    shape = trainer.window_shape(tokenizer, recipe)
    from training.datasets.schema import Row

    def score(text: str) -> np.ndarray:
        row = Row("1", "convabuse_train", "text", 1, text, None, (), None)
        return inference.predict(model, batches.encode([row], tokenizer, shape), fast=False)[0]

    words = "you silly goose number what a lovely garden " * 6
    long, beginning = score(words), score(" ".join(words.split()[:30]))
    refusal = np.array(HEADS) == "refusal"
    assert np.all((long >= beginning - 1e-5)[~refusal])
    # An answer declines only where all of it does.
    assert np.all((long <= beginning + 1e-5)[refusal])


def test_windows_begin_and_end_as_the_base_was_pretrained(tmp_path: Path):
    """MPNet's vocabulary holds BERT's commands as well, as dead pieces."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "a"]
    tokenizer = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    sizes = {"max_tokens": 16, "overlap": 4, "context_tokens": 4}
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    shape = inference.shape_of(tokenizer, **sizes)
    assert (shape.cls, shape.sep) == (4, 5)
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls=("<s>", 0))
    shape = inference.shape_of(tokenizer, **sizes)
    assert (shape.cls, shape.sep) == (0, 2)
