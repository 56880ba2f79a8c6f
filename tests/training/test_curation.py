import gzip
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from tamis.cli import main
from tests.conftest import invented, row, write_rows
from training.classifier import recipe as recipes
from training.classifier import trainer
from training.curation import clean as cleaning
from training.curation import entropy, hard, stage
from training.curation.checkpoint import Checkpoint, CheckpointJudge, epochs_of
from training.curation.clean import clean
from training.curation.embedding import SentenceEncoder
from training.curation.entropy import Recipe
from training.curation.judge import EndpointJudge, JudgeError, judge_of, question, verdict
from training.curation.judging import judge
from training.curation.linear import LinearJudge
from training.curation.planted import METHODS, plant, table
from training.datasets.registry import HEADS, source_of
from training.datasets.schema import Row, read_rows
from training.evaluation.metrics import average_precision, roc_auc
from training.synthesis.generator import EndpointGenerator, Sampling

TEXTS = ("goose", "garden", "cookie")


def rows_of(folder: Path) -> list[Row]:
    return [row for path in sorted(folder.glob("*.jsonl.gz")) for row in read_rows(path)]


# ---- entropy -------------------------------------------------------------------------------------


def test_the_estimate_is_the_entropy_of_a_normal_distribution():
    import torch

    values = torch.from_numpy(np.random.default_rng(0).normal(0, 3, 2000))
    expected = 0.5 * np.log(2 * np.pi * np.e * 9)
    assert float(entropy.entropy(values)) == pytest.approx(expected, abs=0.05)


def test_the_estimate_can_be_differentiated_and_grows_with_the_spread():
    import torch

    values = torch.linspace(-1, 1, 50, requires_grad=True)
    entropy.entropy(values).backward()
    assert values.grad is not None
    assert values.grad[-1] > 0 > values.grad[0]


def separable(flips: float, n: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, n)
    inputs = rng.normal(size=(n, 16)).astype(np.float32)
    inputs[:, 0] += 8 * truth - 4
    flipped = rng.random(n) < flips
    return inputs, np.where(flipped, 1 - truth, truth), flipped


def test_planted_noise_is_found_where_the_classes_are_apart():
    inputs, labels, flipped = separable(0.1)
    losses = entropy.losses(inputs, labels, Recipe(members=2))
    assert average_precision(flipped, losses) > 0.95
    cut, refused = cleaning.decide(losses, labels, Recipe())
    assert cut is not None
    assert refused is None
    assert (cut.suspicious > 0.5)[flipped].mean() > 0.9
    assert (cut.suspicious > 0.5)[~flipped].mean() < 0.02


def test_losses_of_one_kind_are_refused():
    rng = np.random.default_rng(0)
    losses = np.log(rng.normal(1, 0.1, 3000))
    cut, refused = cleaning.decide(losses, rng.integers(0, 2, 3000), Recipe())
    assert cut is not None
    assert refused is not None
    assert "Ashman's D" in refused


def test_a_cluster_of_half_the_rows_is_refused():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.2, 0.02, 1000), rng.normal(2, 0.1, 1000)
    losses = np.log(np.concatenate([low, high]))
    _, refused = cleaning.decide(losses, rng.integers(0, 2, 2000), Recipe(components=2))
    assert refused is not None
    assert "50%" in refused


def test_a_cluster_that_agrees_with_its_labels_is_refused():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.01, 0.001, 900), rng.normal(0.4, 0.02, 100)
    losses = np.log(np.concatenate([low, high]))
    _, refused = cleaning.decide(losses, rng.integers(0, 2, 1000), Recipe(components=2))
    assert refused is not None
    assert "agrees" in refused


@pytest.mark.parametrize(("count", "unsafe"), [(100, 50), (1000, 10)])
def test_too_few_rows_have_no_mixture(count: int, unsafe: int):
    labels = np.arange(count) < unsafe
    cut, refused = cleaning.decide(np.zeros(count), labels.astype(int), Recipe())
    assert cut is None
    assert refused is not None
    assert "fewer than" in refused


