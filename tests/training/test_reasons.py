import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tamis.cli import main
from tamis.content import prompt
from tamis.reasoner.protocol import END, Format, Guideline, answer, case, prefix
from tests.training.reasoner_world import make_library
from tests.training.rules_world import named
from training.reasoner import decode, evaluate, grpo, packing, sft, worded, writers
from training.reasoner import model as models
from training.reasoner.examples import Example, read_examples, write_examples
from training.reasoner.reasons import check
from training.reasoner.report import render
from training.reasoner.rewards import reason_reward
from training.reasoner.worded import Worded
from training.reasoner.writers import self_explained
from training.reasoner.written import Settings, draw, prepare
from training.rules.organisations import part_of, read_organisations

FORM = Format()
POLICY = (
    Guideline("Biscuits", "Offers biscuits or cakes. Crumbs are fine."),
    Guideline("Kites", "Speaks of flying a kite."),
    Guideline("Drums"),
)
RIGHT = "An offer of “two biscuits” to a stranger is what the rule forbids."


def example(category: str | None = "Biscuits", reason: str = RIGHT, **more) -> Example:
    fields = {
        "id": "club-1",
        "view": "v",
        "taxonomy": "club",
        "policy": POLICY,
        "content": prompt("Take two biscuits, my friend."),
        "source": "organisations",
        "licence": "own",
        "given": True,
    }
    return Example(**(fields | more), category=category, reason=reason)


@pytest.mark.parametrize(
    ("reason", "wrong"),
    [
        (RIGHT, None),
        ("An offer of “Two biscuits” to a stranger is what the rule forbids.", "stands"),
        ("An offer of biscuits to a stranger is what the rule forbids.", "stands"),
        ("An offer of “two biscuits”.", "fits"),
        (RIGHT + " And so on." * 10, "fits"),
        (RIGHT + " \\safety{safe}", "written"),
        ("An offer of “two biscuits” to a stranger is no talk of kites.", "foreign"),
        ("A talk of “two biscuits” while someone is flying about is forbidden.", "own"),
    ],
)
def test_each_check_finds_what_it_is_for(reason: str, wrong: str | None):
    found = check(reason, example())
    failed = {name for name in ("written", "fits", "stands") if not getattr(found, name)}
    failed |= {"foreign"} if found.foreign else set()
    failed |= set() if found.own else {"own"}
    assert failed == ({wrong} if wrong else set())
    assert found.sound is (wrong in (None, "own"))


def test_a_safe_texts_reason_may_name_rules_and_quote_nothing():
    found = check(
        "Drums are nowhere mentioned and kites are not either, so all is well.", example(None)
    )
    assert found.sound
    assert (found.own, found.foreign, found.quoted) == (None, False, False)
    assert not check("It says “five biscuits”, which is no drum and no kite.", example(None)).sound


@pytest.mark.parametrize(
    ("reason", "finished", "total"),
    [
        (RIGHT, True, 1.0),
        (RIGHT, False, 0.0),
        ("An offer of “three biscuits” to a stranger is what the rule forbids.", True, 0.5),
        ("It says “two biscuits” here and then it says nothing more.", True, 0.5),
        ("An offer: “two biscuits”.", True, 0.5),
        ("…", True, 0.0),
    ],
)
def test_a_reasons_reward_is_of_its_quotes_its_rule_and_its_length(reason, finished, total):
    assert reason_reward(reason, finished, example()).total == pytest.approx(total)


def test_only_a_reason_and_its_end_count_where_the_verdict_is_given(loaded):
    _, coder = loaded
    for row in (example(), example(None)):
        ids, weights = packing.answer_weights(row, FORM, coder, 2.0)
        assert ids == coder.ids(answer(row.answer, FORM))
        taught = [i for i, weight in zip(ids, weights, strict=True) if weight]
        assert taught == [*coder.ids([(RIGHT, False)]), coder.control[END]]
        assert sum(weights) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="before the reason"):
        packing.answer_weights(example(), Format("reason-first"), coder, 2.0)


def test_a_given_verdict_is_read_and_only_the_reason_is_written(loaded):
    model, coder = loaded
    row = example()
    told = answer(row.answer, FORM)[:6]
    question = coder.ids([*prefix(POLICY, FORM), *case(row.content), *told])
    assert grpo.question_ids(row, coder, FORM) == question
    out = model.generate(
        torch.tensor([question]),
        attention_mask=torch.ones(1, len(question), dtype=torch.long),
        max_new_tokens=8,
        do_sample=False,
        use_cache=True,
        pad_token_id=2,
    )[0, len(question) :].tolist()
    ((text, _),) = decode.write(model, coder, FORM, [row], 8)
    assert text == coder.decode(out[: out.index(2)] if 2 in out else out)
    said = decode.heard(row, f" {RIGHT}\n", True, FORM)
    assert said.answer == row.answer
    assert decode.heard(row, RIGHT, False, FORM).fault == "layout"
    assert decode.heard(row, "…", True, FORM).fault == "no_reason"


