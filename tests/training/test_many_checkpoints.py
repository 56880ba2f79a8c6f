"""Averaging checkpoints, learning from them, training in two processes, judging without export."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis import content
from training.classifier import distillation, soup, trainer
from training.classifier.inference import Checkpoint
from training.classifier.recipe import Recipe, RecipeError
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS
from training.datasets.schema import Row, read_rows
from training.evaluation.checkpoint import CheckpointJudge


@pytest.fixture(scope="module")
def seeds(
    data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("seeds")
    short = replace(recipe, epochs=1.0)
    first, second = (
        trainer.train([data], folder / str(seed), replace(short, seed=seed)) for seed in (1, 2)
    )
    return first, second


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint / "model.pt", weights_only=True)
    return state


def test_an_average_lies_between_its_checkpoints(seeds: tuple[Path, Path], tmp_path: Path):
    mean = weights(soup.average(seeds, tmp_path / "mean"))
    one, two = (weights(folder) for folder in seeds)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    for name, value in mean.items():
        torch.testing.assert_close(value, ((one[name].double() + two[name]) / 2).to(value.dtype))
    report = json.loads((tmp_path / "mean" / "training.json").read_text())
    assert [part["seed"] for part in report["averaged"]] == [1, 2]


def test_a_runs_last_step_counts_beside_its_best(seeds: tuple[Path, Path], tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(seeds[0], run)
    last = torch.load(run / "last.pt", weights_only=True)
    last["model"] = {name: value + 1 for name, value in last["model"].items()}
    torch.save(last, run / "last.pt")
    best = weights(run)
    for name, value in weights(soup.average([run], tmp_path / "mean", last=[run])).items():
        expected = (best[name].double() + last["model"][name]) / 2
        torch.testing.assert_close(value, expected.to(value.dtype))
    report = json.loads((tmp_path / "mean" / "training.json").read_text())
    assert report["seconds"] == json.loads((run / "training.json").read_text())["seconds"]


def test_an_average_has_learnt_from_feedback_where_any_of_it_has(
    seeds: tuple[Path, Path], tmp_path: Path
):
    told = tmp_path / "told"
    shutil.copytree(seeds[1], told)
    report = json.loads((told / "training.json").read_text())
    report["rows"]["feedback"] = 3
    (told / "training.json").write_text(json.dumps(report))
    mean = soup.average([seeds[0], told], tmp_path / "mean")
    assert json.loads((mean / "training.json").read_text())["rows"]["feedback"] == 3


def test_what_goes_on_from_a_checkpoint_may_be_used_as_that_may(
    seeds: tuple[Path, Path], data: Path, recipe: Recipe, tmp_path: Path
):
    told = tmp_path / "told"
    shutil.copytree(seeds[0], told)
    report = json.loads((told / "training.json").read_text())
    report["rows"]["feedback"] = 3
    (told / "training.json").write_text(json.dumps(report))
    chosen = {
        "init": replace(recipe, init=str(told), steps=2),
        "teachers": replace(recipe, teachers=(str(told),), steps=2),
    }
    for how, one in chosen.items():
        later = trainer.train([data], tmp_path / how, one)
        assert json.loads((later / "training.json").read_text())["rows"]["feedback"] == 3
    report["recipe"]["variant"] = "all"
    (told / "training.json").write_text(json.dumps(report))
    for how, one in chosen.items():
        with pytest.raises(RecipeError, match=f"{how}: told"):
            trainer.train([data], tmp_path / "none", one)


def test_what_is_gone_on_from_has_the_same_base(
    seeds: tuple[Path, Path], data: Path, recipe: Recipe, tmp_path: Path
):
    other = tmp_path / "other"
    shutil.copytree(seeds[0], other)
    torch.save({"score.weight": torch.zeros(3, 3)}, other / "model.pt")
    with pytest.raises(RecipeError, match="init: other has another base or other heads"):
        trainer.train([data], tmp_path / "none", replace(recipe, init=str(other), steps=2))


def test_a_run_is_averaged_with_what_went_on_from_it_and_with_no_other(
    seeds: tuple[Path, Path], tmp_path: Path
):
    later = tmp_path / "later"
    shutil.copytree(seeds[1], later)
    report = json.loads((later / "training.json").read_text())
    for init, began_as_one in ((seeds[0].name, True), ("elsewhere", False)):
        report["recipe"]["init"] = init
        (later / "training.json").write_text(json.dumps(report))
        if began_as_one:
            assert soup.average([seeds[0], later], tmp_path / "mean")
        else:
            with pytest.raises(RecipeError, match="differ in init"):
                soup.average([seeds[0], later], tmp_path / "none")


def test_unlike_checkpoints_are_not_averaged(seeds: tuple[Path, Path], tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    report = json.loads((seeds[0] / "training.json").read_text())
    report["recipe"]["variant"] = "all"
    (other / "training.json").write_text(json.dumps(report))
    with pytest.raises(RecipeError, match="variant"):
        soup.average([seeds[0], other], tmp_path / "out")
    with pytest.raises(RecipeError, match="two"):
        soup.average([seeds[0]], tmp_path / "out")


def test_soft_targets_are_the_teachers_mean_and_kept(
    seeds: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = list(read_rows(data / "train.jsonl.gz"))[:12]
    wanted = np.array([3, 7])
    cache = tmp_path / "teachers.npy"
    found = distillation.soft_targets(seeds, rows, wanted, cache)
    by_hand = np.mean(
        [1 / (1 + np.exp(-Checkpoint(f).logits([rows[3], rows[7]]))) for f in seeds], axis=0
    )
    np.testing.assert_allclose(found[wanted], by_hand, atol=1e-6)
    assert np.isnan(found[0]).all()

    def refuse(_: Path) -> Checkpoint:
        raise AssertionError("asked again")

    monkeypatch.setattr(distillation, "Checkpoint", refuse)
    np.testing.assert_array_equal(distillation.soft_targets(seeds, rows, wanted, cache), found)


def test_teachers_are_asked_again_of_other_rows_and_where_they_are_others(
    seeds: tuple[Path, Path], data: Path, tmp_path: Path
):
    rows = list(read_rows(data / "train.jsonl.gz"))[:6]
    cache, wanted = tmp_path / "teachers.npy", np.arange(6)
    found = distillation.soft_targets(seeds[:1], rows, wanted, cache)
    turned = distillation.soft_targets(seeds[:1], rows[::-1], wanted, cache)
    np.testing.assert_allclose(turned, found[::-1], atol=1e-6)
    others = distillation.soft_targets(seeds[1:], rows[::-1], wanted, cache)
    assert not np.allclose(others, turned)


def test_teachers_are_asked_again_where_their_answer_was_not_kept_whole(
    seeds: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = list(read_rows(data / "train.jsonl.gz"))[:3]
    given = seeds[:1], rows, np.arange(3), tmp_path / "teachers.npy"

    def half(file: Any, _: np.ndarray) -> None:
        with file if hasattr(file, "write") else Path(file).open("wb") as stream:
            stream.write(b"half of it")
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", half)
        with pytest.raises(InterruptedError):
            distillation.soft_targets(*given)
    assert not np.isnan(distillation.soft_targets(*given)).any()


def test_teachers_are_asked_only_of_what_was_not_kept_before_an_interruption(
    seeds: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = list(read_rows(data / "train.jsonl.gz"))[:6]
    given = seeds[:1], rows, np.arange(6), tmp_path / "teachers.npy"
    whole = distillation.soft_targets(seeds[:1], rows, np.arange(6), tmp_path / "whole.npy")
    monkeypatch.setattr(distillation, "AT_A_TIME", 2)
    plain, asked = Checkpoint.logits, list[str]()

    def tiring(self: Checkpoint, part: list[Row]) -> np.ndarray:
        if len(asked) == 4:
            asked.append("once")
            raise InterruptedError
        asked.extend(row.id for row in part)
        return plain(self, part)

    monkeypatch.setattr(Checkpoint, "logits", tiring)
    with pytest.raises(InterruptedError):
        distillation.soft_targets(*given)
    np.testing.assert_allclose(distillation.soft_targets(*given), whole, atol=1e-6)
    assert asked == [*(row.id for row in rows[:4]), "once", *(row.id for row in rows[4:])]


def test_a_teacher_is_not_asked_of_what_it_cannot_read(
    seeds: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(distillation.bases, "english", lambda _: True)
    rows = list(read_rows(data / "train.jsonl.gz"))[:3]
    rows[1] = replace(rows[1], lang="de")
    found = distillation.soft_targets(seeds, rows, np.arange(3), tmp_path / "teachers.npy")
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


def test_a_row_without_a_teacher_is_taught_by_its_labels():
    logits = torch.zeros(2, len(HEADS))
    labels = torch.full((2, len(HEADS)), UNKNOWN, dtype=torch.float32)
    labels[:, 0] = 1
    targets = torch.full((2, len(HEADS)), torch.nan)
    expected = trainer.masked_loss(logits, labels, 0.2)
    torch.testing.assert_close(distillation.soft_loss(logits, targets, labels, 0.2), expected)


def test_a_student_learns_what_only_its_teachers_know(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    head = HEADS.index("sexual")  # no label of these rows speaks of it

    def knowing(
        teachers: list[Path], rows: list[Row], wanted: np.ndarray, cache: Path
    ) -> np.ndarray:
        assert teachers == [Path("wise")]
        targets = np.full((len(rows), len(HEADS)), np.nan, dtype=np.float32)
        targets[wanted] = 0.5
        targets[wanted, head] = 0.95
        return targets

    monkeypatch.setattr(distillation, "soft_targets", knowing)
    monkeypatch.setattr(trainer, "feedback_behind", lambda *_: 0)
    folder = trainer.train([data], tmp_path / "student", replace(recipe, teachers=("wise",)))
    rows = list(read_rows(data / "train.jsonl.gz"))[:50]
    chances = 1 / (1 + np.exp(-Checkpoint(folder).logits(rows)[:, head]))
    assert chances.min() > 0.8
    report = json.loads((folder / "training.json").read_text())
    assert report["recipe"]["teachers"] == ["wise"]
    assert report["best"]["quality"] > 0.9  # what the labels say is learnt beside


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("epochs", 0.0), ("teaching", 1.5)])
def test_a_recipe_that_cannot_be_followed_names_its_field(recipe: Recipe, field: str, value: float):
    with pytest.raises(RecipeError, match=field):
        replace(recipe, **{field: value})


def test_a_checkpoint_judges_as_its_logits_say(graded_data: Path, recipe: Recipe, tmp_path: Path):
    folder = trainer.train([graded_data], tmp_path / "checkpoint", recipe)
    calibrated = {c.name: c for c in trainer.calibrate([graded_data], folder)}
    judge = CheckpointJudge(folder)
    rows = [row for row in read_rows(graded_data / "train.jsonl.gz") if row.target == "prompt"][:5]
    found = list(
        judge.judge_all([content.prompt(row.prompt) for row in rows] + [content.plain(" ")])
    )
    logits = Checkpoint(folder).logits(rows)[:, HEADS.index("prompt")]
    own = calibrated["prompt"]
    expected = 1 / (1 + np.exp(-(own.scale * logits + own.bias)))
    np.testing.assert_allclose([f.overall for f in found[:-1]], expected, rtol=0.02, atol=0.01)
    assert found[-1].windows == 0
    assert set(judge.thresholds) == set(calibrated)
    steal, declined = "how to steal cookie 5", "sorry I can not help with cookie 5"
    asked, answered, going_on = judge.judge_all(
        [*content.exchange(steal, declined), content.response(f"{declined} {steal * 9}", steal)]
    )
    assert (asked.field, answered.field) == ("prompt", "response")
    assert asked.refusal is None
    assert asked.severity > 0.5 > answered.severity
    assert answered.refusal > 0.5 > going_on.refusal


def test_two_processes_train_one_model(data: Path, tiny_base: Path, tmp_path: Path):
    out = tmp_path / "shared"
    # One of them always finds that it is time to save, the other never.
    script = tmp_path / "tamis_at_odds.py"
    script.write_text(
        "import os\n"
        "from tamis.cli import main\n"
        "from training.classifier import trainer\n"
        "trainer.SAVE_SECONDS = -1 if os.environ['RANK'] == '1' else 420\n"
        "raise SystemExit(main())\n"
    )
    # What `accelerate launch` starts where there are GPUs; on CPUs it asks for MPI instead.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "--local-addr", "127.0.0.1"]
    command += [str(script), "train", "classifier"]
    command += ["--data", str(data), "--base", str(tiny_base), "--out", str(out), "--steps", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "training.json").read_text())
    assert (report["processes"], report["steps"]) == (2, 4)
    assert (out / "calibration.json").exists()
