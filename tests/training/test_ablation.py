import json
from pathlib import Path
from typing import Any

import pytest

from training.evaluation import ablation

DOCS = Path(__file__).parents[2] / "docs"


def figures(value: float | None) -> dict[str, Any]:
    return dict.fromkeys(("f1", "recall", "fpr", "auprc"), value) | {"n": 4, "positives": 2}


def evaluated(value: float) -> dict[str, Any]:
    training = {
        "steps": 3,
        "rows": {"train": 1234},
        "seconds": 7,
        "peak_memory_mb": 99,
        "data_sha256": "a" * 64,
        "best": {"quality": value},
    }
    return {
        "about": {"date": "2026-01-01", "machine": "a machine", "training": training},
        "sets": {name: figures(value) for name in ablation.PROMPTS},
        "categories": {"catqa": {"cyber": {"positives": 2, "f1": value, "recall": None}}},
    }


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    for name, value in (("base-0", 0.5), ("base-1", 0.6), ("synth-0", 0.7), ("other", 0.1)):
        (tmp_path / f"{name}.eval.json").write_text(json.dumps(evaluated(value)))
    unseen = {"sets": {"elsewhere.prompt": figures(0.4)}}
    (tmp_path / "base-1.unseen.json").write_text(json.dumps(unseen))
    return ablation.collect(tmp_path)


def test_runs_are_collected_by_name_and_seed(runs):
    assert {name: [run["seed"] for run in found] for name, found in runs.items()} == {
        "base": [0, 1],
        "synth": [0],
    }
    assert runs["base"][1]["unseen"]["elsewhere.prompt"]["auprc"] == 0.4
    assert runs["base"][0]["unseen"] == {}


def test_a_row_shows_the_spread_of_its_seeds_and_one_seed_shows_none(runs):
    lines = ablation.table(runs, ablation.PROMPTS).splitlines()
    base = next(line for line in lines if line.startswith("| base |"))
    synthesis = next(line for line in lines if line.startswith("| + synthesis |"))
    assert base.startswith("| base | 2 | 55.0 ± 7.1 |")
    assert "±" not in synthesis
    assert "| 70.0 |" in synthesis
    others = [line for line in lines if line.startswith("| *")]
    assert others
    # What is published of responses alone has no row among prompts.
    assert all(any(cell.strip() for cell in line.split("|")[3:]) for line in others)


def test_unseen_sets_and_categories_and_costs(runs):
    assert "| base | 60.0 | 40.0 | 40.0 |" in ablation.unseen_table(runs)
    assert "| catqa | cyber | 2 | 55.0 ± 7.1 | – | 70.0 | – |" in ablation.category_table(
        runs, "base", "synth"
    )
    stage = {"stage": "clean", "what": "rows", "seconds": 12.4, "peak_memory_mb": 1500}
    costs = ablation.cost_table(runs, [stage])
    assert "| `clean` | rows | 12 | 1,500 |" in costs
    assert "| `train classifier` | base: 3 steps, 1,234 rows | 7 | 99 |" in costs


def test_the_page_is_what_its_measurements_say():
    assert (DOCS / "ablation.md").read_text() == ablation.render(DOCS / "measurements") + "\n"
