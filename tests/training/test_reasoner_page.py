from pathlib import Path

from training.reasoner.report import PAGE, render


def test_the_page_is_what_was_measured():
    assert PAGE.read_text(encoding="utf-8") == render(
        Path(__file__).parents[2] / "docs" / "measurements" / "reasoner"
    )
