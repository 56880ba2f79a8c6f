import json
import shutil
from pathlib import Path

from training.reasoner.report import PAGE, render

MEASURED = PAGE.parent / "measurements" / "reasoner"


def test_the_page_is_what_was_measured():
    assert PAGE.read_text(encoding="utf-8") == render(MEASURED)


def test_a_page_of_an_encoder_alone_has_no_older_rows(tmp_path: Path):
    for name in ("tamis-policy-22m-more.json", "findings.md"):
        shutil.copy(MEASURED / name, tmp_path)
    found = json.loads((MEASURED / "calibration.json").read_text())
    (tmp_path / "calibration.json").write_text(json.dumps(found | {"after": None}))
    page = render(tmp_path)
    assert "## Encoder: taxonomies never trained on" in page
    assert "## The runs" not in page
    assert "older rows\n" not in page
    assert f"| log loss | {found['before']['log_loss']} | – |" in page
