from tamis.policy import Policy, Thresholds, default_policy
from tamis.verdict import Action, Evidence, Finding, Provenance, decide

OWN = {
    name: Thresholds(0.5, 0.9)
    for name in ("prompt", "response", "toxicity", "attack", "hate", "violence")
}
WHO = Provenance("m", "f", "p", "v")


def finding(question: str = "prompt", overall: float = 0.0, **more: object) -> Finding:
    given = {"categories": {}, "attack": None, "windows": 1, "tokens": 3} | more
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
    policy = Policy.parse({"name": "x", "categories": {"violence": {"flag": 0.3, "block": 0.6}}})
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
