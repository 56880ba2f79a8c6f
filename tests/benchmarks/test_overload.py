"""The overload's benchmark measures the tiers that are there, and says which are not."""

import json
from pathlib import Path

from benchmarks import overload, record
from tamis.bundle import Bundle
from tamis.tiers import Companion


def test_what_is_refused_is_told_from_what_is_late(bundle: Bundle, tmp_path: Path, monkeypatch):
    for name, value in {"SECONDS": 2, "SATURATING": 1, "FACTOR": 6}.items():
        monkeypatch.setattr(overload, name, value)
    monkeypatch.setattr(overload, "ACCURATE", Companion("none", "TAMIS_ACCURATE"))
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    found = overload.run(bundle.path)
    ((row,),) = found.tables
    assert row["tier"] == "fast"
    assert row["offered"] > row["goodput"] > 0
    assert 0 < row["refused p50"] <= row["refused p95"] <= row["refused p99"]
    assert row["sent late p99"] >= 0
    assert "429: " in " ".join(found.notes)
    assert any("are left out" in note for note in found.notes)
    assert json.loads((tmp_path / "overload.json").read_text())["tables"] == found.tables
