"""The scale, and how two scorings are compared."""

import json
from collections import Counter

import pytest
from scipy.stats import spearmanr

from tamis import perspective
from tamis.perspective import ATTRIBUTES, Scale, ScaleError, compare, scores_of
from tamis.verdict import Finding

SCALE = Scale({"toxicity": 2.0, "hate": -0.5}, 1.0, [(-4.0, 0.1), (0.0, 0.5), (6.0, 0.9)])


def test_a_scale_bends_a_weighted_sum():
    assert SCALE.value({"toxicity": 0.5, "hate": 0.5}) == pytest.approx(0.5 + 0.4 / 6)
    assert SCALE.value({"toxicity": 0.0, "hate": 0.5}) == 0.1
    assert SCALE.value({"toxicity": 1.0, "hate": 0.0}) == 0.9
    values = [SCALE.value({"toxicity": n / 100, "hate": 0.3}) for n in range(101)]
    assert values == sorted(values)
    with pytest.raises(KeyError):
        SCALE.value({"toxicity": 0.5})


def test_what_could_not_be_read_has_no_scores():
    read = Finding("toxicity", 0.5, {"toxicity": 0.5}, 0.25, windows=1, tokens=3, severity=0.75)
    assert scores_of(read) == {"toxicity": 0.5, "attack": 0.25, "severity": 0.75}
    unread = Finding("toxicity", 0.0, {}, 1.0, windows=0, tokens=0, transforms=("unreadable",))
    assert scores_of(unread) == {}


def test_the_shipped_bundle_has_its_scale(bundle):
    scales = perspective.load(bundle.path, bundle.fingerprint)
    assert set(scales) == set(ATTRIBUTES)
    for scale in scales.values():
        assert list(scale.knots) == sorted(scale.knots)
        assert [y for _, y in scale.knots] == sorted(y for _, y in scale.knots)
        assert scale.weights.keys() <= set(bundle.thresholds)
    with pytest.raises(ScaleError, match="another bundle"):
        perspective.load(bundle.path, "0" * 64)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "x"}', '{"bundle": 1}'])
def test_what_is_no_table_is_said_to_be_none(tmp_path, text):
    (tmp_path / "perspective.json").write_text(text)
    with pytest.raises(ScaleError, match=r"perspective\.json"):
        perspective.load(tmp_path, "0")
    table = {"format": perspective.FORMAT, "bundle": "0", "attributes": {"TOXICITY": {}}}
    (tmp_path / "perspective.json").write_text(json.dumps(table))
    with pytest.raises(ScaleError, match="KeyError"):
        perspective.load(tmp_path, "0")


def test_comparison_is_what_scipy_says_of_ranks_with_ties():
    ours = [0.1, 0.4, 0.4, 0.9, 0.6, 0.95, 0.2, 0.71]
    theirs = [0.2, 0.3, 0.5, 0.8, 0.5, 0.99, 0.1, 0.69]
    found = compare(ours, theirs)
    assert found.rank_correlation == pytest.approx(spearmanr(ours, theirs)[0])
    assert found.mean_difference == pytest.approx((sum(ours) - sum(theirs)) / 8)
    at = found.thresholds[0.7]
    assert (at.ours, at.theirs, at.agreement) == (3 / 8, 2 / 8, 7 / 8)
    chance = 3 / 8 * 2 / 8 + 5 / 8 * 6 / 8
    assert at.kappa == pytest.approx((7 / 8 - chance) / (1 - chance))


def test_comparison_of_the_same_and_of_nothing():
    same = compare([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert same.rank_correlation == pytest.approx(1)
    assert Counter(a.kappa for a in same.thresholds.values()) == {1.0: 3}
    assert compare([0.5, 0.5], [0.1, 0.2]).rank_correlation == 0
    with pytest.raises(ValueError, match="cannot compare 1 scores"):
        compare([0.1], [0.2])
