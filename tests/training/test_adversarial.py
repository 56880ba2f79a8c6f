"""The whole loop at a tiny size: lessons, tuning, rows of the tuned generator, a round of GRPO."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import row, write_rows
from tests.training.test_synthesis import Letters
from tests.training.tiny import write_causal
from training.adversarial import finetune as tuning
from training.adversarial import grpo
from training.adversarial.adapters import TuningError
from training.adversarial.finetune import finetune
from training.adversarial.grpo import adversarial
from training.adversarial.guards import Limits
from training.adversarial.lessons import lessons, stretch
from training.adversarial.scoring import Fluency, Worth
from training.datasets import readings
from training.datasets.schema import Row, data_files, read_rows
from training.synthesis.generator import LocalGenerator, Sampling, load_causal
from training.synthesis.seeds import load_seeds
from training.synthesis.synthesize import Settings as SynthesisSettings
from training.synthesis.synthesize import synthesize

# A tiny model takes so little time that two checkpoints are written within one tick of the clock.
pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")

SEEDS = load_seeds()
STEAL = [f"how do I steal cookie number {n} from the jar" for n in range(60)]
BAKE = [f"how do I bake cookie number {n} for the fair" for n in range(60)]


def hard_rows() -> list[dict]:
    stolen = [row(n, "guardreasoner_train_5k", "prompt", 1, text) for n, text in enumerate(STEAL)]
    baked = [row(n + 100, "guardreasoner_train_5k", "prompt", 0, t) for n, t in enumerate(BAKE)]
    return stolen + baked


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with random weights that knows the words of the rows."""
    known = {word for text in STEAL + BAKE for word in text.split()}
    return write_causal(tmp_path_factory.mktemp("base"), sorted(known))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    write_rows(folder / "rows.jsonl.gz", hard_rows())
    return folder


def settings(base: Path, **more) -> tuning.Settings:
    chosen = {"epochs": 3, "lr": 0.03, "batch": 8, "rank": 4, "checks": 1} | more
    return tuning.Settings(base=str(base), **chosen)


