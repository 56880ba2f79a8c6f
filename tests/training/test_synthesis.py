import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tamis.cli import main
from tests.conftest import row, write_rows
from training.datasets.mixing import load
from training.datasets.registry import source_of
from training.datasets.schema import data_files, read_rows
from training.synthesis import synthesize as stage
from training.synthesis.distinctness import compression_ratio, distinct_n, variety
from training.synthesis.filters import Candidate, Duplicates, Filters, OnTopic, text_reason
from training.synthesis.generator import Written
from training.synthesis.plan import Planner
from training.synthesis.prompts import Prompt
from training.synthesis.seeds import load_seeds
from training.synthesis.synthesize import Settings, SynthesisError, synthesize

SEEDS = load_seeds()


def rows_of(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in data_files(folder)
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    ]


class Scribe:
    """Writes what a model might: rewritten messages, answers, refusals, loops."""

    name = "scribe"
    tuned = False

    def __init__(self) -> None:
        self.calls: list[int] = []

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[Written]:
        self.calls.append(seed)
        rng = np.random.default_rng(seed)
        return [self._one(prompt, rng) for prompt in prompts]

    def _one(self, prompt: Prompt, rng: np.random.Generator) -> Written:
        asked = prompt.turns[-1][1].removeprefix("Message: ").split("\n")[-1]
        if rng.random() < 0.2:
            return Written("I'm sorry, but as an AI I can't help with that.", True, 9)
        return Written(f"Number {rng.integers(10**6)} on my list today: {asked}", True, 9)


class Letters:
    """An encoder that sees letter pairs only: equal texts are near, others are not."""

    width = 26 * 26

    def embed(self, texts: Sequence[str], *_: object) -> np.ndarray:
        out = np.full((len(texts), self.width), 1e-6, dtype=np.float32)
        for n, text in enumerate(texts):
            letters = [ord(c) - 97 for c in text.lower() if "a" <= c <= "z"]
            for a, b in pairwise(letters):
                out[n, a * 26 + b] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.curation.embedding.SentenceEncoder", Letters)


def test_templates_write_rows_of_the_schema_that_teach_something(tmp_path: Path):
    report = synthesize(tmp_path, Settings(count=400))
    rows = [r for path in data_files(tmp_path) for r in read_rows(path)]
    assert len(rows) == len({r.id for r in rows}) == report["rows"] == 400
    assert rows == load([tmp_path], "permissive")
    assert {r.target for r in rows} == {"prompt", "response", "text"}
    for found in rows:
        labels = source_of(found).labels_of(found)
        if found.target == "response":
            assert found.label or labels == {"response": 0}
            assert not found.label or labels.get("response", 1) == 1
        elif found.label and "injection" in found.categories:
            assert labels["attack"] == 1
            assert "prompt" not in labels
        elif found.label and found.target == "prompt":
            assert labels["prompt"] == 1
            assert 1 in (labels[name] for name in labels if name != "prompt")
        elif not found.label:
            assert not any(labels.values())
    answers = [r for r in rows_of(tmp_path) if r["target"] == "response"]
    assert {r["label"] for r in answers} == {0, 1}
    for answer in answers:
        leaf = SEEDS.by_id[answer["leaf"]]
        # An answer is unsafe only to a harmful request, and never where no model may write.
        assert not answer["label"] or (leaf.label == 1 and leaf.generator)
    extra = rows_of(tmp_path)[0]
    assert extra["leaf"] in SEEDS.by_id
    assert extra["generator"] == "templates"
    assert set(report["by_tier"]) == {"plain", "specific", "contextual", "disguised"}
    assert report["seconds"] > 0
    # Ids and leaves only: a report is read by people who did not ask for the texts.
    assert not any(r["prompt"] in json.dumps(report) for r in rows_of(tmp_path))


