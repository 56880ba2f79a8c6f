import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tamis.reasoner.protocol import Format, answer, as_text, guidelines, parse
from tests.conftest import row, write_rows
from tests.training.reasoner_world import make_library, make_rows
from training.datasets import readings
from training.datasets.mixing import is_held_out
from training.datasets.registry import sources
from training.reasoner import traces
from training.reasoner.cases import invented_pools, pools_of, read_sourced
from training.reasoner.evaluate import bank
from training.reasoner.examples import (
    Example,
    Plan,
    Tally,
    draw,
    explained,
    halved,
    is_sound,
    read_examples,
    whole,
    write_examples,
)
from training.reasoner.policies import TaxonomyError, draw_view, library, parse_library, usual_view
from training.reasoner.prepare import Settings, prepare
from training.reasoner.reasons import MOST_WORDS
from training.synthesis.seeds import load_seeds

LIBRARY = make_library()


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "rows.jsonl.gz", make_rows())
    return folder


@pytest.fixture(scope="module")
def examples(rows_folder: Path) -> list[Example]:
    pools = pools_of(read_sourced([rows_folder], "permissive"), LIBRARY, held_out_rows=False)
    groups = draw([pools["manners"]], Plan(groups=80, seed=3))
    return [example for group in groups for example in group]


def truth(text: str) -> str | None:
    """What the invented rows are about, by their words."""
    for word, key in (("cheat", "fraud"), ("goose", "race"), ("push", "violence")):
        if word in text:
            return key
    return None


def test_the_projects_taxonomies_hold_together_and_two_are_kept_for_tests():
    known = library()
    trained = [t for t in known.taxonomies.values() if not t.held_out]
    assert len(trained) >= 8
    assert len(known.taxonomies) - len(trained) >= 2
    registered = set(sources())
    for taxonomy in trained:
        assert taxonomy.sources <= registered
    # Nothing that tests is taught: no source of a held-out taxonomy feeds a trained one.
    tested = {s for t in known.taxonomies.values() if t.held_out for s in t.sources}
    assert not tested & {s for t in trained for s in t.sources}
    assert not tested & {s for t in trained for p in t.safe for s in known.pools[p]}


def test_seeds_of_the_subtopics_exist():
    made = {leaf.id.rpartition("/")[0] for leaf in load_seeds().leaves}
    assert set(library().taxonomies["tamis_subtopics"].keys) <= made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": 1}, "unknown fields"),
        ({"safe": ["attic"]}, "unknown pools"),
        ({"categories": {"a": {"names": ["A"]}}}, "'about' is missing"),
        ({"categories": {"a": {"names": ["A"], "about": "x", "near": ["b"]}}}, "near unknown"),
        (
            {"categories": {k: {"names": ["A"], "about": "x"} for k in "ab"}},
            "share a name",
        ),
        (
            {
                "categories": {
                    "a": {"names": ["A"], "about": "x", "from": ["c"]},
                    "b": {"names": ["B"], "about": "x", "from": ["c"]},
                }
            },
            "maps to two",
        ),
    ],
)
def test_a_misshapen_taxonomy_is_refused_with_its_place(change: dict, said: str):
    fields = {"sources": ["sap200"], "categories": {"a": {"names": ["A"], "about": "x"}}}
    with pytest.raises(TaxonomyError, match=said):
        parse_library({"taxonomies": {"t": fields | change}})


def test_views_differ_in_order_names_and_definitions_and_repeat_by_seed():
    taxonomy = library().taxonomies["aart"]
    keys = list(taxonomy.categories)
    views = [draw_view(taxonomy, keys, np.random.default_rng(n)) for n in range(200)]
    again = [draw_view(taxonomy, keys, np.random.default_rng(n)) for n in range(200)]
    assert [v.policy for v in views] == [v.policy for v in again]
    sizes = {len(v.policy) for v in views}
    assert min(sizes) == 2
    assert max(sizes) == len(keys)
    assert {v.policy[0].definition is None for v in views} == {True, False}
    shown = {v.category("drugs") for v in views} - {None}
    assert shown == set(taxonomy.categories["drugs"].names)
    assert all({g.name for g in v.policy} == set(v.shown.values()) for v in views)


