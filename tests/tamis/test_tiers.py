"""What two opinions on one content come to."""

from dataclasses import replace
from pathlib import Path

import pytest

from tamis.bundle import BundleError
from tamis.deciding import decide
from tamis.policies.parsing import default_policy
from tamis.policy import CalibratedThresholds, Thresholds
from tamis.tiers import Band, Bands, Weighing, load_bands
from tamis.verdict import Evidence, Finding, Provenance, Second
from tests.service.tiers import write_bands

OWN = {name: Thresholds(0.3, 0.6) for name in ("prompt", "hate", "self-harm", "attack")}
THEIRS = {name: Thresholds(0.5, 0.9) for name in ("prompt", "hate", "attack")}
TOGETHER = Thresholds(0.4, 0.7)
FIRST = Finding("prompt", 0.4, {"hate": 0.1, "self-harm": 0.2}, 0.1, 1, 9)
SECOND = Finding("prompt", 0.8, {"hate": 0.7}, 0.0, 1, 9, second=Second("other", "1" * 64, THEIRS))
BANDS = Bands("0" * 64, "1" * 64, {}, frozenset({"self-harm"}))
ALONE = replace(BANDS, kept=frozenset())


def test_categories_are_of_the_bundle_that_tells_them_better():
    found = BANDS.settle(FIRST, SECOND, OWN)
    # Half of what the first one holds unsafe is self-harm, and the second one holds .8 unsafe.
    assert found.categories == {"hate": 0.7, "self-harm": 0.4}
    assert found.second is not None
    assert found.second.thresholds == THEIRS | {"self-harm": OWN["self-harm"]}
    assert found.second.cascade == BANDS.version
    assert replace(found, categories=SECOND.categories, second=SECOND.second) == SECOND


def test_a_second_opinion_stays_whole_where_nothing_is_kept_or_weighed():
    found = ALONE.settle(FIRST, SECOND, OWN)
    assert found.second is not None
    assert found.second.thresholds == THEIRS
    assert replace(found, second=SECOND.second) == SECOND
    # A post has no category of the prompt's, and an unread text none at all.
    found = BANDS.settle(replace(FIRST, categories={}), SECOND, OWN)
    assert replace(found, second=SECOND.second) == SECOND


def test_bands_have_a_version_by_all_that_they_say():
    weighed = {"prompt": Weighing(0.5, 0.5, 0.0, TOGETHER)}
    others = [
        replace(BANDS, fast="2" * 64),
        replace(BANDS, overall={"prompt": Band(0.2, 0.9)}),
        replace(BANDS, kept=frozenset()),
        replace(BANDS, weighed=weighed),
        replace(BANDS, weighed={"prompt": replace(weighed["prompt"], bias=0.1)}),
    ]
    assert len({BANDS.version, *(other.version for other in others)}) == 1 + len(others)
    many = [f"category {n}" for n in range(20)]
    one, other = (replace(BANDS, kept=frozenset(names)) for names in (many, reversed(many)))
    assert one.version == other.version


def test_where_the_first_one_is_sure_of_nothing_there_is_no_share():
    nothing = replace(FIRST, overall=0.0, categories={"self-harm": 0.0})
    assert BANDS.settle(nothing, SECOND, OWN).categories["self-harm"] == 0.0


def test_opinions_are_weighed_and_have_thresholds_of_their_own():
    halves = replace(BANDS, weighed={"prompt": Weighing(0.5, 0.5, 0.0, TOGETHER)})
    found = halves.settle(FIRST, SECOND, OWN)
    # The middle of logit(.4) and logit(.8) is that of odds sqrt(2/3 * 4).
    odds = (2 / 3 * 4) ** 0.5
    assert found.overall == pytest.approx(odds / (1 + odds))
    # What it is about stays what it was: the same shares of another whole.
    share = found.overall / SECOND.overall
    assert found.categories["hate"] == pytest.approx(0.7 * share)
    assert found.categories["self-harm"] == pytest.approx(0.5 * found.overall)
    assert found.attack == SECOND.attack
    assert found.second is not None
    assert found.second.thresholds["prompt"] == TOGETHER
    assert found.second.thresholds["attack"] == THEIRS["attack"]
    # Certainty has no logit, and none is lost for it.
    sure = halves.settle(replace(FIRST, overall=1.0), replace(SECOND, overall=0.0), OWN)
    assert sure.overall == pytest.approx(0.5)


def test_what_is_certain_by_rule_stays_so():
    low = {name: Weighing(0.2, 0.3, 0.0, TOGETHER) for name in ("attack", "document")}
    bands = replace(BANDS, weighed=low)
    hidden = Finding("attack", 1.0, {}, 1.0, 1, 9)
    found = bands.settle(hidden, replace(hidden, second=SECOND.second), OWN)
    assert (found.overall, found.attack) == (1.0, 1.0)


