"""Categories of a policy's own: as rules, in verdicts, and as what is to be said of an item."""

from pathlib import Path

import pytest
import yaml

from tamis.deciding import breach, decide
from tamis.policies.parsing import check_unscored, load_policies, parse_policy
from tamis.policy import PolicyError, Thresholds
from tamis.reasoner.protocol import Guideline
from tamis.verdict import Action, Finding, Provenance, Ruled, Second, Severity

OWN = {name: Thresholds(0.5, 0.9) for name in ("prompt", "response", "toxicity", "attack", "hate")}
WHO = Provenance("m", "f", "p", "v")
BY = Second(
    "encoder",
    "e",
    {"prompt": Thresholds(0.4, 0.8), "response": Thresholds(0.6, 0.9)},
    "rules",
)
TEA, LOAN = Guideline("tea", "Speaks of tea."), Guideline("loan", "Promises a loan.")
RAW = {"tea": {"definition": TEA.definition}, "loan": {"definition": LOAN.definition}}
POLICY = parse_policy({"name": "p", "categories": RAW | {"hate": {}, "attack": {}}})


def finding(tea: float, loan: float = 0.0, question: str = "prompt", **more: object) -> Finding:
    given = {"overall": 0.0, "categories": {"hate": 0.0}, "attack": None, "field": question} | more
    ruled = Ruled(BY, {TEA: tea, LOAN: loan})
    return Finding(question=question, windows=1, tokens=3, ruled=ruled, **given)


def test_a_policys_rules_are_its_own_categories():
    assert POLICY.rules == (TEA, LOAN)
    assert parse_policy({"name": "p", "categories": {"hate": {}}}).rules == ()
    assert [one.name for one in POLICY.guidelines] == ["tea", "loan", "hate"]


@pytest.mark.parametrize(("score", "action"), [(0.39, "allow"), (0.4, "flag"), (0.8, "block")])
def test_a_rule_acts_by_the_encoders_thresholds_for_what_is_judged(score, action):
    verdict = decide([finding(score)], POLICY, OWN, WHO)
    assert verdict.action == action
    assert verdict.categories["tea"].threshold == 0.4
    assert list(verdict.categories) == ["tea", "loan", "hate"]
    assert verdict.encoder == Provenance("encoder", "e", "p", "v")
    assert verdict.severity is Severity.SAFE
    other = decide([finding(score, question="response")], POLICY, OWN, WHO)
    assert other.categories["tea"].threshold == 0.6


def test_a_policys_own_thresholds_go_before_the_encoders():
    rule = RAW["tea"] | {"flag": 0.2, "block": 0.3}
    policy = parse_policy({"name": "p", "categories": {"tea": rule}, "overall": {}})
    verdict = decide([finding(0.25)], policy, OWN, WHO)
    assert verdict.action is Action.FLAG
    assert verdict.fields["prompt"].action is Action.FLAG


def test_a_refusal_may_break_a_rule():
    own = OWN | {"refusal": Thresholds(0.5, 0.8)}
    declines = finding(0.95, question="response", overall=0.9, refusal=0.99)
    verdict = decide([declines], POLICY, own, WHO)
    assert verdict.categories["tea"].score == 0.95
    assert verdict.action is Action.BLOCK


def test_without_an_encoder_nothing_is_said_of_rules():
    plain = Finding("prompt", 0.1, {"hate": 0.1}, None, windows=1, tokens=3)
    verdict = decide([plain], POLICY, OWN, WHO)
    assert list(verdict.categories) == ["hate"]
    assert verdict.encoder is None


def test_what_is_broken_most_is_spoken_of():
    found = breach([finding(0.5), finding(0.95, 0.7, "response")], POLICY, OWN)
    assert found is not None
    assert (found.at, found.broken, found.category) == (1, True, "tea")
    assert found.probability == 0.95
    assert found.scores == {"tea": 0.95, "loan": 0.7, "hate": 0.0}


def test_what_breaks_nothing_is_spoken_of_where_it_came_closest():
    found = breach([finding(0.1), finding(0.3, question="response")], POLICY, OWN)
    assert found is not None
    assert (found.at, found.broken, found.category) == (1, False, None)


def test_a_broken_content_goes_before_one_that_comes_close():
    low = {"tea": RAW["tea"] | {"flag": 0.1}, "loan": RAW["loan"] | {"flag": 0.99}}
    policy = parse_policy({"name": "p", "categories": low})
    found = breach([finding(0.0, 0.98), finding(0.11)], policy, OWN)
    assert found is not None
    assert (found.at, found.category) == (1, "tea")


def test_what_the_overall_question_finds_is_spoken_of_as_what_it_is_likeliest():
    policy = parse_policy({"name": "p", "overall": {}, "categories": RAW | {"hate": {}}})
    unsafe = finding(0.1, overall=0.7, categories={"hate": 0.3})
    found = breach([unsafe], policy, OWN)
    assert found is not None
    assert (found.broken, found.category, found.probability) == (True, "hate", 0.7)


def test_nothing_is_said_of_attacks_documents_and_nothing():
    attack = finding(0.1, attack=0.99)
    found = breach([attack], POLICY, OWN)
    assert found is not None
    assert (found.broken, found.category) == (False, None)
    assert "attack" not in found.scores
    document = Finding("attack", 0.99, {}, 0.99, windows=1, tokens=3)
    empty = Finding("prompt", 0.0, {}, None, windows=0, tokens=0)
    assert breach([document, empty], POLICY, OWN) is None


def test_what_nobody_scores_has_no_thresholds_and_no_trial(tmp_path: Path):
    check_unscored(POLICY, "here")
    limits = RAW["tea"] | {"flag": 0.3}
    own = {"name": "own", "categories": {"tea": limits}}
    with pytest.raises(PolicyError, match=r"here: category 'tea' is your own"):
        check_unscored(parse_policy(own), "here")
    trial = {"name": "trial", "overall": {}, "shadow": "own"}
    for raw in (own, trial):
        (tmp_path / f"{raw['name']}.yaml").write_text(yaml.safe_dump(raw))
    assert set(load_policies(tmp_path, encoded=True)) == {"own", "trial"}
    with pytest.raises(PolicyError, match=r"own\.yaml: category 'tea' is your own"):
        load_policies(tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own", "categories": RAW}))
    with pytest.raises(PolicyError, match="no score"):
        load_policies(tmp_path)