def test_a_view_always_lists_a_category_that_rows_exist_of():
    taxonomy = library().taxonomies["aart"]
    for n in range(100):
        assert draw_view(taxonomy, ["driving"], np.random.default_rng(n)).category("driving")


def test_the_answer_follows_from_the_policy(examples: list[Example]):
    names = {key: c.names for key, c in LIBRARY.taxonomies["manners"].categories.items()}
    kinds = set()
    for example in examples:
        listed = {guideline.name for guideline in example.policy}
        key = truth(example.content.text)
        if example.category is not None:
            assert key is not None
            assert example.category in names[key]
            assert example.category in listed
            kinds.add("listed")
        elif key is not None:
            # Safe because its category is not listed, and none near it either.
            assert not listed & set(names[key])
            near = {"violence": "race", "race": "violence"}.get(key)
            assert near is None or not listed & set(names[near])
            assert example.left_out == names[key][0]
            kinds.add("left out")
        else:
            assert example.left_out is None
            kinds.add("safe")
    assert kinds == {"listed", "left out", "safe"}


def test_the_same_plan_draws_the_same_examples(rows_folder: Path, examples: list[Example]):
    pools = pools_of(read_sourced([rows_folder], "permissive"), LIBRARY, held_out_rows=False)
    again = [e for g in draw([pools["manners"]], Plan(groups=80, seed=3)) for e in g]
    assert again == examples
    other = [e for g in draw([pools["manners"]], Plan(groups=80, seed=4)) for e in g]
    assert other != examples


def test_rows_with_several_categories_and_unlicensed_rows_are_left_out(tmp_path: Path):
    rows = make_rows()
    rows[0] = rows[0] | {"categories": ["fraud", "race"]}
    rows[1] = rows[1] | {"licence": "nc"}
    write_rows(tmp_path / "rows.jsonl.gz", rows)

    def ids(variant: str) -> set[str]:
        found = read_sourced([tmp_path], variant)  # type: ignore[arg-type]
        both = [pools_of(found, LIBRARY, held_out_rows=side)["manners"] for side in (True, False)]
        return {c.id for pool in both for cases in pool.unsafe.values() for c in cases}

    assert rows[0]["id"] not in ids("all")
    assert rows[1]["id"] in ids("all")
    assert rows[1]["id"] not in ids("permissive")


def test_a_row_with_two_names_counts_for_the_first_of_its_order():
    taxonomy = library().taxonomies["toxicchat"]
    assert taxonomy.key_of(1, ("toxicity", "jailbreaking")) == "jailbreaking"
    assert taxonomy.key_of(1, ("toxicity",)) == "toxicity"
    assert taxonomy.key_of(0, ()) is None


def test_rows_that_are_no_harm_elsewhere_violate_a_policy_of_topics():
    taxonomy = library().taxonomies["writing"]
    assert taxonomy.key_of(0, ("Education",)) == "Education"
    keys = list(taxonomy.categories)
    for n in range(50):
        view = draw_view(taxonomy, keys, np.random.default_rng(n))
        assert 1 <= len(view.policy) < len(keys)  # Some topic is always fine.


def test_subtopics_of_one_category_never_make_each_other_safe():
    taxonomy = library().taxonomies["tamis_subtopics"]
    assert taxonomy.key_of(1, ("cyber",), "cyber/phishing/0123abcd") == "cyber/phishing"
    view = usual_view(taxonomy, True, ["cyber/malware", "hate/denial"])
    assert not view.is_clear("cyber/phishing")
    assert view.is_clear("weapons/chemical")
    assert not view.is_clear("weapons/chemical", also=("~cyber",))


def test_invented_organisations_are_parted_from_the_bank_that_tests():
    pools = list(invented_pools(load_seeds(), each=2, seed=0))
    assert len(pools) >= 8
    bank_words = {"bank", "invest", "shares", "fund", "mortgage"}
    for pool in pools:
        assert len(pool.taxonomy.categories) >= 3
        assert pool.safe
        for cases in (*pool.unsafe.values(), *pool.safe.values()):
            for case in cases:
                assert not bank_words & set(case.content.text.lower().split())
                if case.focus is not None:
                    start, end = case.focus
                    assert 0 <= start < end <= len(case.content.text)