def test_documents_are_weighed_by_themselves_and_have_thresholds_of_their_own():
    weighed = {
        "attack": Weighing(0.5, 0.5, 0.0, Thresholds(0.6, 0.9)),
        "document": Weighing(0.0, 1.0, 0.0, TOGETHER),
    }
    bands = replace(BANDS, overall={"attack": Band(0.0, 1.0)}, weighed=weighed)
    first = Finding("attack", 0.1, {}, 0.1, 1, 9)
    second = replace(first, overall=0.5, attack=0.5, second=SECOND.second)
    assert bands.unsure(first)
    assert not bands.unsure(FIRST)
    found = bands.settle(first, second, OWN)
    assert (found.overall, found.attack) == (pytest.approx(0.5), pytest.approx(0.5))
    policy, who = default_policy(), Provenance("m", "f", "p", "v")
    verdict = decide([found], policy, OWN, who)
    (field,) = verdict.fields.values()
    assert (field.flagged, field.threshold) == (True, TOGETHER.flag)
    # Where time was short, the fast bundle's own limit for attacks is what there is.
    (field,) = decide([first], policy, OWN, who).fields.values()
    assert (field.flagged, field.threshold) == (False, OWN["attack"].flag)
    # And a request's attack has nothing to do with it.
    asked = bands.settle(FIRST, SECOND, OWN)
    assert asked.limits(OWN)["attack"] == Thresholds(0.6, 0.9)


def test_questions_beside_the_first_are_weighed_by_themselves():
    bands = replace(
        BANDS,
        kept=frozenset(),
        weighed={"attack": Weighing(1.0, 0.0, 0.0, TOGETHER)},
    )
    toxic = [replace(f, categories={"toxicity": s}) for f, s in ((FIRST, 0.2), (SECOND, 0.6))]
    found = bands.settle(toxic[0], toxic[1], OWN)
    assert found.attack == pytest.approx(FIRST.attack)
    assert found.overall == SECOND.overall
    # No share of what is unsafe: it is as it was.
    assert found.categories == {"toxicity": 0.6}


def test_a_cascade_has_one_set_of_thresholds_whatever_is_asked():
    heads = ("prompt", "response", "toxicity", "attack", "refusal", "severity", "hate")
    own = {name: Thresholds(0.3, 0.6) for name in (*heads, "self-harm")}
    theirs = {name: Thresholds(0.5, 0.9) for name in heads if name != "refusal"}
    weighed = {name: Weighing(0.5, 0.5, 0.0, TOGETHER) for name in heads}
    bands = replace(BANDS, kept=frozenset({"self-harm", "toxicity"}), weighed=weighed)
    told = SECOND.second
    assert told is not None
    found = [
        bands.settle(
            replace(FIRST, question=question, attack=attack),
            replace(
                SECOND, question=question, attack=attack, second=replace(told, thresholds=theirs)
            ),
            own,
        ).second
        for question, attack in (("prompt", 0.1), ("response", None), ("toxicity", 0.2))
    ]
    assert [one and one.thresholds for one in found] == 3 * [
        {
            **dict.fromkeys(("prompt", "response", "toxicity", "attack", "severity"), TOGETHER),
            # A category is a share of what is weighed, and whose thresholds are kept is told.
            "hate": theirs["hate"],
            "self-harm": own["self-harm"],
        }
    ]


def test_figures_that_a_file_tells_beside_make_no_other_version(tmp_path: Path):
    raw = {"first": 0.4, "second": 0.6, "bias": 0.1, "flag": 0.4, "block": 0.7}
    versions = []
    for told in ({}, {"f1": 0.9, "alarms": 0.1}, {"flag": 0.3}):
        write_bands(tmp_path, "0" * 64, "1" * 64, weighed={"prompt": raw | told})
        versions.append(load_bands(tmp_path).version)
    assert versions[0] == versions[1] != versions[2]


def test_evidence_is_the_first_ones_where_it_has_any():
    def words(text: str, category: str) -> Evidence:
        return Evidence(0, len(text), text, category, 0.9, "text")

    word, other = words("goose", "unsafe"), words("silly", "hate")
    sentence = words("you goose", "unsafe")
    found = BANDS.settle(
        replace(FIRST, evidence=(word,)), replace(SECOND, evidence=(sentence, other)), OWN
    )
    assert found.evidence == (word, other)


def test_weights_are_read_with_their_sensitivities(tmp_path: Path):
    raw = {"first": 0.4, "second": 0.6, "bias": 0.1, "flag": 0.4, "block": 0.7}
    sets = {"strict": {"flag": 0.3, "block": 0.6}, "loose": {"flag": 0.5, "block": 0.8}}
    write_bands(tmp_path, "0" * 64, "1" * 64, weighed={"prompt": raw | {"sensitivities": sets}})
    how = load_bands(tmp_path).weighed["prompt"]
    assert (how.first, how.second, how.bias) == (0.4, 0.6, 0.1)
    expected = CalibratedThresholds(0.4, 0.7, Thresholds(0.3, 0.6), Thresholds(0.5, 0.8))
    assert how.thresholds == expected
    write_bands(tmp_path, "0" * 64, "1" * 64, weighed={"prompt": raw | {"first": -1}})
    with pytest.raises(BundleError, match="weights of prompt"):
        load_bands(tmp_path)
    write_bands(tmp_path, "0" * 64, "1" * 64, weighed={"prompt": {"first": 1}})
    with pytest.raises(BundleError, match="'second' is missing"):
        load_bands(tmp_path)
