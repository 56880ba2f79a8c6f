import gzip
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tamis import rules
from tamis.content import prompt
from tamis.rules import PairShape
from tests.conftest import row, write_rows
from tests.training.reasoner_world import make_library, make_rows
from tests.training.rules_world import named, write_clubs
from training.datasets import readings
from training.datasets.readings import Reading
from training.datasets.schema import SchemaError
from training.reasoner.cases import Pool, read_sourced
from training.reasoner.policies import Category
from training.rules import drawing, organisations
from training.rules.banks import Bank, banks_of
from training.rules.batching import batches
from training.rules.data import Data, genuine
from training.rules.drawing import SHARES, Item, Mixture, draw, words
from training.rules.organisations import name_of, part_of, read_organisations
from training.rules.trials import trials
from training.rules.wording import swapped, worded

SHAPE = PairShape(cls=1, sep=2, max_tokens=256)


def letters(text: str) -> list[int]:
    return [100 + ord(letter) for letter in text[:40]]


@pytest.fixture(scope="module")
def clubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = [(n, "prompt") for n in named("train", 2)] + [(named("dev", 1)[0], "response")]
    return write_clubs(tmp_path_factory.mktemp("clubs"), [*chosen, (named("test", 1)[0], "text")])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    read = [
        row(n, "hh_annotated", "prompt", int(bool(n % 3)), f"read {n}", severity=2 * bool(n % 3),
            categories=[[], ["hate"], ["hate", "violence"]][n % 3])
        for n in range(90)
    ]  # fmt: skip
    read += [
        row(900, "hh_annotated", "prompt", 0, "borderline", severity=1, categories=["hate"]),
        row(901, "hh_annotated", "prompt", 1, "anders", severity=2, categories=["hate"], lang="de"),
        row(902, "hh_annotated", "prompt", 0, "calm", severity=0, replaces="sap200-0"),
        row(903, "hh_annotated", "prompt", 1, "long " * 300, severity=2, categories=["hate"]),
    ]
    write_rows(folder / "rows.jsonl.gz", [*make_rows(), *read])
    return folder


@pytest.fixture(scope="module")
def data(rows: Path, clubs: Path) -> Data:
    return Data.read([rows], [clubs], "permissive", 0, make_library())


def bank_of(data: Data, name: str, held_out: bool = False) -> Bank:
    banks = data.held_out if held_out else data.train
    return next(bank for bank in banks if bank.pool.taxonomy.name == name)


def test_organisations_are_split_whole_and_keep_their_side():
    names = [f"club-{n}" for n in range(2000)]
    shares = [sum(part_of(n) == part for n in names) / 2000 for part in ("test", "dev", "train")]
    assert shares == pytest.approx([0.2, 0.12, 0.68], abs=0.03)
    assert part_of("tallow-bank") == "train"


def test_what_was_written_for_training_never_tests(tmp_path: Path):
    policy = {"policy": "ours/kites", "kind": "text", "categories": {"c": {"definition": "d"}}}
    rows = [{"policy": "ours/kites", "text": f"text {n}", "category": "c"} for n in range(3)]
    lines = "\n".join(json.dumps(one) for one in (policy, *rows))
    (tmp_path / "some.jsonl").write_text(lines)
    (pool,) = read_organisations([tmp_path])
    assert [case.content.text for case in pool.unsafe["c"]] == ["text 0", "text 1", "text 2"]
    assert {part_of(f"ours/{n}") for n in range(200)} == {"train", "dev"}
    written = read_organisations([Path(organisations.__file__).parent / "written"])
    assert len(written) > 300
    assert "test" not in {part_of(name_of(pool)) for pool in written}


