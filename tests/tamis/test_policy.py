from pathlib import Path

import pytest

from tamis.policies.parsing import default_policy, load_policies, load_policy, parse_policy
from tamis.policy import CalibratedThresholds, PolicyError, Rule, Thresholds
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
        *[
            (
                {"name": "x", "categories": {label: {"definition": "Tea."}}},
                f"category '{label}': safe",
            )
            for label in ("safe", "borderline", "unsafe")
        ],
        ({"name": "x", "categories": {"hate": {"flags": 1}}}, "unknown field 'flags'"),
        ({"name": "x", "categories": {"hate": {"flag": 0}}}, "'flag' must be a number above 0"),
        ({"name": "x", "categories": {"hate": {"flag": True}}}, "'flag' must be a number"),
        ({"name": "x", "categories": {"hate": {"flag": 0.9, "block": 0.5}}}, "must not be above"),
        ({"name": "x", "overall": {}, "categroies": {}}, "unknown field 'categroies'"),
        ({"name": "x", "categories": {"hate": {"definition": 3}}}, "'definition'"),
        (
            {"name": "x", "overall": {}, "sensitivity": "high"},
            "'sensitivity' must be one of strict",
        ),
        ({"name": "x", "overall": {}, "severity": "flag"}, "'severity' must be a mapping"),
        ({"name": "x", "overall": {}, "severity": {"unsafe": "flag"}}, "unknown field 'unsafe'"),
        ({"name": "x", "overall": {}, "severity": {"borderline": "stop"}}, "must be one of allow"),
        ({"name": "x", "overall": {}, "judge": "response"}, "'judge' must be a list of prompt"),
        ({"name": "x", "overall": {}, "judge": []}, "'judge' must be a list of prompt, response"),
        ({"name": "x", "overall": {}, "judge": ["answer"]}, "'judge' must be a list of prompt"),
    ],
)
def test_faults_are_refused_by_name(raw: object, message: str):
    with pytest.raises(PolicyError, match=message):
        parse_policy(raw)


def test_the_version_changes_with_the_content_and_only_with_it():
    def version(flag: float) -> str:
        return parse_policy({"name": "x", "categories": {"hate": {"flag": flag}}}).version

    assert version(0.4) == version(0.4)
    assert version(0.4) != version(0.5)


def test_versions_from_before_a_field_hold_as_long_as_it_is_left_alone():
    def version(**more: object) -> str:
        raw = {"name": "x", "categories": {"hate": {"flag": 0.4}}}
        return parse_policy(raw | more).version

    # Of the release before sensitivity, severity and judge came.
    assert version() == "1fe372fa7faf"
    assert (
        version(sensitivity="balanced", severity={"borderline": "allow"}, judge=None) == version()
    )
    changed = [
        version(sensitivity="strict"),
        version(sensitivity="loose"),
        version(severity={"borderline": "flag"}),
        version(judge=["response"]),
        version(judge=["prompt", "response"]),
    ]
    assert len({version(), *changed}) == 6
    assert version(judge=["response", "prompt"]) == changed[-1]


def test_the_sensitivity_fills_what_the_rules_leave_open():
    own = CalibratedThresholds(0.5, 0.8, strict=Thresholds(0.3, 0.6), loose=Thresholds(0.7, 0.95))
    assert [own.at(s) for s in ("strict", "loose")] == [own.strict, own.loose]
    assert (own.at("balanced").flag, own.at("balanced").block) == (0.5, 0.8)
    assert Rule(flag=0.4).resolve(own.at("strict")) == Thresholds(0.4, 0.6)
    plain = Thresholds(0.5, 0.9)
    assert plain.at("strict") == plain.at("loose") == plain


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


def test_a_description_that_was_left_empty_is_none():
    assert parse_policy({"name": "n", "overall": {}, "description": None}).description == ""


def test_an_overall_question_that_is_null_is_not_asked():
    rules = {"name": "n", "categories": {"hate": {}}}
    assert parse_policy(rules | {"overall": None}) == parse_policy(rules)
    with pytest.raises(PolicyError, match="at least one category or 'overall'"):
        parse_policy({"name": "n", "overall": None})


def test_a_file_says_whether_it_asks_the_overall_question(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    for nothing in ("", " null", " ~"):
        path.write_text(f"name: n\ncategories: {{hate: }}\noverall:{nothing}\n")
        with pytest.raises(PolicyError, match=r"mine.yaml: field 'overall' has nothing behind it"):
            load_policy(path)
    path.write_text("name: n\ncategories: {hate: }\noverall: {}\n")
    assert load_policy(path).overall == Rule()


def test_policies_of_a_folder_by_name(tmp_path: Path):
    (tmp_path / "strict.yaml").write_text("name: strict\ncategories: {hate: {flag: 0.1}}\n")
    assert load_policies(tmp_path)["strict"].categories["hate"].flag == 0.1
    (tmp_path / "twin.yaml").write_text("name: strict\noverall: {}\n")
    with pytest.raises(PolicyError, match=r"twin.yaml: a policy named 'strict' exists"):
        load_policies(tmp_path)
    twice = "name: a\ncategories:\n  hate: {flag: 0.1}\n  hate: {}\n"
    (tmp_path / "twin.yaml").write_text(twice)
    with pytest.raises(PolicyError, match=r"twin.yaml: not YAML: 'hate' stands twice\n.*line 4"):
        load_policies(tmp_path)
    (tmp_path / "twin.yaml").write_text("name: [unclosed\n")
    with pytest.raises(PolicyError, match=r"twin.yaml: not YAML"):
        load_policies(tmp_path)
