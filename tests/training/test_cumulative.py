"""The cumulative ablation: one change a row, runs that go on, records on the same rows, a page."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import graded, invented, row, write_rows
from training.classifier import trainer
from training.classifier.recipe import Recipe
from training.datasets import mixing, readings, registry
from training.datasets.schema import parse_row, read_rows
from training.evaluation import ablation, cumulative, cumulative_runs
from training.evaluation.cumulative import Variant
from training.evaluation.cumulative_runs import Plan, RunError

DOCS = Path(__file__).parents[2] / "docs"
STEPS = 24


def test_each_row_is_one_change_on_top_of_the_last():
    rows = cumulative.variants()
    assert [v.name for v in rows] == [
        *("before", "diasafety", "annotated", "severity", "read", "mpnet", "distilled"),
        "multilingual",
    ]
    changed = []
    for last, one in pairwise(rows):
        fields = {f for f in ("data", "labels", "readings", "teacher") if differ(last, one, f)}
        fields |= {f for f in one.recipe if last.recipe.get(f) != one.recipe[f]}
        changed.append(fields)
    rates = {"encoder_lr", "head_lr"}
    assert changed == [
        {"labels"},
        {"data"},
        {"borderline"},
        {"labels", "readings"},
        {"base", *rates},
        {"base", "teacher", *rates},
        {"base"},
    ]
    # From the fifth row on labels and recipe are those that ship.
    assert all(v.readings and not v.labels for v in rows[4:])
    assert Recipe(**rows[6].recipe) == Recipe()


def differ(one: Variant, other: Variant, name: str) -> bool:
    return getattr(one, name) != getattr(other, name)


def test_labels_mean_something_else_within_and_only_there():
    before, after, *_ = cumulative.variants()

    def taught(source: str, target: str) -> dict[str, float]:
        answer = "so there" if target == "response" else None
        raw = row(0, source, target, 1, "a text", response=answer)
        return registry.sources()[source].labels_of(parse_row(json.dumps(raw), "here"))

    today = taught("fox_comments", "text"), taught("diasafety_train", "response")
    assert today[1] == {}
    with registry.meaning(before.labels):
        assert taught("fox_comments", "text")["toxicity"] == 1
        assert taught("diasafety_train", "response")["response"] == 1
        # What the source says of categories stays.
        assert registry.sources()["cad_train"].covers == {"hate", "harassment"}
    with registry.meaning(after.labels):
        assert taught("diasafety_train", "response") == {}
    assert (taught("fox_comments", "text"), taught("diasafety_train", "response")) == today
    with (
        pytest.raises(registry.UnknownSourceError, match="nobody"),
        registry.meaning({"nobody": {}}),
    ):
        pass


def test_readings_are_left_unread_within(monkeypatch: pytest.MonkeyPatch):
    read = {"aart-0": readings.Reading(0, (), None, False)}
    monkeypatch.setattr(readings, "readings", lambda: read)
    raw = parse_row(json.dumps(row(0, "aart", "prompt", 1, "a text")), "here")
    with readings.unread():
        (found,) = readings.as_read([raw])
    assert found == raw
    (found,) = readings.as_read([raw])
    assert (found.label, found.severity) == (0, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invented rows where the real ones lie."""
    data = tmp_path_factory.mktemp("world")
    for name in ("train", "annotated", "contexts", "eval"):
        (data / name).mkdir()
    social = [
        row(n, "diasafety_train", "response", n % 2, f"cookie {n}", response=f"silly goose {n}")
        for n in range(60)
    ]
    write_rows(data / "train" / "rows.jsonl.gz", [*invented(), *social])
    write_rows(data / "annotated" / "rows.jsonl.gz", list(graded()))
    foreign = [
        row(n, "written_prompts", "prompt", int(n % 2), f"bake {n}", lang="de")
        | {"severity": 2 * (n % 2), "attack": False}
        for n in range(200)
    ]
    write_rows(data / "contexts" / "rows.jsonl.gz", foreign)
    tests = [
        row(n, "x", "prompt", n % 2, f"how to {('bake', 'steal')[n % 2]} {n}") for n in range(40)
    ]
    for name in cumulative.sets():
        write_rows(data / "eval" / f"{name}.jsonl.gz", tests)
    return data