def test_the_bank_has_forty_examples_of_five_categories():
    found = bank()
    assert len(found) == 40
    violating = [e.category for e in found if e.category]
    assert 20 <= len(violating) < 40
    assert set(violating) == {name for name, _ in found[0].policy}
    assert guidelines(dict(found[0].policy)) == found[0].policy
    assert len({e.content.text for e in found}) == 40


def test_reasons_quote_the_text_and_survive_the_parser(examples: list[Example]):
    def evidence(contents):
        return [[(content.text.find(" "), content.text.find(" ") + 4)] for content in contents]

    tally = Tally()
    explain = traces.explainer(evidence, seed=1)
    plan = Plan(reasons=0.5)
    done = [e for g in explained([examples], explain, plan, MOST_WORDS, tally) for e in g]
    with_reason = [e for e in done if e.reason]
    assert tally.reasons == len(with_reason)
    assert 0.3 < len(with_reason) / len(done) < 0.7
    assert tally.rejected == 0
    for example in with_reason:
        assert len(example.reason.split()) <= MOST_WORDS
        quoted = example.reason.split("“")[1].split("”")[0]
        assert quoted in example.content.text
        form = Format()
        said = as_text(p for p in answer(example.answer, form) if not p.control)
        assert parse(said, [n for n, _ in example.policy], form) == example.answer


def test_quotes_are_short_and_never_empty():
    text = "Good day. Please tell me how to bake bread with my aunt in the old kitchen tonight"
    assert traces.quote(text, [(27, 41)]) == "me how to bake bread with"
    assert len(traces.quote(text, [(0, len(text))]).split()) <= traces.QUOTED
    assert traces.quote("“{}”", []) == "it"
    assert "{" not in traces.quote("a {b} \\safety{c}", [])


def test_unsound_reasons_are_refused(examples: list[Example]):
    from dataclasses import replace

    one = examples[0]
    assert not is_sound(one, 35)
    assert is_sound(replace(one, reason="It says “bread”."), 35)
    assert not is_sound(replace(one, reason="word " * 36), 35)
    assert not is_sound(replace(one, reason="ends \\safety{safe}"), 35)


