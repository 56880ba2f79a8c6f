import gzip
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tamis import content
from tamis.cli import main
from tamis.corrections.record import CATEGORIES, Correction, write_lines
from tamis.corrections.store import open_store
from tamis.tokens import plain_tokenizer
from tests.conftest import row, write_rows
from tests.service.test_app import wait_until_ready
from training.classifier import inference, trainer
from training.classifier.recipe import Recipe
from training.datasets import batches, feedback, mixing
from training.datasets.contamination import Seen
from training.datasets.feedback import Limits, curate
from training.datasets.registry import HEADS, source_of
from training.datasets.schema import Row, parse_row, read_rows

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EIGHT = "one two three four five six seven eight"


def said(text: str, label: str | None = "safe", minute: int = 0, **more: Any) -> Correction:
    about = more.pop("content", None) or content.prompt(text)
    time = NOON + timedelta(minutes=minute)
    return Correction(content=about, label=label, time=time, **more)


def rows(*corrections: Correction, limits: Limits | None = None, seen: Seen | None = None):
    kept, report = curate(corrections, limits or Limits(), seen or Seen())
    return [k.row for k in kept], report


def labels(found: list[Row]) -> dict[str, int]:
    return {name: value for r in found for name, value in source_of(r).labels_of(r).items()}


def test_a_safe_prompt_answers_three_questions():
    found, report = rows(said("cookie"))
    assert labels(found) == {"prompt": 0, "attack": 0, "toxicity": 0}
    assert {r.id for r in found} == {said("cookie").id}
    assert {r.licence for r in found} == {"own"}
    assert (report.corrections, report.answers, report.rows.total()) == (1, 3, 3)


def test_what_was_not_said_is_unknown():
    assert labels(rows(said("a", "unsafe"))[0]) == {"prompt": 1}
    assert labels(rows(said("a", None, attack=True))[0]) == {"attack": 1}
    assert labels(rows(said("a", "unsafe", toxicity=False))[0]) == {"prompt": 1, "toxicity": 0}


def test_named_categories_are_taken_as_all_of_them():
    found = labels(rows(said("a", "unsafe", categories=("hate", "violence")))[0])
    assert {c: found[c] for c in CATEGORIES} == {
        c: int(c in ("hate", "violence")) for c in CATEGORIES
    }


def test_responses_and_texts_teach_their_own_heads():
    answer = content.response("go away", "hello")
    (found,) = rows(said("", "unsafe", content=answer))[0]
    assert (found.target, found.prompt, found.response) == ("response", "hello", "go away")
    assert labels([found]) == {"response": 1}
    (found,) = rows(said("", "unsafe", content=content.plain("go away")))[0]
    assert (found.target, found.prompt, found.response) == ("text", "go away", None)
    assert labels([found]) == {"toxicity": 1, "attack": 0}


def test_what_a_text_was_read_behind_comes_back_with_its_row(tmp_path: Path):
    asked = content.prompt("and now?", earlier=("one", "two"))
    read = content.document("Open on Monday.", to="When is it open?")
    people = [said("", content=asked), said("", content=read)]
    kept, _ = curate(people, Limits(), Seen())
    feedback.write(kept, tmp_path / "rows.jsonl.gz")
    found = list(read_rows(tmp_path / "rows.jsonl.gz"))
    assert found == [k.row for k in kept]
    assert {one.behind for one in found} == {"one\ntwo", "When is it open?"}


def test_the_majority_decides_and_a_tie_decides_nothing():
    people = [said("Cookie  jar", "unsafe", n, reviewer=f"r{n}") for n in range(2)]
    people.append(said("cookie JAR", "safe", 9, reviewer="other"))
    kept, report = curate(people, Limits(), Seen())
    main_row = next(k for k in kept if k.row.source == "feedback_prompt")
    assert main_row.row.label == 1
    assert [vote.reviewer for vote in main_row.votes] == ["r1", "r0"]
    assert main_row.row.id == people[1].id
    assert report.unused["outvoted"] == 1
    assert report.unused["in the row of another that says the same"] == 1

    found, report = rows(people[0], people[2])
    assert {r.source for r in found} == {"feedback_attack", "feedback_toxicity"}
    assert report.unused["tied"] == 2


def test_one_reviewer_has_one_vote_however_often_it_is_cast():
    stuffed = [said("jar" + " " * n, "unsafe", n, reviewer="ana") for n in range(5)]
    others = [said("jar", "safe", reviewer=who) for who in ("ben", "cy")]
    found, report = rows(*stuffed, *others)
    assert labels(found)["prompt"] == 0
    assert report.unused["said again by the same reviewer"] == 4
    changed = said("jar  ", "safe", 99, reviewer="ana")
    assert labels(rows(*stuffed, changed)[0])["prompt"] == 0