@pytest.fixture
def tiny(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows on a tiny base."""
    small = {
        name: getattr(recipe, name)
        for name in (
            *("base", "batch_tokens", "encoder_lr", "head_lr", "train_embeddings"),
            *("max_tokens", "overlap", "context_tokens"),
        )
    }
    rows = tuple(replace(v, recipe={**v.recipe, **small}) for v in cumulative.variants())
    monkeypatch.setattr(cumulative, "variants", lambda: rows)


def plan_of(world: Path, out: Path, steps: int = STEPS) -> Plan:
    return Plan({name: world / name for name in cumulative_runs.FOLDERS}, out, steps)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("trained again")


def test_runs_are_trained_once_measured_alike_and_shown(
    world: Path, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, docs = tmp_path / "runs", tmp_path / "docs"
    shutil.copytree(DOCS / "measurements", docs / "measurements")
    plan = plan_of(world, out)
    sets = cumulative_runs.sample(world / "eval", out, 30)
    assert sum(1 for _ in read_rows(sets / "hatecheck.jsonl.gz")) == 30

    with pytest.raises(RunError, match="distilled-0 learns from mpnet-0, which is not finished"):
        cumulative_runs.run(plan, sets, [0], ["distilled"])
    names = ["before", "diasafety", "annotated", "mpnet", "distilled"]
    records = cumulative_runs.run(plan, sets, [0], names, docs)
    found = {record["row"]: record for record in records}
    assert list(found) == names
    assert {record["steps"] for record in records} == {STEPS}
    assert len({record["refusals"]["refuse"] for record in records}) == 1
    held = cumulative_runs.yardstick(plan)
    assert held
    assert all(mixing.is_held_out(r) and mixing.is_held_out_prompt(r.prompt) for r in held)
    # Small talk taught answers before, and rows that were read came later.
    trained = {name: record["rows"]["train"] for name, record in found.items()}
    assert trained["before"] > trained["diasafety"] < trained["annotated"]
    taught = json.loads((out / "distilled-0" / "training.json").read_text())["recipe"]
    assert taught["teachers"] == ["mpnet-0"]
    assert all(record["held_out"] > 0.5 for record in records)
    assert set(found["before"]["sets"]) == set(cumulative.sets())

    page = (docs / "ablation.md").read_text()
    assert page == ablation.render(docs / "measurements") + "\n"
    assert "| − diasafety | 24 |" in page
    assert "| multilingual |" not in page

    monkeypatch.setattr(trainer, "train", never)
    monkeypatch.setattr(trainer, "calibrate", never)
    assert cumulative_runs.run(plan, sets, [0], names) == records
    with pytest.raises(RunError, match=r"other settings \(steps\)"):
        cumulative_runs.run(plan_of(world, out, STEPS + 1), sets, [0], ["before"])

    # A checkpoint from elsewhere is measured as it is; other sets measure anew.
    shutil.copytree(out / "mpnet-0", out / "mpnet-1")
    (out / "mpnet-1" / cumulative_runs.SETTINGS).unlink()
    more = cumulative_runs.run(plan, sets, [1], ["mpnet"])
    both = [record for record in more if record["row"] == "mpnet"]
    assert [record["seed"] for record in both] == [0, 1]
    assert f"| 110M base | {STEPS} | {trained['mpnet']:,} | 2 | " in cumulative.table(more)
    fewer = cumulative_runs.sample(world / "eval", out, 20)
    (record,) = cumulative_runs.run(plan, fewer, [1], ["mpnet"])
    assert record["sets"]["hatecheck"]["n"] == 20
    # So do other rows that were held out.
    monkeypatch.setattr(cumulative_runs, "yardstick", lambda _: held[: len(held) // 2])
    (anew,) = cumulative_runs.run(plan, fewer, [1], ["mpnet"])
    assert anew["measured_on"] != record["measured_on"]


def test_a_run_that_was_stopped_goes_on(
    world: Path, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = plan_of(world, tmp_path, 3)
    variant = cumulative.variants()[0]
    calibrate: Callable[..., Any] = trainer.calibrate

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "calibrate", stopped)
    with pytest.raises(KeyboardInterrupt):
        cumulative_runs.train(variant, 0, plan)
    # What was interrupted changes nothing for others.
    assert registry.sources()["diasafety_train"].unsafe == ()
    monkeypatch.setattr(trainer, "calibrate", calibrate)
    monkeypatch.setattr(trainer, "train", never)
    folder = cumulative_runs.train(variant, 0, plan)
    assert (folder / cumulative_runs.FINISHED).exists()


def test_the_command_names_what_is_wrong(world: Path, tmp_path: Path, monkeypatch):
    command = ["x", "--data", str(world), "--out", str(tmp_path), "--only", "nothing"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="no such row: nothing"):
        cumulative_runs.main()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"toxicchat_judgebench_test\.jsonl\.gz is not there"):
        cumulative_runs.sample(tmp_path / "empty", tmp_path, 5)