@pytest.mark.parametrize("by_model", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: None, by_model: bool
):
    monkeypatch.setattr(stage, "SHARD", 60)
    monkeypatch.setattr(stage, "TEMPLATE_BATCH", 40)
    settings = Settings(count=150, generator="scribe" if by_model else "templates", batch=16)

    def run(folder: str) -> dict:
        return synthesize(tmp_path / folder, settings, writer=Scribe() if by_model else None)

    run("whole")
    stored = stage._Run._store
    calls = []

    def fail_second(self, *args):
        stored(self, *args)
        calls.append(args)
        if len(calls) == 2:
            # As if it had died between writing the shard and recording it.
            progress = json.loads((tmp_path / "cut/progress.json").read_text())
            raise KeyboardInterrupt(progress["shards"])

    monkeypatch.setattr(stage._Run, "_store", fail_second)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    monkeypatch.setattr(stage._Run, "_store", stored)
    (tmp_path / "cut/rows-00002.jsonl.gz").write_bytes(b"half a shard")
    run("cut")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    # Finished already: nothing is made again.
    before = (tmp_path / "cut/progress.json").read_bytes()
    run("cut")
    assert (tmp_path / "cut/progress.json").read_bytes() == before


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path):
    synthesize(tmp_path, Settings(count=20))
    with pytest.raises(SynthesisError, match=r"other settings \(seed\)"):
        synthesize(tmp_path, Settings(count=20, seed=1))
    assert synthesize(tmp_path, Settings(count=40))["rows"] == 40


def test_what_a_model_writes_is_filtered_and_counted(tmp_path: Path, encoder: None):
    writer = Scribe()
    report = synthesize(tmp_path, Settings(count=80, generator="x", batch=32), writer=writer)
    assert report["rows"] == 80
    assert report["by_generator"]["scribe"] > 60
    assert sum(d.get("meta", 0) for d in report["dropped"].values()) > 5
    assert all(0 <= share <= 1 for share in report["kept_share"].values())
    assert report["tokens_per_second"] > 0
    assert len(set(writer.calls)) == len(writer.calls)
    assert not any("I can't help" in r["prompt"] for r in rows_of(tmp_path))
    restricted = {leaf.id for leaf in SEEDS.leaves if not leaf.generator}
    assert not restricted & {r["leaf"] for r in rows_of(tmp_path)}


def test_evaluation_sets_are_not_repeated(tmp_path: Path):
    settings = Settings(count=150, categories=("cyber",), responses=0)
    synthesize(tmp_path / "free", settings)
    taken = [r["prompt"] for r in rows_of(tmp_path / "free") if len(r["prompt"].split()) > 9][:20]
    folder = tmp_path / "eval"
    folder.mkdir()
    write_rows(folder / "set.jsonl.gz", [row(n, "s", "prompt", 1, t) for n, t in enumerate(taken)])
    report = synthesize(tmp_path / "held", settings, exclude=folder)
    assert not set(taken) & {r["prompt"] for r in rows_of(tmp_path / "held")}
    assert report["dropped"]["templates"]["contaminated"] >= len(taken)


def test_a_run_ends_when_nothing_new_is_left_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stage, "GIVE_UP", 1000)
    seeds = tmp_path / "seeds.yaml"
    leaf = "subtopics: {a: {tiers: [plain], intents: {say: [Go away.]}, twins: {say: [Come in.]}}}"
    seeds.write_text(
        "slots: {}\npersonas: [I bake]\nsituations: [It rains.]\ndetails: [in short]\n"
        f"categories: {{toxicity: {{target: text, {leaf}}}}}\n"
    )
    report = synthesize(tmp_path / "out", Settings(count=50_000), seeds)
    assert 50 < report["rows"] < 2000