def test_rollouts_of_given_verdicts_are_rewarded_for_their_reasons(loaded, base: Path):
    model, coder = loaded
    rollouts = grpo.Rollouts([example()], coder, FORM, grpo.Recipe(base=str(base), most_tokens=6))
    accelerator = SimpleNamespace(unwrap_model=lambda m: m)
    state = SimpleNamespace(global_step=0)
    trainer = SimpleNamespace(model=model, accelerator=accelerator, state=state)
    replaced = replace(example(), view="0a1b2c3d")
    rollouts.examples = [replaced]
    made = rollouts(["0", "0"], trainer)
    assert made["prompt_ids"][0] == grpo.question_ids(replaced, coder, FORM)
    ids = [*coder.ids([(RIGHT, False)]), coder.control[END]]
    assert rollouts.reward(["0", "0"], [ids, ids[:-1]]) == [1.0, 0.0]
    shares = rollouts.shares()
    assert shares.pop("words") > 0
    assert shares == {"parsed": 0.5, "quotes": 0.5, "rule": 0.5}


RULES = {
    "Biscuits": ("Speaks of biscuits. Crumbs are fine.", "biscuits"),
    "Kites": ("Speaks of kites. Strings are fine.", "kites"),
    "Drums": ("Speaks of drums. Sticks are fine.", "drums"),
    "Boats": ("Speaks of boats. Oars are fine.", "boats"),
}


def write_clubs(folder: Path, names: list[str]) -> Path:
    """Clubs whose texts have reasons, one in each that misquotes."""
    folder.mkdir(parents=True)
    with gzip.open(folder / "clubs.jsonl.gz", "wt", encoding="utf-8") as stream:

        def put(**row) -> None:
            stream.write(json.dumps(row) + "\n")

        for name in names:
            rules = {rule: {"definition": about} for rule, (about, _) in RULES.items()}
            put(policy=name, kind="prompt", about="A club.", categories=rules)
            for n in range(3):
                for rule, (_, word) in RULES.items():
                    reason = f"A talk of “about {word}” is a thing that nobody wants at the club."
                    put(policy=name, text=f"tell {n} about {word}", category=rule, reason=reason)
                calm = "The path is asked for, and neither a boat nor a drum is in it."
                put(policy=name, text=f"the path is {n}", category=None, reason=calm)
            wrong = "A talk of “all about kites” is a thing that nobody wants at the club."
            put(policy=name, text="more about kites", category="Kites", reason=wrong)
    return folder


def test_a_broken_rule_is_shown_alone_and_a_safe_text_under_all(tmp_path: Path):
    pools = read_organisations([write_clubs(tmp_path / "clubs", named("train", 6))])
    faults: Counter[str] = Counter()
    groups = list(draw(pools, 2, seed=0, faults=faults))
    count = Counter(e.id for group in groups for e in group)
    # One text in sixteen misquotes.
    assert (len(count), set(count.values())) == (6 * 15, {2})
    assert faults["quotes"] == 2 * 6
    for group in groups:
        assert len({e.policy for e in group}) == 1
        if group[0].category is None:
            assert {rule.name for rule in group[0].policy} == set(RULES)
        else:
            assert {(e.category,) for e in group} == {tuple(r.name for r in group[0].policy)}
    orders = [tuple(g[0].policy) for g in groups if g[0].category is None]
    assert len(set(orders)) > 6
    assert groups == list(draw(pools, 2, seed=0))
    assert groups != list(draw(pools, 2, seed=1))


def test_a_reason_that_names_a_rule_not_shown_is_not_taught(tmp_path: Path):
    (pool,) = read_organisations([write_clubs(tmp_path / "clubs", named("train", 1))])
    (case, *others) = pool.unsafe["Kites"]
    named_other = replace(case, reason="A talk of “about kites” is no talk of drums, nor of boats.")
    pool.unsafe["Kites"] = [named_other, *others]
    faults: Counter[str] = Counter()
    taught = {e.id for group in draw([pool], 1, seed=0, faults=faults) for e in group}
    assert f"{case.source}/{case.id}" not in taught
    assert faults["another rule's name"] == 1


