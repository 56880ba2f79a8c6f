"""Sets of rows that a permissive model may not learn from."""

from pathlib import Path

import pytest

from tests.conftest import row, write_rows
from training.datasets.schema import read_rows
from training.evaluation import unseen


def test_a_file_that_holds_one_label_after_the_other_is_drawn_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unseen, "MOST", 40)
    (tmp_path / "data").mkdir()
    rows = [
        row(n, "davidson", "text", int(n >= 60), f"post {n}", licence="non-commercial")
        for n in range(120)
    ]
    write_rows(tmp_path / "data" / "rows.jsonl.gz", rows)
    assert unseen.write(tmp_path / "data", tmp_path / "out") == {"davidson.text": 40}
    (file,) = (tmp_path / "out").iterdir()
    assert sum(r.label for r in read_rows(file)) == 20