def test_a_text_of_an_organisation_is_judged_as_its_kind(clubs: Path):
    found = read_organisations([clubs])
    by_part = {part_of(name_of(pool)): pool for pool in found}

    def first(pool: Pool):
        return pool.unsafe["Kites"][0].content

    assert (first(by_part["train"]).question, first(by_part["test"]).question) == (
        "prompt",
        "toxicity",
    )
    answer = first(by_part["dev"])
    assert (answer.question, answer.context) == ("response", "what is it like")
    assert sum(map(len, by_part["dev"].unsafe.values())) == 24
    assert len(by_part["dev"].safe["organisations"]) == 24


def test_organisations_of_plain_and_of_packed_lines_are_read_together(tmp_path: Path):
    folder = write_clubs(tmp_path, [("packed", "prompt")])
    own = [{"policy": "own", "kind": "text", "categories": {"c": {"definition": "d"}}}]
    own += [{"policy": "own", "text": "text", "category": "c"}]
    (folder / "mine.jsonl").write_text("\n".join(json.dumps(one) for one in own))
    found = {name_of(pool): pool for pool in read_organisations([folder])}
    assert set(found) == {"own", "packed"}
    assert found["packed"].size == 24
    # Of one name there would be one policy, with the texts of both or of either.
    (folder / "copy.jsonl").write_text(json.dumps(own[0]))
    with pytest.raises(SchemaError, match=r"mine.jsonl line 1: policy 'own' comes twice"):
        read_organisations([folder])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        read_organisations([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ('{"policy": "none", "text": "x", "category": null}', "line 2: .* 'none' is missing"),
        ('{"policy": "a", "text": "x"}', "line 2: .* 'category' is missing"),
        ('{"policy": "a", "text": "x", "category": "b"}', "line 2: .* 'b' is missing"),
        ('{"policy": "b", "kind": "song", "categories": {}}', "line 2: field 'kind'"),
        (
            '{"policy": "b", "kind": "text", "categories": {"c": {}}}',
            "line 2: .* 'definition' is missing",
        ),
        ('{"policy": "b", "kind": "text", "categories": ["c"]}', "line 2: neither"),
        ("[1]", "line 2: neither"),
    ],
)
def test_what_is_no_organisation_is_named(tmp_path: Path, line: str, said: str):
    policy = {"policy": "a", "kind": "text", "categories": {"c": {"definition": "d"}}}
    with gzip.open(tmp_path / "o.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(policy) + "\n" + line + "\n")
    with pytest.raises(SchemaError, match=said):
        read_organisations([tmp_path])


def test_what_is_not_known_of_a_rule_is_no_label(data: Data):
    manners = bank_of(data, "manners")
    cheat, push = (manners.pool.unsafe[key][0] for key in ("fraud", "violence"))
    assert [manners.label(cheat, key) for key in ("fraud", "race", "violence")] == [1, 0, 0]
    # Who pushes may well be rude.
    assert [manners.label(push, key) for key in ("fraud", "race", "violence")] == [0, None, 1]


def test_of_a_row_that_was_read_every_rule_is_known(data: Data):
    annotated = bank_of(data, "annotated/prompt")
    both = next(c for c in annotated.pool.unsafe["violence"] if c.also)
    assert annotated.label(both, "hate") == annotated.label(both, "violence") == 1
    assert annotated.label(both, "cyber") == 0
    assert "toxicity" not in annotated.pool.taxonomy.categories
    (safe,) = annotated.pool.safe.values()
    assert annotated.label(safe[0], "hate") == 0


def test_borderline_foreign_and_long_rows_and_those_that_were_read_anew_are_left_out(data: Data):
    known = [c for bank in data.train + data.held_out for p in (bank.pool.unsafe, bank.pool.safe)
             for cases in p.values() for c in cases]  # fmt: skip
    texts = {case.content.text for case in known}
    assert not texts & {"borderline", "anders", "long " * 300}
    assert "sap200-0" not in {case.id for case in known if case.source == "sap200"}
    assert {"sap200-1", "sap200-2"} <= {case.id for case in known}


def test_what_was_read_outranks_the_label_that_a_bank_was_given(
    rows: Path, monkeypatch: pytest.MonkeyPatch
):
    read = {
        "sap200-1": Reading(0, (), None, False),
        "sap200-2": Reading(2, ("illicit",), None, False),
        "sap200-3": Reading(1, ("illicit",), None, False),
        "llm_warden_train-1": Reading(2, ("illicit",), None, False),
    }
    monkeypatch.setattr(readings, "readings", lambda: read)
    sourced = [s for s in read_sourced([rows], "permissive") if s.row.id in read]
    banks = [b for held in (False, True) for b in banks_of(sourced, [], make_library(), held, 0)]

    def ids(kind: str, piles: str) -> set[tuple[str, str]]:
        found = [getattr(b.pool, piles) for b in banks if b.kind == kind]
        return {(c.id, key) for p in found for key, cases in p.items() for c in cases}

    assert ids("annotated", "unsafe") == {
        ("sap200-2", "illicit"),
        ("llm_warden_train-1", "illicit"),
    }
    assert ids("annotated", "safe") == {("sap200-1", "annotated")}
    # A taxonomy keeps a row whose label was confirmed, under its own category.
    assert ids("taxonomies", "unsafe") == {("sap200-2", "fraud")}
    assert not ids("taxonomies", "safe")


@pytest.mark.parametrize("part", ["train", "dev"])
def test_texts_that_no_body_tells_apart_are_left_out(tmp_path: Path, part: str):
    (name,) = named(part, 1)
    policy = {"policy": name, "kind": "response", "categories": {"c": {"definition": "d"}}}
    said = [
        ("I love this 🍪", "c", "a?"),
        ("I love this! 🎈", None, "a?"),
        ("I love this 🎈", None, "b?"),
        ("🍪", "c", "a?"),
        ("🎈", None, "a?"),
        ("I love cookies 🍪", "c", "a?"),
    ]
    rows = [{"policy": name, "text": text, "category": c, "to": to} for text, c, to in said]
    lines = "\n".join(json.dumps(one) for one in (policy, *rows))
    (tmp_path / "some.jsonl").write_text(lines)
    pools = read_organisations([tmp_path])
    banks = banks_of([], pools, make_library(), part == "dev", 0)
    (pool,) = [bank.pool for bank in banks if bank.kind == "organisations"]
    assert [c.content.text for c in pool.unsafe["c"]] == ["I love cookies 🍪"]
    assert [c.content.context for c in pool.safe["organisations"]] == ["b?"]


def test_nothing_of_what_is_held_out_is_trained_on(data: Data):
    def cases(banks: list[Bank]) -> set[str]:
        return {
            f"{case.source}/{case.id}"
            for bank in banks
            for piles in (bank.pool.unsafe, bank.pool.safe)
            for pile in piles.values()
            for case in pile
            if bank.kind != "invented"
        }

    assert cases(data.held_out)
    assert not cases(data.train) & cases(data.held_out)
    names = {bank.pool.taxonomy.name for bank in data.train + data.held_out}
    # A taxonomy and an organisation that are kept for tests.
    assert "biscuits" not in names
    assert not names & {f"organisations/{name}" for name in data.organisations["test"]}
    assert "test" not in data.report()["organisations"]
    kinds = {bank.kind for bank in genuine(data.held_out)}
    assert kinds == {"organisations", "annotated", "taxonomies"}


def test_the_same_seed_draws_the_same_texts_and_another_others(data: Data):
    def drawn(seed: int) -> list[Item]:
        return list(islice(draw(Mixture(data.train), seed), 200))

    assert drawn(0) == drawn(0) != drawn(1)


def test_a_text_stands_beside_what_it_breaks_and_what_it_does_not(data: Data):
    items = list(islice(draw(Mixture(data.train), 0), 2000))
    clubs = [item for item in items if item.policy.startswith("organisations")]
    assert len(clubs) / len(items) == pytest.approx(SHARES["organisations"], abs=0.05)
    for item in items:
        assert len(item.rules) == len(item.labels) <= 7
        assert set(item.labels) <= {0.0, 1.0}
    broken = [item for item in clubs if 1.0 in item.labels]
    assert len(broken) / len(clubs) == pytest.approx(0.55, abs=0.08)
    for item in broken:
        for rule, label in zip(item.rules, item.labels, strict=True):
            if rule.definition:
                assert (rule.definition.split()[2].rstrip(".") in item.content.text) == label
    defined = np.mean([rule.definition is not None for item in clubs for rule in item.rules])
    assert defined == pytest.approx(0.88, abs=0.05)
    # A rule of somebody else's, of which the text does not speak.
    strange = [(item, rule) for item in clubs if 1.0 not in item.labels for rule in item.rules[3:]]
    assert strange
    for item, rule in strange:
        assert not words(item.content.text) & words(f"{rule.name} {rule.definition or ''}")


def test_the_rule_in_whose_words_a_text_speaks_stands_beside_it(
    data: Data, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(drawing, "BESIDE", 1)
    club = bank_of(data, f"organisations/{data.organisations['train'][0]}")
    drawn = islice(draw(Mixture([replace(club, pool=_defined(club.pool))]), 0), 300)
    beside = [
        item.rules[0].definition.split()[2]
        for item in drawn
        if "crumbs" in item.content.text and item.rules[0].definition
    ]
    assert beside
    assert set(beside) <= {"biscuits.", "kites."}


def _defined(pool: Pool) -> Pool:
    """With calm texts that speak in the words of two rules' exceptions."""
    (calm,) = pool.safe.values()
    near = [replace(c, content=prompt(f"crumbs and strings, {c.id}")) for c in calm]
    return replace(pool, safe={"organisations": tuple(near)})


def test_a_rule_is_written_in_many_ways_and_its_definition_stays(data: Data):
    rule = Category("c", ("Loud Drums", "Noise"), "Speaks of drums.")
    rng = np.random.default_rng(0)
    found = [worded(rule, True, rng) for _ in range(400)]
    assert {guideline.definition for guideline in found} == {"Speaks of drums."}
    names = {guideline.name for guideline in found}
    assert {"Loud Drums", "Noise", "loud_drums", "loud drums"} <= names
    assert any(any(c.isdigit() for c in name) for name in names)
    # Without a definition the name is all there is: it is never a number.
    bare = {worded(rule, False, rng).name.lower().replace("_", " ") for _ in range(400)}
    assert bare == {"loud drums", "noise"}
    other = Category("d", ("Kites",), "Speaks of kites.")
    assert swapped(other, rule) == ("Kites", "Speaks of drums.")


def test_batches_keep_the_pairs_of_a_text_together_and_to_their_size(data: Data):
    found = list(islice(batches(data.train, letters, SHAPE, 1500, 0), 30))
    again = list(islice(batches(data.train, letters, SHAPE, 1500, 0), 30))
    for batch, other in zip(found, again, strict=True):
        height, width = batch.feed["input_ids"].shape
        assert height == len(batch.labels) == len(batch.texts)
        assert height * width <= 1500 or len(set(batch.texts)) == 1
        assert width % 16 == 0
        np.testing.assert_array_equal(batch.feed["input_ids"], other.feed["input_ids"])
        assert set(batch.feed) == set(rules.INPUTS)


def test_trials_show_whole_policies_and_no_text_twice(data: Data):
    found = trials(data.held_out, 5, defined=True, seed=0)
    of_club = [trial for trial in found if trial.written]
    assert {len(trial.rules) for trial in of_club} == {3}
    assert sum(bool(trial.broken) for trial in of_club) == 5
    assert len(of_club) == 10
    assert of_club[0].question == "response"
    texts = [trial.content for trial in found if trial.policy == "annotated/prompt"]
    assert len(set(texts)) == len(texts)
    bare = trials(data.held_out, 5, defined=False, seed=0)
    assert all(rule.definition is None for trial in bare for rule in trial.rules)