def test_what_is_taught_passes_the_checks_and_leaves_tests_alone(tmp_path: Path):
    names = [*named("train", 3), *named("dev", 1), *named("test", 2)]
    clubs = write_clubs(tmp_path / "clubs", names)
    older = [replace(example(), view=f"old{n}", given=False) for n in range(90)]
    (tmp_path / "older").mkdir()
    write_examples(tmp_path / "older" / sft.EXAMPLES, [[one] for one in older])
    report = prepare([clubs], tmp_path / "out", Settings(), tmp_path / "older")
    made = read_examples(tmp_path / "out" / sft.EXAMPLES)
    own = [e for e in made if e.given]
    assert len(own) == 2 * 3 * 15
    assert len(made) - len(own) == report[sft.EXAMPLES]["replayed"] == 45
    assert report[sft.EXAMPLES]["faults"] == {
        "another rule's name": 0,
        "length": 0,
        "malformed": 0,
        "quotes": 6,
    }
    parts = {part_of(e.taxonomy.removeprefix("organisations/")) for e in own}
    assert parts == {"train"}
    held = read_examples(tmp_path / "out" / sft.HELD_OUT)
    assert {part_of(e.taxonomy.removeprefix("organisations/")) for e in held} == {"dev"}
    assert all(check(e.reason, e).sound for e in own + held)
    command = ["train", "reasoner-reasons", "--policies", str(clubs), "--out", str(tmp_path / "x")]
    assert main([*command, "--replayed", "1"]) == 1
    assert main([*command, "--passes", "1"]) == 0