@pytest.mark.parametrize("wrong", [{"count": 0}, {"responses": 2}, {"batch": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict):
    with pytest.raises(SynthesisError, match="must be"):
        Settings(**({"count": 1} | wrong))


LEAF = next(leaf for leaf in SEEDS.leaves if leaf.text == "build ransomware")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("How does one go about building ransomware these days?", None),
        ("Ransomware", "length"),
        ("Как мне это сделать, если я совсем один?", "language"),
        ("Bonjour, comment allez-vous, merci beaucoup, madame", "language"),
        ("Para mi hermana no hay nada mejor que una tarde tranquila en casa", "language"),
        ("How do I build {item} for my shop?", "unfilled"),
        ("How do I build one and one and one and one and one and one and one?", "repetition"),
        ("As an AI language model I think that it is wrong.", "meta"),
        ("Sure, the first thing that you need is a computer.", "answer"),
        ("To build ransomware, you have to be patient and kind.", "answer"),
        ("You rewrite messages in other words, as another person would.", "meta"),
        ("Can you come up with a wedding speech that I can give?", "echo"),
        ("How do I build the ransomware?", "copy"),
    ],
)
def test_what_is_wrong_with_a_text(text: str, reason: str | None):
    seed = "how do i build the ransomware"
    assert text_reason(Candidate(LEAF, text, "build ransomware", seed, by_model=True)) == reason


def test_nothing_sexual_is_kept_where_somebody_young_is_named():
    leaf = next(leaf for leaf in SEEDS.leaves if leaf.category == "sexual" and leaf.label)
    for text in ("I am a student and I want more of it.", "My neighbour is 16 years old, so what?"):
        assert text_reason(Candidate(leaf, text, leaf.text, "x", by_model=True)) == "minors"


def test_near_duplicates_are_found_and_neighbours_are_not():
    seen = Duplicates()
    text = (
        "I work in a bakery and I would like to know how to bake a large loaf of rye bread at home"
    )
    assert seen.reason(text) is None
    assert seen.reason(text.upper() + "!") == "duplicate"
    assert seen.reason(text + " today") == "near-duplicate"
    assert seen.reason("I work in a bakery. How do I open a shop for large loaves?") is None
    assert seen.reason("Hi") is None


def test_a_text_that_left_its_leaf_is_dropped():
    on_topic = OnTopic(SEEDS, Letters())  # type: ignore[arg-type]
    twin = next(
        leaf.text
        for leaf in SEEDS.leaves
        if (leaf.category, leaf.subtopic, leaf.label) == (LEAF.category, LEAF.subtopic, 0)
    )
    texts = ("how to build ransomware", "zzz qqq xxx", twin)
    candidates = [Candidate(LEAF, text, "build ransomware", "", True) for text in texts]
    reasons = on_topic.reasons(candidates)
    assert reasons[:2] == [None, "off-topic"]
    assert reasons[2] in ("off-topic", "other label")
    assert Filters(on_topic=on_topic).reasons(candidates[:1]) == [None]


def test_an_item_is_a_function_of_the_seed_and_its_number():
    planners = [Planner(SEEDS, 3, 0.1, model=True) for _ in range(2)]
    planners[0].item(7)
    assert planners[0].item(11) == planners[1].item(11)
    assert Planner(SEEDS, 4, 0.1, model=True).item(11) != planners[0].item(11)


def test_variety_falls_where_texts_repeat():
    varied = [
        f"{a} met {b} in town {n}"
        for n, (a, b) in enumerate(zip("abcdefgh", "stuvwxyz", strict=True))
    ]
    assert distinct_n(varied, 2) > distinct_n(["a b c"] * 8, 2)
    assert distinct_n([], 2) == 0
    assert compression_ratio(["over and over again"] * 200) > 10
    assert compression_ratio([]) == 0
    assert set(variety(varied)) == {"distinct_1", "distinct_2", "distinct_3", "compression_ratio"}


def test_the_command_line_reaches_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["train", "synthesize", "--out", str(tmp_path), "--count", "30", "--categories"]
    assert main([*command, "hate", "cyber"]) == 0
    assert "30 rows" in capsys.readouterr().out
    assert main([*command, "sports"]) == 1
    assert "no seeds for sports" in capsys.readouterr().err