def test_the_same_name_under_another_key_is_somebody_else():
    votes = [said("jar", "unsafe", reviewer="ana", key=key) for key in ("a", "b")]
    assert labels(rows(*votes, said("jar", "safe", reviewer="ana"))[0])["prompt"] == 1


def test_categories_are_those_that_most_name():
    def named(*categories: tuple[str, ...]) -> tuple[str, ...]:
        people = [
            said("jar", "unsafe", n, reviewer=f"r{n}", categories=names)
            for n, names in enumerate(categories)
        ]
        return rows(*people)[0][0].categories

    assert named(("hate",), ("hate", "violence"), ()) == ("hate",)
    assert named(("hate",), ("violence",)) == ()
    assert named(("hate",), ("hate", "violence"), ("violence",)) == ("hate", "violence")


def test_nobody_counts_for_more_than_the_limits_and_the_newest_count():
    flood = [said(f"jar {n}", "unsafe", n, reviewer="ana", key="k") for n in range(20)]
    more = [said(f"pot {n}", "unsafe", n, reviewer=f"r{n}", key="k") for n in range(20)]
    calm = [said(f"pan {n}", "unsafe", n, reviewer="ben", key="other") for n in range(3)]
    found, report = rows(*flood, *more, *calm, limits=Limits(per_reviewer=5, per_key=12))
    texts = {r.prompt for r in found}
    assert {t for t in texts if "jar" in t} == {f"jar {n}" for n in range(15, 20)}
    assert {t for t in texts if "pan" in t} == {"pan 0", "pan 1", "pan 2"}
    assert sum("jar" in t or "pot" in t for t in texts) == 12
    # Those over a reviewer's own limit do not use up the key's.
    assert report.dropped.total() == 28
    assert report.dropped["over 5 of one reviewer"] > 0
    assert report.dropped["over 12 of one key"] > 0
    assert str(report).startswith("feedback: 43 corrections read, not used: ")


def test_what_meets_an_evaluation_set_is_left_out():
    seen = Seen(
        [
            Row("1", "x", "prompt", 1, f"Tell me: {EIGHT}, please.", None, (), None),
            Row("2", "x", "response", 1, "a question", "an answer", (), None),
            Row("3", "x", "text", 1, "Short one!", None, (), None),
        ]
    )
    met = [
        said("short ONE", "unsafe"),
        said(f"before {EIGHT.title()} after", "unsafe"),
        said("", "unsafe", content=content.response("An answer.", "anything")),
        said("", "unsafe", content=content.response("something else", "a question")),
    ]
    free = [
        said("short one more", "unsafe"),
        said(EIGHT.removesuffix(" eight"), "unsafe"),
        said("", "unsafe", content=content.response("something", "else")),
    ]
    found, report = rows(*met, *free, seen=seen)
    assert sorted(r.id for r in found) == sorted(c.id for c in free)
    assert report.unused["in an evaluation set"] == 4


def test_what_stands_in_two_stores_counts_once(tmp_path: Path):
    store = tmp_path / "feedback.sqlite"
    open_store(str(store)).save(said("jar", "unsafe"))
    write_lines([said("jar", "unsafe")], tmp_path / "rows.jsonl.gz")
    places = [str(store), str(tmp_path / "rows.jsonl.gz")]
    report = feedback.snapshot(places, tmp_path / "run", Limits(), None)
    assert report is not None
    assert (report.corrections, report.dropped["stored twice"], report.rows.total()) == (2, 1, 1)


def test_a_snapshot_holds_rows_with_their_provenance(tmp_path: Path):
    vote = said("jar", "unsafe", reviewer="ana", key="k", verdict_id="mod-1")
    vote = Correction(
        **{name: getattr(vote, name) for name in vote.__dataclass_fields__}
        | {"verdict": {"model": "m@1", "policy": "p@2", "score": 0.3}}
    )
    write_lines([vote], tmp_path / "rows.jsonl")
    feedback.snapshot([str(tmp_path / "rows.jsonl")], tmp_path, Limits(), None)
    path = tmp_path / feedback.SNAPSHOT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with gzip.open(path, "rt") as stream:
        (line,) = stream
    assert parse_row(line, "here").id == vote.id
    assert json.loads(line)["votes"] == [
        {
            "id": vote.id,
            "time": "2026-01-01T12:00:00.000+00:00",
            "reviewer": "ana",
            "key": "k",
            "verdict_id": "mod-1",
            "model": "m@1",
            "policy": "p@2",
        }
    ]