def test_training_goes_on_from_an_adapter_and_keeps_the_best(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data"
    data.mkdir()
    rows = [replace(example(), id=f"club-{n}") for n in range(24)]
    write_examples(data / sft.EXAMPLES, [rows])
    write_examples(data / sft.HELD_OUT, [rows[:2]])
    fields = {"batch_tokens": 2048, "tree_tokens": 2048, "lr": 1e-2, "check_every": 1, "rank": 4}
    recipe = sft.Recipe(base=str(base), epochs=4, steps=4, **fields)
    first = sft.train(data, tmp_path / "first", recipe)
    # It learnt something else, which the second goes on from.
    report_file = tmp_path / "first/report.json"
    report_file.write_text(json.dumps(first | {"taxonomies": ["older"]}))
    start = json.loads((tmp_path / "first/metrics.jsonl").read_text().splitlines()[-1])
    losses = iter([3.0, 1.0, 2.0, 2.5])
    kept: list[int] = []
    save = models.save_adapter
    monkeypatch.setattr(sft, "held_out_loss", lambda *_: next(losses))
    monkeypatch.setattr(models, "save_adapter", lambda *a, **k: (kept.append(1), save(*a, **k))[1])
    more = replace(recipe, init=str(tmp_path / "first"), rank=16)
    second = sft.train(data, tmp_path / "second", more)
    went_on = json.loads((tmp_path / "second/metrics.jsonl").read_text().splitlines()[0])
    assert went_on["loss"] == pytest.approx(start["held_out"], rel=0.2)
    assert (second["best"], len(kept)) == (2, 2)
    assert second["recipe"]["init"] == "first"
    assert second["taxonomies"] == ["club", "older"]
    # Its rank is the first one's.
    assert second["trainable"] == first["trainable"]
    assert first["best"] == 4
    for made in (tmp_path / "second", tmp_path / "second/adapter"):
        assert evaluate._trained(made, make_library()) == {"club", "older"}
    # Of what its start was trained on nothing is said: then all may have been.
    report_file.unlink()
    assert models.taught_by(["club"], more.init) is None
    assert evaluate._trained(tmp_path / "first", make_library()) == {"manners"}
    with pytest.raises(models.AdapterError, match="no adapter_config"):
        sft.train(data, tmp_path / "third", replace(recipe, init=str(data)))


def test_of_reasons_that_it_writes_itself_the_sound_ones_are_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [replace(example(reason=""), id=f"club-{n}", given=False) for n in range(3)]
    write_examples(tmp_path / "rows.jsonl.gz", [rows])
    cold = tmp_path / "cold"
    (tmp_path / "data").mkdir()
    write_examples(tmp_path / "data" / sft.EXAMPLES, [[example()]])
    sft.train(tmp_path / "data", cold, sft.Recipe(base=str(base), steps=1, tree_tokens=2048))
    said = {"club-0": RIGHT, "club-1": "An offer: “two biscuits”.", "club-2": RIGHT}

    def write(_model, _coder, _form, members, *_):
        assert all(one.given for one in members)
        return [(said[one.id], one.id != "club-2") for one in members]

    monkeypatch.setattr(decode, "write", write)
    found = self_explained(
        tmp_path / "rows.jsonl.gz", cold, tmp_path / "own.jsonl.gz", 9, str(base), given=True
    )
    assert found == {"tried": 3, "kept": 1}
    (kept,) = read_examples(tmp_path / "own.jsonl.gz")
    assert (kept.id, kept.reason, kept.given) == ("club-0", RIGHT, True)


def test_what_it_is_to_write_of_is_drawn_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [[replace(example(), id=f"{v}-{n}", view=f"v{v}") for n in range(9)] for v in range(10)]
    write_examples(tmp_path / "rows.jsonl.gz", rows)
    monkeypatch.setattr(writers, "load_reasoner", lambda *_: (None, None))
    monkeypatch.setattr(writers, "form_of", lambda _: FORM)
    asked: set[str] = set()

    def write(_model, _coder, _form, members, *_):
        asked.update(one.id for one in members)
        return [("", False)] * len(members)

    monkeypatch.setattr(decode, "write", write)

    def drawn(seed: int) -> set[str]:
        asked.clear()
        out = tmp_path / "own.jsonl.gz"
        found = self_explained(tmp_path / "rows.jsonl.gz", tmp_path, out, 20, "base", seed)
        assert found == {"tried": 20, "kept": 0}
        return set(asked)

    assert drawn(0) == drawn(0) != drawn(1)
    assert len({name.partition("-")[0] for name in drawn(0)}) > 5


def test_figures_are_of_what_was_written_and_a_reading_keeps_ids_alone(tmp_path: Path):
    rows = [
        example(id="club-1"),
        example(None, id="club-2"),
        example(id="club-3"),
        example("Kites", id="club-4"),
    ]
    said = [
        Worded(RIGHT, "ok", 10.0),
        Worded("Nothing here is of a drum or of a kite, so nothing is wrong.", "ok", 20.0),
        Worded(None, "unfinished", 30.0),
        Worded("It says “two cakes” and this is all about biscuits, the word.", "ok", 40.0),
    ]
    found = worded.measure(rows, said)
    assert found["statuses"] == {"ok": 3, "unfinished": 1}
    assert (found["n"], found["unsafe"], found["written"]) == (4, 3, 0.75)
    assert (found["quoted"], found["stand"]) == (0.6667, 0.5)
    assert (found["own"], found["foreign"], found["sound"]) == (0.5, 0.3333, 0.5)
    assert found["ms"]["p50"] == 25
    assert worded.by_hand(rows)["n"] == 4
    ids, lines = worded.draw(rows, said, "one", 4, 0)
    assert sorted(ids.values()) == ["club-1", "club-2", "club-3", "club-4"]
    assert {ids[line["id"]] for line in lines} == {"club-1", "club-2", "club-4"}
    sheet = tmp_path / "sheet.jsonl"
    worded.add_to_sheet(sheet, lines, 0)
    others, more = worded.draw(rows, said, "two", 4, 0)
    assert list(others.values()) == list(ids.values())
    worded.add_to_sheet(sheet, more, 0)
    written = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert len(written) == 6
    assert "one" not in sheet.read_text().split('"')
    results = {"drawn": ids, "unwritten": [n for n, text in ids.items() if text == "club-3"]}
    with pytest.raises(ValueError, match="neither true nor false"):
        worded.read_judgements(sheet, results)
    for line in written:
        line["apt"] = "no" if ids.get(line["id"]) == "club-4" else True
    sheet.write_text("".join(json.dumps(line) + "\n" for line in written))
    reading = worded.read_judgements(sheet, results)
    assert reading == {
        "n": 4,
        "share": 0.5,
        "apt": ["club-1", "club-2"],
        "not": ["club-3", "club-4"],
    }
    sheet.write_text("nothing\n")
    with pytest.raises(ValueError, match="line 1"):
        worded.read_judgements(sheet, results)


def test_a_bundles_reasons_are_measured_read_and_shown(
    tiny_reasoner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    clubs = write_clubs(tmp_path / "clubs", [*named("dev", 1), *named("test", 1)])
    page = tmp_path / "page"
    page.mkdir()
    (page / "findings.md").write_text("It words.\n")
    figures = {"sets": {}, "means": {}, "about": {"mode": "scored", "most": 1, "date": "today"}}
    (page / "base.json").write_text(json.dumps(figures))
    out, sheet = page / "reasons-written.json", tmp_path / "sheet.jsonl"
    command = ["evaluate-reasons", "--json", str(out), "--policies", str(clubs)]
    served = [*command, "--served", str(tiny_reasoner), "--most", "2", "--sheet", str(sheet)]
    assert main([*served, "--count", "3"]) == 0
    results = json.loads(out.read_text())
    assert {group: f["n"] for group, f in results["groups"].items()} == {"dev": 4, "test": 4}
    assert results["by_hand"]["test"]["sound"] > 0.5
    assert len(results["drawn"]) == 3
    assert "path" not in out.read_text()
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    sheet.write_text("".join(json.dumps(line | {"apt": False}) + "\n" for line in lines))
    assert main([*command, "--read", str(sheet)]) == 0
    assert json.loads(out.read_text())["reading"]["share"] == 0
    said = render(page)
    assert "## Reasons of given verdicts" in said
    assert "0.0 of 3" in said
    assert "| *people* | never seen | 4 |" in said
    assert main(command) == 1
    assert "one of them is needed" in capsys.readouterr().err
