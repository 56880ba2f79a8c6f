"""What a second opinion takes over from the first."""

from dataclasses import replace

from tamis.policy import Thresholds
from tamis.tiers import Bands
from tamis.verdict import Finding, Second

OWN = {name: Thresholds(0.3, 0.6) for name in ("prompt", "hate", "self-harm")}
THEIRS = {name: Thresholds(0.5, 0.9) for name in ("prompt", "hate")}
FIRST = Finding("prompt", 0.4, {"hate": 0.1, "self-harm": 0.2}, 0.0, 1, 9)
SECOND = Finding("prompt", 0.8, {"hate": 0.7}, 0.0, 1, 9, second=Second("other", "1" * 64, THEIRS))
BANDS = Bands("0" * 64, "1" * 64, {}, {}, frozenset({"self-harm"}))


def test_categories_are_of_the_bundle_that_tells_them_better():
    found = BANDS.settle(FIRST, SECOND, OWN)
    # Half of what the first one holds unsafe is self-harm, and the second one holds .8 unsafe.
    assert found.categories == {"hate": 0.7, "self-harm": 0.4}
    assert found.second is not None
    assert found.second.thresholds == THEIRS | {"self-harm": OWN["self-harm"]}
    assert replace(found, categories=SECOND.categories, second=SECOND.second) == SECOND


def test_a_second_opinion_stays_whole_where_nothing_is_kept():
    assert replace(BANDS, kept=frozenset()).settle(FIRST, SECOND, OWN) is SECOND
    # A post has no category of the prompt's, and an unread text none at all.
    assert BANDS.settle(replace(FIRST, categories={}), SECOND, OWN) is SECOND


def test_where_the_first_one_is_sure_of_nothing_there_is_no_share():
    nothing = replace(FIRST, overall=0.0, categories={"self-harm": 0.0})
    assert BANDS.settle(nothing, SECOND, OWN).categories["self-harm"] == 0.0
