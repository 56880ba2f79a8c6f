import pytest

from tamis.deciding import decide, withhold
from tamis.policies.parsing import default_policy, parse_policy
from tamis.policy import CalibratedThresholds, Thresholds
from tamis.verdict import Action, Evidence, Finding, Provenance, Severity

OWN = {
    name: Thresholds(0.5, 0.9)
    for name in ("prompt", "response", "toxicity", "attack", "hate", "violence")
}
WHO = Provenance("m", "f", "p", "v")


# A bundle that knows refusals and severities; a refusal is sure from 0.8 on.
KNOWING = OWN | {"refusal": Thresholds(0.5, 0.8), "severity": Thresholds(0.4, 0.9)}


def finding(question: str = "prompt", overall: float = 0.0, **more: object) -> Finding:
    given = {"categories": {}, "attack": None, "windows": 1, "tokens": 3, "field": question} | more
    return Finding(question, overall, **given)


def test_nothing_found_is_allowed():
    verdict = decide([], default_policy(), OWN, WHO)
    assert (verdict.flagged, verdict.action, verdict.score) == (False, Action.ALLOW, 0.0)


def test_the_overall_question_flags_and_blocks():
    for score, action in ((0.49, "allow"), (0.5, "flag"), (0.9, "block")):
        assert decide([finding(overall=score)], default_policy(), OWN, WHO).action == action


def test_a_category_is_flagged_only_along_with_the_overall_question():
    low = finding(overall=0.4, categories={"hate": 0.6})
    assert not decide([low], default_policy(), OWN, WHO).flagged
    high = decide([finding(overall=0.7, categories={"hate": 0.6})], default_policy(), OWN, WHO)
    assert high.categories["hate"].flagged


def test_toxicity_and_attack_need_no_company():
    verdict = decide(
        [finding(overall=0.1, categories={"toxicity": 0.95}, attack=0.6)],
        default_policy(),
        OWN,
        WHO,
    )
    assert verdict.action is Action.BLOCK
    assert verdict.attack is not None
    assert verdict.attack.flagged


def test_a_policy_without_the_overall_question_looks_at_its_categories_alone():
    policy = parse_policy({"name": "x", "categories": {"violence": {"flag": 0.3, "block": 0.6}}})
    found = finding(overall=0.99, categories={"hate": 0.99, "violence": 0.2})
    assert not decide([found], policy, OWN, WHO).flagged
    found = finding(overall=0.2, categories={"violence": 0.35})
    verdict = decide([found], policy, OWN, WHO)
    assert (verdict.action, list(verdict.categories)) == (Action.FLAG, ["violence"])


def test_of_two_contents_the_one_further_above_its_threshold_speaks():
    own = OWN | {"prompt": Thresholds(0.7, 0.9), "response": Thresholds(0.3, 0.6)}
    verdict = decide([finding("prompt", 0.5), finding("response", 0.4)], default_policy(), own, WHO)
    assert (verdict.flagged, verdict.score, verdict.threshold) == (True, 0.4, 0.3)


def test_evidence_is_shown_for_what_is_flagged():
    spans = [Evidence(0, 1, "a", name, 0.9, "prompt") for name in ("unsafe", "hate", "violence")]
    found = finding(overall=0.8, categories={"hate": 0.7, "violence": 0.1}, evidence=spans)
    verdict = decide([found], default_policy(), OWN, WHO)
    assert {e.category for e in verdict.evidence} == {"unsafe", "hate"}
    assert not decide([finding(evidence=spans)], default_policy(), OWN, WHO).evidence


def test_every_content_is_judged_on_its_own_and_the_item_is_as_bad_as_its_worst():
    asked, answered = finding("prompt", 0.95), finding("response", 0.1)
    verdict = decide([asked, answered], default_policy(), OWN, WHO)
    assert list(verdict.fields) == ["prompt", "response"]
    mine, its = verdict.fields["prompt"], verdict.fields["response"]
    assert (mine.flagged, mine.action, mine.severity) == (True, Action.BLOCK, Severity.UNSAFE)
    assert (its.flagged, its.action, its.severity) == (False, Action.ALLOW, Severity.SAFE)
    assert (its.score, its.threshold) == (0.1, 0.5)
    assert (verdict.action, verdict.severity) == (Action.BLOCK, Severity.UNSAFE)
    alone = decide([answered], default_policy(), OWN, WHO)
    assert (alone.action, alone.fields) == (Action.ALLOW, {"response": its})


