import pytest

from tamis.taxonomy import ATTACK, Rule, UnknownCategoryError, taxonomy

OPENAI = {
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
}


def test_crosswalks_are_total_and_name_only_our_categories():
    crosswalk = taxonomy().crosswalk
    assert set(crosswalk["openai"]) == OPENAI
    assert set(crosswalk["mlcommons"]) == {f"S{n}" for n in range(1, 15)}
    assert {"TOXICITY", "THREAT", "INSULT"} <= set(crosswalk["perspective"])
    assert set(crosswalk["azure"]) == {"Hate", "SelfHarm", "Sexual", "Violence"}
    assert {"hate_and_discrimination", "jailbreaking"} <= set(crosswalk["mistral"])
    for rules in crosswalk.values():
        for rule in rules.values():
            if rule is not None:
                taxonomy().check(rule.names)


def test_every_category_is_defined_in_one_sentence_and_reaches_openai_or_mlcommons():
    t = taxonomy()
    for name, definition in t.categories.items():
        assert definition.endswith(".")
        assert definition.count(". ") == 0
        reached = [r for s in t.crosswalk.values() for r in s.values() if r and name in r.names]
        assert reached, name
    assert ATTACK not in t.categories
    assert t.definition(ATTACK)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownCategoryError, match=r"'hat'.*hate"):
        taxonomy().check(["hat"])


def test_rules_take_the_highest_of_the_lowest():
    rule = Rule.parse("weapons | illicit & violence")
    assert rule.score({"weapons": 0.1, "illicit": 0.9, "violence": 0.4}) == 0.4
    assert rule.score({"illicit": 0.9, "violence": 0.4}) == 0.4
    assert rule.score({"illicit": 0.9}) is None
    assert rule.holds(["illicit", "violence"])
    assert not rule.holds(["illicit"])