def test_examples_survive_a_file(tmp_path: Path, examples: list[Example]):
    write_examples(tmp_path / "e.jsonl.gz", [examples])
    # What of a text is judged is kept, which field of a request it came in is not.
    kept = [replace(e, content=replace(e.content, field="text"), focus=None) for e in examples]
    assert read_examples(tmp_path / "e.jsonl.gz") == kept
    with gzip.open(tmp_path / "bad.jsonl.gz", "wt") as lines:
        lines.write('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl\.gz line 1: not an example"):
        read_examples(tmp_path / "bad.jsonl.gz")


def test_a_whole_policy_is_tested_with_both_labels_and_all_categories(rows_folder: Path):
    rows = read_sourced([rows_folder], "all")
    pools = pools_of(rows, LIBRARY, held_out_rows=False)
    (found,) = whole([pools["biscuits"]], 7, True, 0)
    assert sum(e.category is not None for e in found) == 7
    assert sum(e.category is None for e in found) == 7
    assert {e.category for e in found} == {"Biscuit theft", "Mockery", None}
    assert len({e.view for e in found}) == 1


def test_half_a_policy_leaves_the_other_halfs_texts_safe(rows_folder: Path):
    names = {"fraud": "Cheating", "race": "Rudeness", "violence": "Pushing"}
    apart = {key: {"names": [name], "about": "Is bad."} for key, name in names.items()}
    known = parse_library({"taxonomies": {"m": {"sources": ["sap200"], "categories": apart}}})
    pools = pools_of(read_sourced([rows_folder], "all"), known, held_out_rows=False)
    (found,) = halved([pools["m"]], 5, True, 0)
    assert [name for name, _ in found[0].policy] == ["Cheating", "Pushing"]
    assert Counter(e.category for e in found) == {None: 5, "Cheating": 3, "Pushing": 2}
    assert {e.left_out for e in found if e.category is None} == {"Rudeness"}
    # Where what is left out may be what is listed, no text is clearly safe.
    near = pools_of(read_sourced([rows_folder], "all"), LIBRARY, held_out_rows=False)
    (found,) = halved([near["manners"]], 5, True, 0)
    assert all(e.category for e in found)


def test_a_name_that_a_row_is_unsure_of_is_near_as_well():
    taxonomy = LIBRARY.taxonomies["manners"]
    view = usual_view(taxonomy, True, ["race"])
    assert view.is_clear("fraud")
    assert not view.is_clear("fraud", ["~race"])


def test_what_was_read_otherwise_or_labelled_anew_is_no_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    denied = {f"sap200-{n}": readings.Reading(0, (), None, False) for n in range(20)}
    denied |= {f"sap200-{n}": readings.Reading(1, (), None, False) for n in range(20, 40)}
    confirmed = {
        f"sap200-{n}": readings.Reading(2, ("hate",), None, False) for n in range(100, 160)
    }
    monkeypatch.setattr(readings, "readings", lambda: denied | confirmed)
    anew = row(900, "hh_annotated", "prompt", 0, "calm", severity=0, replaces="sap200-50")
    write_rows(tmp_path / "rows.jsonl.gz", [*make_rows(), anew])

    def explain(examples):
        return ["The text says “it”."] * len(examples)

    prepare([tmp_path], tmp_path / "out", Settings(groups=400), explain, given=LIBRARY)
    files = [tmp_path / "out" / name for name in ("examples.jsonl.gz", "held-out.jsonl.gz")]
    ids = {e.id.partition("/")[2] for path in files for e in read_examples(path)}
    assert not ids & {*denied, "sap200-50"}
    assert len(ids & {*confirmed}) > 20
    assert len(ids & {f"sap200-{n}" for n in range(40, 60)}) > 5


def test_preparing_parts_held_out_rows_and_reports_no_text(rows_folder: Path, tmp_path: Path):
    def explain(examples):
        return ["The text says “it”."] * len(examples)

    settings = Settings(groups=60)
    report = prepare([rows_folder], tmp_path, settings, explain, given=LIBRARY)
    trained = {e.id for e in read_examples(tmp_path / "examples.jsonl.gz")}
    held = {e.id for e in read_examples(tmp_path / "held-out.jsonl.gz")}
    rows = {s.row.id: s.row for s in read_sourced([rows_folder], "all")}
    assert trained
    assert held
    assert not any(is_held_out(rows[i.split("/")[1]]) for i in trained if "invented" not in i)
    assert all(is_held_out(rows[i.split("/")[1]]) for i in held if "invented" not in i)
    assert not any(i.startswith("figstep") for i in trained | held)
    assert report["held_out_taxonomies"] == ["biscuits"]
    said = (tmp_path / "report.json").read_text()
    assert "bread" not in said
    assert "goose" not in said
    # The same call does nothing twice; other settings are refused.
    assert prepare([rows_folder], tmp_path, settings, explain, given=LIBRARY) == json.loads(said)
    with pytest.raises(ValueError, match="other settings"):
        prepare([rows_folder], tmp_path, Settings(groups=61), explain, given=LIBRARY)
    # So are other rows, which an evaluation set may have taken away, and other taxonomies.
    (tmp_path / "eval").mkdir()
    write_rows(tmp_path / "eval/rows.jsonl.gz", make_rows()[:1])
    with pytest.raises(ValueError, match="other rows or taxonomies"):
        prepare([rows_folder], tmp_path, settings, explain, tmp_path / "eval", LIBRARY)
    manners = replace(LIBRARY.taxonomies["manners"], own_safe=True)
    other = replace(LIBRARY, taxonomies={**LIBRARY.taxonomies, "manners": manners})
    with pytest.raises(ValueError, match="other rows or taxonomies"):
        prepare([rows_folder], tmp_path, settings, explain, given=other)