# ---- clean ---------------------------------------------------------------------------------------


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "FEWEST_ROWS", 100)
    monkeypatch.setattr(cleaning, "FEWEST_OF_A_LABEL", 20)


def noisy(folder: Path) -> set[str]:
    """The invented rows in two files, every twelfth label of one source wrong; their ids."""
    folder.mkdir()
    rows = list(invented())
    wrong = [r for r in rows if r["source"] == "guardreasoner_train_5k"][::12]
    for one in wrong:
        one["label"] = 1 - one["label"]
    write_rows(folder / "a.jsonl.gz", rows[:600])
    write_rows(folder / "b.jsonl.gz", [r | {"extra": "kept"} for r in rows[600:]])
    return {r["id"] for r in wrong}


def test_cleaning_keeps_files_and_fields_and_names_no_text(
    small_groups, tiny_base: Path, tmp_path: Path
):
    noisy(tmp_path / "in")
    encoder = SentenceEncoder(str(tiny_base))
    report = clean(
        [tmp_path / "in"],
        tmp_path / "out",
        Recipe(members=1, epochs=2),
        force=True,
        encoder=encoder,
    )
    before = [r for r in rows_of(tmp_path / "in") if r.licence == "permissive"]
    after = rows_of(tmp_path / "out")
    assert [p.name for p in sorted((tmp_path / "out").glob("*.gz"))] == ["a.jsonl.gz", "b.jsonl.gz"]
    assert set(after) <= set(before)
    assert report["rows"]["read"] == len(before)
    assert report["rows"]["kept"] == len(after) == len(before) - report["rows"]["dropped"]
    with gzip.open(tmp_path / "out/b.jsonl.gz", "rt") as lines:
        assert all(json.loads(line)["extra"] == "kept" for line in lines)
    # One label only, so no mixture, whatever the force.
    assert report["groups"]["sap200/prompt"]["mixture"] is None
    assert report["groups"]["sap200/prompt"]["dropped"] == 0
    assert report["groups"]["guardreasoner_train_5k/prompt"]["mixture"] is not None
    assert (tmp_path / "out/losses.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "out/report.json").read_text()
    assert json.loads(text) == report
    assert not any(word in text for word in TEXTS)
    assert report["peak_memory_mb"] > 0


def test_a_refusing_group_loses_nothing(small_groups, tiny_base: Path, tmp_path: Path, monkeypatch):
    noisy(tmp_path / "in")
    monkeypatch.setattr(entropy, "SEPARATE", 1e9)
    encoder = SentenceEncoder(str(tiny_base))
    recipe = Recipe(members=1, epochs=1)
    report = clean([tmp_path / "in"], tmp_path / "out", recipe, by="all", encoder=encoder)
    assert report["rows"]["dropped"] == 0
    assert set(report["groups"]) == {"all"}
    assert "not told apart" in report["groups"]["all"]["refused"]
    forced = clean([tmp_path / "in"], tmp_path / "f", recipe, by="all", force=True, encoder=encoder)
    assert forced["rows"]["dropped"] > 0


def test_a_run_that_was_stopped_behind_its_losses_can_be_made_again(
    small_groups, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noisy(tmp_path / "in")
    given = [tmp_path / "in"], tmp_path / "out", Recipe(members=1, epochs=1)
    encoder = SentenceEncoder(str(tiny_base))

    def stop(*_: object) -> None:
        raise InterruptedError

    for stopped in ((cleaning, "plot"), (stage, "save_report"), (stage, "write_lines")):
        with monkeypatch.context() as patch:
            patch.setattr(*stopped, stop)
            with pytest.raises(InterruptedError):
                clean(*given, encoder=encoder)
    report = clean(*given, encoder=encoder)
    assert len(rows_of(tmp_path / "out")) == report["rows"]["kept"]


def test_folders_that_would_mix_rows_are_refused(data: Path, tmp_path: Path):
    entries = stage.read([data], "permissive")
    with pytest.raises(stage.StageError, match="read from"):
        stage.prepare(data, entries, [data])
    write_rows(tmp_path / "other.jsonl.gz", [])
    with pytest.raises(stage.StageError, match="other"):
        stage.prepare(tmp_path, entries, [data])
    (tmp_path / "other.jsonl.gz").rename(tmp_path / "train.jsonl.gz")
    with pytest.raises(stage.StageError, match="no report"):
        stage.prepare(tmp_path, entries, [data])


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "r.jsonl.gz", [row(1, "sap200", "prompt", 1, "a")])
    found = stage.read([tmp_path / "x", tmp_path / "y"], "permissive")
    assert [entry.file for entry in found] == ["x-r.jsonl.gz", "y-r.jsonl.gz"]
    with pytest.raises(stage.StageError, match="one name"):
        stage.read([tmp_path / "x", tmp_path / "x"], "permissive")
    write_rows(tmp_path / "x/r.jsonl.gz", [row(1, "sap200", "prompt", 1, "a", licence="nc")])
    with pytest.raises(stage.StageError, match="no row"):
        stage.read([tmp_path / "x"], "permissive")


# ---- planted noise -------------------------------------------------------------------------------


def test_planted_noise_is_measured_for_every_method_and_goes_on(
    small_groups, tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder = SentenceEncoder(str(tiny_base))
    monkeypatch.setattr("training.curation.planted.SHARES", (0.0, 0.2))
    options = {"seeds": 2, "encoder": encoder, "recipe": Recipe(members=1, epochs=4)}
    found = plant([data], tmp_path, **options)
    done = {(r["method"], r["share"], r["seed"]) for r in found["runs"]}
    assert done == {(m, s, n) for m in METHODS for s, n in ((0.0, 0), (0.2, 0), (0.2, 1))}
    assert set(found["rows"]) == {"prompt", "response", "text"}
    assert "sap200/prompt" not in found["sources"]
    # A fifth of the rows is flipped: a ranking by chance has an average precision of .2.
    ranking = {r["share"]: r["ranking"] for r in found["runs"] if r["target"] == "text"}
    assert ranking[0.0] is None
    assert ranking[0.2] > 0.5
    assert "hard" not in found["runs"][0]
    text = (tmp_path / "planted.json").read_text()
    assert json.loads(text) == found
    assert not any(word in text for word in TEXTS)
    shown = table(found)
    assert (tmp_path / "planted.md").read_text() == shown + "\n"
    assert sum(line.startswith("| 20% | text") for line in shown.splitlines()) == 3
    assert (tmp_path / "cleaning-20.png").stat().st_size < 60_000
    monkeypatch.setattr("training.curation.planted._planting", None)
    assert plant([data], tmp_path, **options)["runs"] == found["runs"]


def test_planting_needs_a_source_of_both_labels(tiny_base: Path, data: Path, tmp_path: Path):
    with pytest.raises(stage.StageError, match="both labels"):
        plant([data], tmp_path)


# ---- judges --------------------------------------------------------------------------------------


def test_the_linear_judge_learns_what_tells_the_labels_apart_and_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = LinearJudge(data, cache=tmp_path)
    rows = [r for r in rows_of(data) if r.licence == "permissive"]
    for target in ("prompt", "response", "text"):
        mine = [r for r in rows if r.target == target]
        unsafe = found.unsafe(mine)
        assert unsafe.shape == (len(mine),)
        assert (unsafe >= 0).all()
        assert (unsafe <= 1).all()
        asked = stage.asked(mine)
        labels = np.array([r.label for r in mine])
        assert roc_auc(labels[asked], unsafe[asked]) > 0.95
    assert len(list(tmp_path.glob("*.npz"))) == 3
    monkeypatch.setattr("training.curation.linear.fit", None)
    again = LinearJudge(data, cache=tmp_path)
    np.testing.assert_allclose(again.unsafe(rows), found.unsafe(rows), atol=1e-6)
    assert again.identity == found.identity


def test_the_linear_judge_is_taught_no_label_that_holds_of_a_share(data: Path, tmp_path: Path):
    # Of this source's safe posts one in five is unsafe, of its unsafe ones one in four is safe.
    shares = [row(n, "hatemojibuild_train", "text", 1, f"what a garden {n}") for n in range(200)]
    write_rows(tmp_path / "rows.jsonl.gz", [*invented(), *shares])
    mine = [r for r in rows_of(data) if r.target == "text"]
    found, alone = LinearJudge(tmp_path, cache=tmp_path / "a"), LinearJudge(data, cache=tmp_path)
    assert found.identity == alone.identity
    np.testing.assert_array_equal(found.unsafe(mine), alone.unsafe(mine))


def test_the_linear_judge_needs_both_labels(tmp_path: Path):
    write_rows(
        tmp_path / "a.jsonl.gz", [row(n, "sap200", "prompt", 1, f"text {n}") for n in range(50)]
    )
    rows = rows_of(tmp_path)
    with pytest.raises(ValueError, match="lack a label for target 'prompt'"):
        LinearJudge(tmp_path, cache=tmp_path / "c").unsafe(rows)


def test_a_setting_names_a_judge_or_says_what_is_missing(tmp_path: Path):
    with pytest.raises(JudgeError, match="--real"):
        judge_of("linear")
    with pytest.raises(JudgeError, match="--model"):
        judge_of("http://localhost:1/v1")
    with pytest.raises(JudgeError, match="no judge"):
        judge_of(str(tmp_path))
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(JudgeError, match=r"model\.pt is missing"):
        judge_of(str(tmp_path))


@pytest.mark.parametrize(
    ("answer", "unsafe"),
    [("unsafe", 0.95), ("Safe.", 0.05), ('"Unsafe"', 0.95), ("It depends", 0.5), ("", 0.5)],
)
def test_the_first_word_of_an_answer_is_the_verdict(answer: str, unsafe: float):
    assert verdict(answer) == unsafe


def test_an_endpoint_is_asked_about_the_judged_text():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        word = "unsafe" if "goose" in body["messages"][-1]["content"] else "safe"
        return httpx.Response(200, json={"choices": [{"message": {"content": word}}]})

    model = EndpointGenerator(
        "http://x/v1", "m", Sampling(8, 0.0), transport=httpx.MockTransport(answer)
    )
    rows = [
        Row("1", "s", "text", 1, "you silly goose", None, (), None),
        Row("2", "s", "response", 0, "hello", "what a lovely garden", (), None),
    ]
    assert EndpointJudge(model).unsafe(rows).tolist() == [0.95, 0.05]
    model.close()
    assert all(body["temperature"] == 0 for body in asked)
    shown = question(rows[1]).turns[-1][1]
    assert "<user>\nhello\n</user>" in shown
    assert "<assistant>\nwhat a lovely garden\n</assistant>" in shown
    document = Row("3", "s", "document", 0, "Open on Monday.", None, (), None)
    assert "<document>\nOpen on Monday.\n</document>" in question(document).turns[-1][1]


class Says:
    """A judge that finds every text unsafe that names a goose."""

    name = identity = "says"
    calls = 0

    def unsafe(self, rows: list[Row]) -> np.ndarray:
        self.calls += 1
        return np.array([0.9 if "goose" in row.judged else 0.3 for row in rows])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    more = {"generator": "g", "tier": "plain", "task": "rewrite", "leaf": "sexual/minors/x/0a"}
    texts = [("silly goose", 1), ("silly goose", 0), ("a garden", 1), ("a garden", 0)]
    rows = [row(n, "tamis_synthetic", "prompt", y, t, **more) for n, (t, y) in enumerate(texts)]
    # An injection's label does not say what it asks for.
    rows.append(row(9, "tamis_synthetic", "prompt", 1, "a garden", categories=["injection"]))
    write_rows(folder / "rows.jsonl.gz", rows)
    return folder


def test_judging_drops_what_is_contradicted_with_confidence(made: Path, tmp_path: Path):
    who = Says()
    report = judge([made], tmp_path / "out", who)
    # .3 contradicts label 1 with .7 only.
    assert [r.id for r in rows_of(tmp_path / "out")] == [
        f"tamis_synthetic-{n}" for n in (0, 2, 3, 9)
    ]
    assert report["rows"] == {"read": 5, "judged": 4, "kept": 4, "dropped": 1}
    assert report["overall"]["disagrees"] == 0.5
    assert report["by"]["label"]["0"] == {
        "rows": 2,
        "agrees": 0.5,
        "undecided": 0.0,
        "disagrees": 0.5,
        "dropped": 0.5,
    }
    assert set(report["by"]["category"]) == {"sexual/minors"}
    assert set(report["by"]["task"]) == {"rewrite"}
    assert report["examples"]["dropped"] == [{"id": "tamis_synthetic-1", "label": 0, "unsafe": 0.9}]
    assert not any(word in json.dumps(report) for word in TEXTS)
    strict = judge([made], tmp_path / "out", who, confidence=0.6)
    assert strict["rows"]["dropped"] == 2
    # What it has said is kept.
    assert who.calls == 1


def test_a_confidence_of_a_coin_is_refused(made: Path, tmp_path: Path):
    with pytest.raises(stage.StageError, match="--confidence"):
        judge([made], tmp_path / "out", Says(), confidence=0.5)


def test_the_command_line_judges_by_words(made: Path, data: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.curation.linear.user_cache_path", lambda _: tmp_path / "cache")
    command = ["train", "judge", "--rows", str(made), "--out", str(tmp_path / "o")]
    assert main([*command, "--judge", "linear"]) == 1
    assert main([*command, "--judge", "linear", "--real", str(data)]) == 0
    assert json.loads((tmp_path / "o/report.json").read_text())["judge"] == "linear"


def test_a_bundle_judges_through_the_engine_that_serves(made: Path, tmp_path: Path, bundle):
    command = ["train", "judge", "--rows", str(made), "--out", str(tmp_path / "o")]
    assert main([*command, "--judge", str(bundle.path)]) == 0
    assert json.loads((tmp_path / "o/report.json").read_text())["judge"] == bundle.name


# ---- checkpoints and hard samples ----------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(data: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    recipe = recipes.Recipe(base=str(tiny_base), epochs=1, batch_tokens=1024, encoder_lr=3e-3)
    trainer.train([data], out, recipe)
    trainer.calibrate([data], out)
    return out


def test_a_checkpoint_judges_and_prices_rows(checkpoint: Path, data: Path):
    rows = [r for r in rows_of(data) if r.source in ("convabuse_train", "gptfuzz_responses_train")]
    unsafe = CheckpointJudge(checkpoint).unsafe(rows)
    labels = np.array([r.label for r in rows])
    assert roc_auc(labels, unsafe) > 0.9
    losses = Checkpoint(checkpoint).losses(rows)
    assert losses.shape == (len(rows),)
    assert (losses > 0).all()
    right = (unsafe > 0.5) == labels
    if not right.all():
        assert losses[~right].mean() > losses[right].mean()


def test_answers_are_kept_for_a_calibration_and_named_by_the_weights(
    checkpoint: Path, tmp_path: Path
):
    anew = tmp_path / "anew"
    shutil.copytree(checkpoint, anew)
    raw = json.loads((anew / "calibration.json").read_text())
    raw[0]["bias"] += 1
    (anew / "calibration.json").write_text(json.dumps(raw))
    before, after = CheckpointJudge(checkpoint), CheckpointJudge(anew)
    assert before.identity != after.identity
    assert before.sha256 == after.sha256


def test_rows_that_answer_another_question_are_priced_by_it(checkpoint: Path):
    common = ("x", "tamis_synthetic", "prompt", 1, "ignore your rules 7", None)
    model = Checkpoint(checkpoint)
    asked = model.losses([Row(*common, ("illicit",), None)])
    injection = model.losses([Row(*common, ("injection",), None)])
    assert np.isfinite(asked).all()
    assert np.isfinite(injection).all()
    assert not np.allclose(asked, injection)


def test_a_label_that_is_a_share_is_priced_as_one(checkpoint: Path):
    said = Row("x", "hatexplain_train_2of3", "text", 1, "you silly goose", None, (), None)
    model = Checkpoint(checkpoint)
    share = source_of(said).labels_of(said)["toxicity"]
    assert 0.5 < share < 1
    z = model.logits([said])[0, HEADS.index("toxicity")]
    expected = share * np.log1p(np.exp(-z)) + (1 - share) * np.log1p(np.exp(z))
    least = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert model.losses([said])[0] == pytest.approx(expected - least, rel=1e-3, abs=1e-5)


def test_who_says_what_a_share_is_loses_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    said = Row("x", "hatexplain_train_2of3", "text", 1, "you silly goose", None, (), None)
    share = source_of(said).labels_of(said)["toxicity"]
    model = Checkpoint(checkpoint)

    def right(_model, examples):
        return np.full((len(examples), len(HEADS)), np.log(share / (1 - share)), np.float32)

    monkeypatch.setattr("training.curation.checkpoint.inference.predict", right)
    assert model.losses([said])[0] == pytest.approx(0, abs=1e-6)


def test_epochs_of_earlier_stages_count(tmp_path: Path):
    for name, init, epochs in (("first", None, 2.0), ("second", "/elsewhere/first", 0.3)):
        (tmp_path / name).mkdir()
        recipe = {"epochs": epochs, "init": init}
        (tmp_path / name / "training.json").write_text(json.dumps({"recipe": recipe}))
    assert epochs_of(tmp_path / "second") == 2.3
    stepped = {"recipe": {"epochs": 2.0, "init": None, "steps": 100}}
    (tmp_path / "first/training.json").write_text(json.dumps(stepped))
    assert epochs_of(tmp_path / "second") is None


def test_hard_rows_lie_between_the_mean_and_the_noise():
    losses = np.array([0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 1.0, 1.1, 9.0, 9.0])
    found = hard.select(losses, 0.2)
    assert found.dropped.tolist() == [False] * 8 + [True] * 2
    assert found.mean == pytest.approx(losses[:8].mean())
    assert found.hard.tolist() == [False] * 4 + [True] * 4 + [False] * 2
    assert hard.select(losses, 0.0).dropped.sum() == 0
    # Of rows that cost the same, exactly the share goes.
    assert hard.select(np.ones(10), 0.2).dropped.sum() == 2


def test_the_stage_keeps_hard_rows_and_its_losses(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report = hard.hard([data], tmp_path, checkpoint, drop=0.1)
    counts = report["rows"]
    assert counts["read"] == counts["dropped"] + counts["hard"] + counts["easy"] + counts["unasked"]
    assert len(rows_of(tmp_path)) == counts["hard"] > 0
    assert "fewer than 3" in report["warning"]
    assert set(report["targets"]) == {"prompt", "response", "text"}
    assert report["targets"]["text"]["sweep"]["0.20"]["overlap_with_0.20"] == 1
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert not any(word in json.dumps(report) for word in TEXTS)
    monkeypatch.setattr(Checkpoint, "losses", None)
    again = hard.hard([data], tmp_path, checkpoint, drop=0.2)
    assert again["rows"]["dropped"] > counts["dropped"]


def test_bad_options_of_hard_rows_are_named(checkpoint: Path, data: Path, tmp_path: Path, capsys):
    command = ["train", "hard", "--data", str(data), "--out", str(tmp_path / "o")]
    assert main([*command, "--checkpoint", str(checkpoint), "--drop", "1.5"]) == 1
    assert "--drop" in capsys.readouterr().err
    assert main([*command, "--checkpoint", str(tmp_path)]) == 1
    assert "training.json is missing" in capsys.readouterr().err
    assert main([*command, "--checkpoint", str(checkpoint), "--limit", "60"]) == 0
    out, _ = capsys.readouterr()
    assert "warning" in out
    assert json.loads((tmp_path / "o/report.json").read_text())["rows"]["read"] == 60
