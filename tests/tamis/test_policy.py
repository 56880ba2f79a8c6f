from pathlib import Path

import pytest

from tamis.policy import Policy, PolicyError, Rule, Thresholds, default_policy, load_policies
from tamis.taxonomy import ATTACK, taxonomy


def test_the_default_policy_names_every_category_and_leaves_thresholds_to_the_bundle():
    policy = default_policy()
    assert set(policy.categories) == {*taxonomy().categories, ATTACK}
    assert policy.overall == Rule()
    assert all(rule == Rule() for rule in policy.categories.values())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "mapping"),
        ({"categories": {}}, "'name'"),
        ({"name": "x"}, "at least one category"),
        ({"name": "x", "categories": {"hatred": {}}}, "unknown category 'hatred'"),
        ({"name": "x", "categories": {"hate": {"flags": 1}}}, "unknown field 'flags'"),
        ({"name": "x", "categories": {"hate": {"flag": 0}}}, "'flag' must be a number above 0"),
        ({"name": "x", "categories": {"hate": {"flag": True}}}, "'flag' must be a number"),
        ({"name": "x", "categories": {"hate": {"flag": 0.9, "block": 0.5}}}, "must not be above"),
        ({"name": "x", "overall": {}, "categroies": {}}, "unknown field 'categroies'"),
        ({"name": "x", "categories": {"hate": {"definition": 3}}}, "'definition'"),
    ],
)
def test_faults_are_refused_by_name(raw: object, message: str):
    with pytest.raises(PolicyError, match=message):
        Policy.parse(raw)


def test_the_version_changes_with_the_content_and_only_with_it():
    def version(flag: float) -> str:
        return Policy.parse({"name": "x", "categories": {"hate": {"flag": flag}}}).version

    assert version(0.4) == version(0.4)
    assert version(0.4) != version(0.5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), Thresholds(0.4, 0.8)),
        (Rule(flag=0.9), Thresholds(0.9, 0.9)),
        (Rule(block=0.3), Thresholds(0.3, 0.3)),
        (Rule(flag=0.1, block=0.2), Thresholds(0.1, 0.2)),
    ],
)
def test_gaps_are_filled_from_the_bundle_and_block_is_never_below_flag(
    rule: Rule, expected: Thresholds
):
    assert rule.resolve(Thresholds(0.4, 0.8)) == expected


def test_policies_of_a_folder_by_name(tmp_path: Path):
    (tmp_path / "strict.yaml").write_text("name: strict\ncategories: {hate: {flag: 0.1}}\n")
    assert load_policies(tmp_path)["strict"].categories["hate"].flag == 0.1
    (tmp_path / "twin.yaml").write_text("name: strict\noverall: {}\n")
    with pytest.raises(PolicyError, match=r"twin.yaml: a policy named 'strict' exists"):
        load_policies(tmp_path)
    (tmp_path / "twin.yaml").write_text("name: [unclosed\n")
    with pytest.raises(PolicyError, match=r"twin.yaml: not YAML"):
        load_policies(tmp_path)