def test_what_is_flagged_besides_the_overall_question_is_its_fields_own():
    asked = finding("prompt", 0.1, attack=0.95)
    verdict = decide([asked, finding("response", 0.1)], default_policy(), OWN, WHO)
    assert [field.action for field in verdict.fields.values()] == [Action.BLOCK, Action.ALLOW]
    assert verdict.action is Action.BLOCK
    assert verdict.severity is Severity.SAFE


def test_a_category_needs_the_company_of_its_own_field():
    asked = finding("prompt", 0.7, categories={"hate": 0.1, "violence": 0.6})
    answered = finding("response", 0.45, categories={"hate": 0.44, "violence": 0.0})
    policy = parse_policy(
        {"name": "x", "overall": {}, "categories": {"hate": {"flag": 0.4}, "violence": {}}}
    )
    verdict = decide([asked, answered], policy, OWN, WHO)
    assert (verdict.categories["hate"].score, verdict.categories["hate"].flagged) == (0.44, False)
    assert verdict.categories["violence"].flagged
    spans = [Evidence(0, 1, "a", "unsafe", 0.9, name) for name in ("prompt", "response")]
    read = [
        finding("prompt", 0.7, evidence=spans[:1]),
        finding("response", 0.45, evidence=spans[1:]),
    ]
    assert [e.field for e in decide(read, policy, OWN, WHO).evidence] == ["prompt"]


@pytest.mark.parametrize(
    ("overall", "severity", "expected"),
    [(0.1, 0.39, "safe"), (0.1, 0.4, "borderline"), (0.5, 0.0, "unsafe"), (0.5, 1.0, "unsafe")],
)
def test_severity_is_of_three(overall: float, severity: float, expected: str):
    found = finding("prompt", overall, severity=severity)
    verdict = decide([found], default_policy(), KNOWING, WHO)
    assert verdict.severity == verdict.fields["prompt"].severity == expected
    # Alone it changes nothing about what is done.
    assert verdict.flagged == (overall >= 0.5)
    # A policy that does not ask the overall question is told as well, by the bundle's threshold.
    policy = parse_policy({"name": "x", "categories": {"violence": {}}})
    verdict = decide([found], policy, KNOWING, WHO)
    assert (verdict.severity, verdict.flagged) == (expected, False)


def test_a_bundle_without_the_head_knows_safe_and_unsafe_only():
    for score, expected in ((0.49, Severity.SAFE), (0.5, Severity.UNSAFE)):
        assert decide([finding(overall=score)], default_policy(), OWN, WHO).severity is expected


@pytest.mark.parametrize("act", ["allow", "flag", "block"])
def test_a_policy_may_act_on_what_is_borderline(act: str):
    policy = parse_policy({"name": "x", "overall": {}, "severity": {"borderline": act}})
    spans = (Evidence(0, 1, "a", "borderline", 0.9, "prompt"),)
    found = finding("prompt", 0.2, severity=0.7, evidence=spans)
    verdict = decide([found], policy, KNOWING, WHO)
    assert verdict.action == verdict.fields["prompt"].action == act
    assert verdict.flagged == (act != "allow")
    assert list(verdict.evidence) == (list(spans) if act != "allow" else [])
    # It is no excuse for what is worse than borderline.
    assert decide([finding("prompt", 0.95)], policy, KNOWING, WHO).action is Action.BLOCK