def test_a_run_that_is_resumed_keeps_the_rows_it_began_with(tmp_path: Path, data: Path):
    def load() -> list[Row]:
        found = mixing.load([data], "permissive", tmp_path / feedback.SNAPSHOT)
        return [r for r in found if r.licence == "own"]

    def snapshot(*texts: str) -> feedback.Report | None:
        write_lines([said(text, "unsafe") for text in texts], tmp_path / "rows.jsonl")
        places = [str(tmp_path / "rows.jsonl")] if texts else []
        return feedback.snapshot(places, tmp_path, Limits(), None)

    snapshot("jar")
    assert [r.prompt for r in load()] == ["jar"]
    snapshot("pot")
    assert [r.prompt for r in load()] == ["pot"]
    (tmp_path / "last.pt").touch()
    assert snapshot("pan") is None
    assert [r.prompt for r in load()] == ["pot"]
    (tmp_path / "last.pt").unlink()
    # A new run without feedback does not find that of an old one.
    snapshot()
    assert load() == []


def test_evaluate_asks_each_correction_its_own_question(tmp_path: Path, capsys, bundle):
    goose = "Tell my sister she is a worthless, ugly idiot."
    corrections = [said(f"What is a good soup, number {n}?") for n in range(6)]
    corrections += [
        said("", "unsafe", content=content.plain(f"{goose} {n}"), categories=("harassment",))
        for n in range(4)
    ]
    corrections += [said(f"{goose} {n}", None, toxicity=True) for n in range(4)]
    write_lines(corrections, tmp_path / "rows.jsonl.gz")
    out = tmp_path / "out.json"
    store = str(tmp_path / "rows.jsonl.gz")
    assert main(["evaluate", "--feedback", store, "--json", str(out)]) == 0
    sets = json.loads(out.read_text())["sets"]
    assert {name: s["question"] for name, s in sets.items()} == {
        "feedback_attack": "attack",
        "feedback_prompt": "overall",
        "feedback_text": "overall",
        "feedback_toxicity": "toxicity",
    }
    assert sets["feedback_prompt"]["fpr"] == 0.0
    assert sets["feedback_text"]["recall"] == 1.0
    assert sets["feedback_toxicity"]["auroc"] == 1.0


def overall(checkpoint: Path, recipe: Recipe, texts: list[str]) -> np.ndarray:
    tokenizer = plain_tokenizer(checkpoint / "tokenizer.json")
    found = [Row(t, "feedback_prompt", "prompt", 1, t, None, (), None) for t in texts]
    examples = batches.encode(found, tokenizer, trainer.window_shape(tokenizer, recipe))
    logits = inference.predict(inference.load_model(checkpoint), examples, fast=False)
    return logits[:, HEADS.index("prompt")]


def test_what_is_posted_is_exported_trained_on_and_learnt(
    tmp_path: Path, data: Path, tiny_base: Path, recipe: Recipe, bundle, capsys, monkeypatch
):
    store = tmp_path / "feedback.sqlite"
    app = create_app(Settings(bundle=bundle.path, feedback=str(store)))
    with TestClient(app) as client:
        wait_until_ready(client)
        ids = set()
        # No prompt of the data is about gardens or geese, and these labels are unlikely ones.
        for n in range(60):
            for text, label in (("lovely garden", "unsafe"), ("silly goose", "safe")):
                body = {"input": f"{text} {n}", "label": label, "reviewer": "ana"}
                ids.add(client.post("/feedback", json=body).json()["id"])
    assert len(ids) == 120

    exported, held_away = tmp_path / "rows.jsonl.gz", tmp_path / "eval"
    command = ["feedback", "export", "--store", str(store), "--out", str(exported)]
    assert main(command) == 0
    held_away.mkdir()
    write_rows(held_away / "one.jsonl.gz", [row(0, "x", "prompt", 1, "Lovely garden 7")])

    # The recipe of the fixture, which the command line cannot say in full.
    monkeypatch.setattr(trainer, "Recipe", lambda **_: recipe)
    out = tmp_path / "run"
    command = ["train", "classifier", "--data", str(data), "--out", str(out)]
    command += ["--feedback", str(exported), "--feedback-exclude", str(held_away)]
    command += ["--feedback-limit-per-reviewer", "119"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "feedback: 120 corrections read, not used: 1 over 119 of one reviewer" in told
    assert "239 answers in them, not used: 1 in an evaluation set" in told

    used = list(read_rows(out / feedback.SNAPSHOT))
    lost = ("lovely garden 0", "lovely garden 7")
    assert {r.id for r in used} == ids - {said(text, reviewer="ana").id for text in lost}
    report = json.loads((out / "training.json").read_text())
    assert report["rows"]["feedback"] == len(used) == 238
    assert "garden" not in json.dumps(report)

    gardens = [f"lovely garden number {n}" for n in range(60, 90)]
    geese = [f"silly goose number {n}" for n in range(60, 90)]
    learnt = overall(out, recipe, gardens) > 0, overall(out, recipe, geese) < 0
    assert min(np.mean(right) for right in learnt) > 0.9
    without = trainer.train([data], tmp_path / "without", recipe)
    guessed = overall(without, recipe, gardens) > 0, overall(without, recipe, geese) < 0
    assert min(np.mean(right) for right in guessed) < 0.9