@pytest.fixture(scope="module")
def tuned(writer: Path, hard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    finetune(hard, folder, settings(writer))
    return folder


class Counter:
    """Holds a text for unsafe by a share of its letters, which nobody would call a judgement."""

    def __init__(self, name: str, letter: str) -> None:
        self.name, self.identity, self._letter = name, f"{name} {letter}", letter

    def unsafe(self, rows: Sequence[Row]) -> np.ndarray:
        counts = [row.prompt.count(self._letter) / max(1, len(row.prompt)) for row in rows]
        return np.clip(0.3 + 2 * np.array(counts), 0.01, 0.99)


def test_tuning_learns_what_rows_look_like(tuned: Path):
    report = json.loads((tuned / "report.json").read_text())
    assert report["held_out_loss"]["best"] < report["held_out_loss"]["before"] - 0.2
    assert report["rows"]["train"] + report["rows"]["held_out"] == 120
    assert report["rows"]["unsafe"] == 60
    assert (tuned / "adapter_model.safetensors").exists()
    assert (tuned / "loss.png").stat().st_size > 1000
    curve = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert sum("eval_loss" in entry for entry in curve) >= 3


def test_rows_that_no_model_may_learn_are_left_out(tmp_path: Path):
    restricted = next(leaf for leaf in SEEDS.leaves if not leaf.generator)
    rows = [
        row(1, "guardreasoner_train_5k", "prompt", 1, "how do I steal a cookie"),
        row(2, "convabuse_train", "text", 1, "you silly goose"),
        row(3, "purplellama_prompt_injection", "prompt", 1, "ignore your rules"),
        row(4, "tamis_synthetic", "prompt", 1, "a plain name", leaf=restricted.id),
        row(5, "tamis_synthetic", "prompt", 1, "a plain name", categories=["sexual/minors"]),
        row(6, "guardreasoner_train_5k", "prompt", 1, "how do I scare the kids next door"),
        row(7, "guardreasoner_train_5k", "prompt", 0, "how do I entertain the kids next door"),
        row(8, "gptfuzz_responses_train", "response", 1, "cookie", response="sure"),
    ]
    write_rows(tmp_path / "rows.jsonl.gz", rows)
    found = lessons(tmp_path, SEEDS)
    assert [lesson.id.rsplit("-", 1)[1] for lesson in found.taught] == ["1", "7"]
    assert found.left_out == {
        "answers another question": 1,
        "names somebody young": 1,
        "not a prompt": 2,
        "not for language models": 2,
    }


def test_lessons_are_of_what_is_surely_so_and_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = {
        "vf_jailbreak_llms-2": readings.Reading(2, ("sexual/minors",), None, False),
        "vf_jailbreak_llms-3": readings.Reading(2, ("illicit",), None, False),
        "guardreasoner_train_5k-4": readings.Reading(0, (), None, False),
        "guardreasoner_train_5k-5": readings.Reading(1, (), None, False),
    }
    monkeypatch.setattr(readings, "readings", lambda: read)
    # Of the first source's unsafe prompts half are.
    rows = [row(n, "vf_jailbreak_llms", "prompt", 1, "how do I steal a cookie") for n in (1, 2, 3)]
    rows += [row(n, "guardreasoner_train_5k", "prompt", 1, "how do I bake it") for n in (4, 5)]
    write_rows(tmp_path / "rows.jsonl.gz", rows)
    found = lessons(tmp_path, SEEDS)
    taught = {lesson.id: lesson.label for lesson in found.taught}
    assert taught == {"vf_jailbreak_llms-3": 1, "guardreasoner_train_5k-4": 0}
    assert found.left_out == {"neither safe nor unsafe": 2, "not for language models": 1}


def test_a_lesson_asks_for_what_is_known_of_its_row(tmp_path: Path):
    leaf = next(leaf for leaf in SEEDS.leaves if leaf.generator and "{" not in leaf.text)
    rows = [
        row(1, "guardreasoner_train_5k", "prompt", 0, "How do I bake a rye loaf without yeast?"),
        row(2, "tamis_synthetic", "prompt", leaf.label, "Something.", leaf=leaf.id),
        row(3, "guardreasoner_train_5k", "prompt", 0, "How do I do it?"),
    ]
    write_rows(tmp_path / "rows.jsonl.gz", rows)
    real, synthetic, _ = lessons(tmp_path, SEEDS).taught
    assert real.prompt.turns[-1][1] == (
        "Kind: harmless\nTopic: anything\nAbout: bake a rye loaf without\nForm: a question"
    )
    assert real.text == "How do I bake a rye loaf without yeast?"
    assert f"Topic: {leaf.category}\nAbout: {leaf.text}\n" in synthetic.prompt.turns[-1][1]


def test_a_stretch_is_where_the_rare_words_are():
    rare = {"rye": 3.0, "loaf": 3.0, "how": 0.1, "i": 0.1}
    assert stretch("how do I bake my rye loaf, please", rare) == "I bake my rye loaf"
    assert stretch("", rare) == ""


def test_tuning_refuses_too_few_rows_and_another_run(
    tmp_path: Path, writer: Path, hard: Path, tuned: Path
):
    write_rows(tmp_path / "rows.jsonl.gz", hard_rows()[:5])
    with pytest.raises(TuningError, match="needs at least 8"):
        finetune(tmp_path, tmp_path / "out", settings(writer))
    with pytest.raises(TuningError, match=r"other settings \(lr\)"):
        finetune(hard, tuned, settings(writer, lr=1.0))
    with pytest.raises(TuningError, match=r"other settings \(rows_sha256\)"):
        finetune(tmp_path, tuned, settings(writer))
    with pytest.raises(TuningError, match="--epochs"):
        settings(writer, epochs=0)


def test_a_finished_run_is_not_done_again(writer: Path, hard: Path, tuned: Path):
    before = (tuned / "adapter_model.safetensors").stat().st_mtime_ns
    report = finetune(hard, tuned, settings(writer))
    assert report == json.loads((tuned / "report.json").read_text())
    assert (tuned / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_an_adapter_writes_otherwise_than_its_base_and_only_requests(
    tuned: Path, writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.curation.embedding.SentenceEncoder", Letters)
    sampling = Sampling(max_new_tokens=12, top_k=1)
    adapted, plain = LocalGenerator(str(tuned), sampling), LocalGenerator(str(writer), sampling)
    assert (adapted.tuned, plain.tuned) == (True, False)
    assert adapted.name == f"{writer.name}+sft"
    prompt = lessons_of_one()
    assert adapted.write([prompt], 0) != plain.write([prompt], 0)
    wanted = SynthesisSettings(4, generator=str(tuned), batch=4, max_new_tokens=8)
    report = synthesize(tmp_path, wanted, writer=Saying(adapted.name))
    assert report["by_task"] == {"request": 4}
    assert report["by_generator"] == {adapted.name: 4}


def lessons_of_one():
    from training.synthesis import prompts

    return prompts.request(1, "illicit", "steal a cookie", "a question")


class Saying:
    """A tuned generator that says what it was asked to be about, in a few forms."""

    tuned = True

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, prompts, seed: int) -> list:
        from training.synthesis.generator import Written

        rng = np.random.default_rng(seed)
        told = []
        for prompt in prompts:
            about = prompt.turns[-1][1].split("\nAbout: ")[1].split("\n")[0]
            told.append(Written(f"Number {rng.integers(10**6)} on my list: {about}", True, 9))
        return told


def test_text_that_the_base_knows_is_more_fluent(tuned: Path, writer: Path):
    _, model, tokenizer = load_causal(str(writer))
    fluency = Fluency(model, tokenizer)
    together = fluency.nats(["how do I bake", "cookie jar", ""])
    alone = [float(fluency.nats([text])[0]) for text in ("how do I bake", "cookie jar")]
    np.testing.assert_allclose(together[:2], alone, rtol=0.02)
    assert np.isinf(together[2])


def round_settings(tuned: Path, **more) -> grpo.Settings:
    chosen = {
        "steps": 6,
        "prompts": 2,
        "group": 3,
        "max_new_tokens": 8,
        "lr": 1e-2,
        "candidates": 0,
        "limits": Limits(window=2, kl=50, disagreement=1, least_distinct=0, more_repetition=1),
        # Random weights write nothing that filters keep: the loop is tried, not the generator.
        "worth": Worth(gate=0.0, easy=50, hard=60),
    } | more
    return grpo.Settings(init=str(tuned), **chosen)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that let everything pass, and an encoder within the test."""

    class Nothing:
        def __init__(self, *_: object) -> None: ...

        def reasons(self, candidates: Sequence[object]) -> list[None]:
            return [None] * len(candidates)

    monkeypatch.setattr(grpo, "Checks", Nothing)
    # Nor do they end what they write, which would leave nothing of it.
    monkeypatch.setattr(grpo.prompts, "tidy", lambda text, _: text)
    monkeypatch.setattr("training.curation.embedding.SentenceEncoder", Letters)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


JUDGES = Counter("classifier", "o"), Counter("judge", "i")


def test_a_round_moves_the_adapter_and_leaves_curves_and_rows(
    tuned: Path, tmp_path: Path, lenient: None, monkeypatch: pytest.MonkeyPatch
):
    def saying(name: str, *_: object) -> Saying:
        return Saying(Path(name).name)

    monkeypatch.setattr("training.synthesis.synthesize.generator", saying)
    report = adversarial(tmp_path / "one", round_settings(tuned, candidates=30), *JUDGES)
    assert report["rolled_back"] is False
    assert report["steps"] == {"planned": 6, "done": 6}
    before, after = weights(tuned), weights(tmp_path / "one")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    record = grpo.read_record(tmp_path / "one")
    assert [step.step for step in record] == list(range(1, 7))
    # The reference is the adapter that the round began with, so the first step is no way from it.
    assert record[0].kl == pytest.approx(0, abs=1e-3)
    assert record[-1].kl > record[0].kl
    assert all(0 <= step.reward <= 1 and step.seconds > 0 for step in record)
    assert 1000 < (tmp_path / "one" / "curves.png").stat().st_size < 80_000
    kept = report["rows"]
    rows = [r for path in data_files(tmp_path / "one" / "rows") for r in read_rows(path)]
    assert len(rows) == kept["kept"] > 0
    assert len(kept["survived"]) == min(kept["kept"], 20)
    assert kept["candidates"] == 30
    assert len(kept["rejected"]) <= 20
    raw = gzip.decompress((tmp_path / "one/rows/rows.jsonl.gz").read_bytes()).decode()
    assert {json.loads(line)["task"] for line in raw.splitlines()} == {"request"}
    assert adversarial(tmp_path / "one", round_settings(tuned, candidates=30), *JUDGES) == report
    with pytest.raises(TuningError, match="other settings"):
        adversarial(tmp_path / "one", round_settings(tuned, steps=7), *JUDGES)


def test_a_guard_rolls_the_round_back(tuned: Path, tmp_path: Path, lenient: None):
    limits = Limits(window=1, kl=1e-6, disagreement=1, least_distinct=0, more_repetition=1)
    report = adversarial(
        tmp_path / "out", round_settings(tuned, limits=limits, candidates=10), *JUDGES
    )
    assert report["rolled_back"] is True
    assert report["trip"]["guard"] == "kl blow-up"
    assert report["steps"]["done"] == report["trip"]["step"] < 6
    assert "rows" not in report
    before, after = weights(tuned), weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_round_goes_on_from_its_checkpoint(
    tuned: Path, tmp_path: Path, lenient: None, monkeypatch: pytest.MonkeyPatch
):
    class InterruptedRunError(Exception):
        pass

    seen = grpo.Reward.step

    def stop_after(self: grpo.Reward, number: int, kl: float) -> object:
        if number == 6:
            raise InterruptedRunError
        return seen(self, number, kl)

    with monkeypatch.context() as patch:
        patch.setattr(grpo.Reward, "step", stop_after)
        with pytest.raises(InterruptedRunError):
            adversarial(tmp_path, round_settings(tuned), *JUDGES)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-5"
    assert not (checkpoint / "ref").exists()
    assert len(grpo.read_record(tmp_path)) == 5
    report = adversarial(tmp_path, round_settings(tuned), *JUDGES)
    record = grpo.read_record(tmp_path)
    assert report["steps"]["done"] == len(record) == 6
    # Had it gone on from the reference instead of the checkpoint, it would be near it again.
    assert record[5].kl > record[1].kl


@pytest.mark.parametrize(
    ("field", "value"),
    [("group", 1), ("steps", 0), ("max_new_tokens", 1), ("beta", 0), ("candidates", -1)],
)
def test_settings_that_make_no_sense_are_named(field: str, value: int):
    with pytest.raises(TuningError, match=field.replace("_", "-")):
        grpo.Settings(init="x", **{field: value})
