from training.rules.page import sections

RULES = {
    "organisations": {
        "all": {"pairs": 200, "broken": 25, "ece": 0.031, "mean": 0.14, "at": {"0.5": 0.81}}
    }
}
STABLE = {
    "texts": 40,
    "removed": {"change": 0.0, "verdicts": 0.01, "categories": 0.02},
    "added": {"change": 0.0, "verdicts": 0.03, "categories": 0.04},
}
TOOK = {"cold p50": 5.0, "cold p95": 6.0, "warm p50": 4.0, "warm p95": 4.5}


def test_the_page_shows_what_was_measured_and_nothing_else():
    run = {
        "rules": RULES,
        "stability": STABLE,
        "milliseconds": [{"tokens": 50, "rules": 8, "question": "response"} | TOOK],
    }
    said = "\n".join(sections({"encoder": run, "decoder": {}}))
    assert (
        "| encoder | written organisations never trained on | all | 200 | 12.5 | 14.0 | 3.1 |"
        in (said)
    )
    assert "| all | 81.0 |" in said
    assert "| encoder | added | 40 | 0.0000 | 3.0 | 4.0 |" in said
    assert "| encoder | responses | 50 | 8 | 5.0 | 6.0 | 4.0 | 4.5 |" in said
    assert "decoder" not in said
    assert sections({"decoder": {}}) == []