@pytest.mark.parametrize("rules", [{"overall": {}}, {"categories": {"hate": {}}}])
@pytest.mark.parametrize("act", ["flag", "block"])
def test_what_is_worse_than_borderline_fares_no_better(rules: dict[str, object], act: str):
    policy = parse_policy({"name": "x", "severity": {"borderline": act}} | rules)
    spans = (Evidence(0, 1, "a", "unsafe", 0.6, "prompt"),)
    found = finding("prompt", 0.6, severity=0.9, categories={"hate": 0.1}, evidence=spans)
    verdict = decide([found], policy, KNOWING, WHO)
    assert (verdict.action, verdict.severity) == (act, Severity.UNSAFE)
    assert list(verdict.evidence) == list(spans)


def answer(overall: float, refusal: float | None, **more: object) -> Finding:
    return finding("response", overall, refusal=refusal, **more)


def test_an_answer_is_unsafe_where_what_it_says_is_and_it_does_not_decline():
    found = answer(0.9, 0.95, categories={"hate": 0.6}, severity=0.9)
    verdict = decide([finding("prompt", 0.95), found], default_policy(), KNOWING, WHO)
    its = verdict.fields["response"]
    assert (its.action, its.severity, its.flagged) == (Action.ALLOW, Severity.SAFE, False)
    assert its.score == pytest.approx(0.9 * 0.05)
    assert its.refusal is not None
    assert (its.refusal.score, its.refusal.flagged) == (0.95, True)
    assert verdict.categories["hate"].score == pytest.approx(0.6 * 0.05)
    # The exchange speaks for its prompt, too.
    assert verdict.action is Action.BLOCK
    assert verdict.fields["prompt"].refusal is None


def test_what_declines_a_little_is_judged_by_what_it_says():
    its = decide([answer(0.99, 0.05)], default_policy(), KNOWING, WHO).fields["response"]
    assert its.score == pytest.approx(0.9405)
    assert its.action is Action.BLOCK
    # Nor is a sure one a pass: low thresholds still hear the response's own question.
    strict = parse_policy({"name": "x", "overall": {"flag": 0.1, "block": 0.4}})
    assert decide([answer(0.9, 0.85)], strict, KNOWING, WHO).action is Action.FLAG
    assert decide([answer(0.05, 0.0)], strict, KNOWING, WHO).score == 0.05


def test_a_bundle_that_does_not_know_refusals_says_nothing_of_them():
    its = decide([answer(0.9, None)], default_policy(), OWN, WHO).fields["response"]
    assert (its.refusal, its.score) == (None, 0.9)


def test_a_sensitivity_chooses_among_the_bundles_own_thresholds():
    own = OWN | {
        "prompt": CalibratedThresholds(0.5, 0.9, Thresholds(0.3, 0.7), Thresholds(0.8, 0.95)),
        "hate": CalibratedThresholds(0.5, 0.9, Thresholds(0.2, 0.7), Thresholds(0.6, 0.95)),
    }
    found = finding("prompt", 0.72, categories={"hate": 0.55})

    def judged(**more: object) -> tuple[str, float | None, bool]:
        policy = parse_policy({"name": "x", "overall": {}, "categories": {"hate": {}}} | more)
        verdict = decide([found], policy, own, WHO)
        return verdict.action, verdict.threshold, verdict.categories["hate"].flagged

    assert judged() == judged(sensitivity="balanced") == ("flag", 0.5, True)
    assert judged(sensitivity="strict") == ("block", 0.3, True)
    assert judged(sensitivity="loose") == ("allow", 0.8, False)
    # What a policy says itself wins.
    said = {"sensitivity": "loose", "overall": {"flag": 0.6}}
    assert judged(**said) == ("flag", 0.6, False)


def test_withheld_of_every_field():
    found = [finding("prompt", 0.95), finding("response", 0.6)]
    verdict = withhold(decide(found, default_policy(), OWN, WHO))
    assert (verdict.action, verdict.withheld) == (Action.ALLOW, Action.BLOCK)
    fields = verdict.fields.values()
    assert [(f.action, f.flagged, f.withheld) for f in fields] == [
        ("allow", False, "block"),
        ("allow", False, "flag"),
    ]
    assert verdict.severity is Severity.UNSAFE
