import copy

from training.datasets.schema import Row
from training.evaluation.report import render
from training.evaluation.suite import SetResult, question_of, table

RESULTS = {
    "bundle": "f" * 64,
    "about": {"name": "m", "licence": "L", "date": "2026-01-01", "machine": "2 cores"},
    "sets": {
        "oktest": SetResult("overall", 350, 0, None, None, None, 0.04, None, None, None).as_json(),
        "hatecheck": SetResult("overall", 9, 4, 0.6, 0.5, 0.75, 0.1, 0.8, 0.9, 0.6).as_json(),
    },
    "categories": {"hatecheck": {"hate": {"positives": 4, "f1": 0.5, "recall": 0.4}}},
}


def test_gains_over_the_pilot_count_false_positives_backwards():
    text = render(RESULTS, copy.deepcopy(RESULTS))
    assert "| oktest | fpr | 0.10 | 0.040 | +0.060 |" in text
    assert "| hatecheck | f1 | 0.49 | 0.600 | +0.110 |" in text
    assert "| **mean of 3** | | | | **+0.063** |" in text
    assert "| hatecheck | hate | 4 | 0.500 | 0.400 | 0.500 | 0.400 |" in text
    assert "bundle `ffffffffffff`, 2026-01-01" in text


def test_the_table_shows_a_dash_where_there_is_no_figure():
    lines = table(RESULTS).splitlines()
    assert lines[1].split() == ["oktest", "overall", "350", "0", *"---", "0.040", *"---"]


def test_a_set_of_one_category_is_judged_by_that_category():
    def row(source: str, label: int, *categories: str) -> Row:
        return Row("1", source, "prompt", label, "text", None, categories, None)

    jailbreaks = [row("llm_warden_test", 1, "jailbreak"), row("llm_warden_test", 0)]
    assert question_of(jailbreaks) == "attack"
    mixed = [row("catqa", 1, "Fraud/Deception"), row("catqa", 1, "Adult Content")]
    assert question_of(mixed) == "overall"
    assert question_of([row("unheard_of", 1, "x"), row("unheard_of", 0)]) == "overall"
    assert question_of([row("oktest", 0)]) == "overall"
